//! Keeps the summaries current, one tenant after the other, in the background: the views also count what is not summarized.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::error::SyncError;
use crate::store::Store;
use crate::tenant::TenantId;

const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Never ends. Takes at most half of one of Postgres's processors.
pub async fn keep_current(store: &Store) {
    loop {
        // The dispatcher logs an unavailable database.
        drop(bring_up_to_date(store).await);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Each tenant that needs it, once.
pub async fn bring_up_to_date(store: &Store) -> Result<(), SyncError> {
    let mut last = TenantId(Uuid::nil());
    while let Some(tenant) = store.next_unsummarised(last).await? {
        let started = Instant::now();
        if let Err(error) = store.summarise(tenant).await {
            let diagnosis = error.diagnosis();
            tracing::warn!(tenant.id = %tenant, error = %error, class = diagnosis.class.as_str(), "Cannot write summaries; the views of all tenants are slower");
        }
        last = tenant;
        tokio::time::sleep(started.elapsed()).await;
    }
    Ok(())
}
