//! Updates the summaries in the background, one tenant after the other. Until then the views count the changed rows directly.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::error::SyncError;
use crate::store::Store;
use crate::tenant::TenantId;

const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Never returns. Uses at most half of one processor of Postgres.
pub async fn keep_current(store: &Store) {
    loop {
        // The dispatcher logs an unavailable database.
        let _ = bring_up_to_date(store).await;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Updates each outdated tenant once.
pub async fn bring_up_to_date(store: &Store) -> Result<(), SyncError> {
    let mut last = TenantId(Uuid::nil());
    while let Some(tenant) = store.next_unsummarised(last).await? {
        let start = Instant::now();
        if let Err(error) = store.summarise(tenant).await {
            let diagnosis = error.diagnosis();
            tracing::warn!(tenant.id = %tenant, error = %error, class = diagnosis.class.as_str(), "Cannot write summaries; the views of all tenants are slower");
        }
        last = tenant;
        tokio::time::sleep(start.elapsed()).await;
    }
    Ok(())
}
