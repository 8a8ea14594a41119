//! Deletes what is older than the retention, at the end of a reconciliation: once a day, under its lease.

use tokio_util::sync::CancellationToken;

use crate::entra::Tenant;
use crate::error::SyncError;
use crate::store::Lease;
use crate::sync::page_fetcher::Services;
use crate::sync::retry::with_retries;

/// Limits the first deletion of a long history to a minute or two; the rest is deleted on the following days.
const BATCHES: usize = 100;

/// Deletes what is too old. A failure is logged and does not fail the run, whose rows are stored.
pub async fn apply(services: &Services, tenant: &Tenant, lease: &Lease, stop: &CancellationToken) {
    let Err(error) = delete(services, tenant, lease, stop).await else { return };
    // The next owner of the lease deletes it.
    if matches!(error, SyncError::Stopped | SyncError::LeaseLost) {
        return;
    }
    let diagnosis = error.diagnosis();
    tracing::error!(
        tenant.id = %tenant.id, tenant.name = tenant.name, class = diagnosis.class.as_str(), owner = diagnosis.owner.as_str(),
        advice = &*diagnosis.advice, error = %error,
        "Cannot delete rows older than [retention]; the next reconciliation retries"
    );
}

async fn delete(
    services: &Services,
    tenant: &Tenant,
    lease: &Lease,
    stop: &CancellationToken,
) -> Result<(), SyncError> {
    let store = &services.store;
    let retry_policy = services.retry_policy;
    let mut incidents = 0;
    if let Some(age) = tenant.retention.incidents {
        for _ in 0..BATCHES {
            let counts =
                with_retries(retry_policy, stop, || store.retain_incidents(lease, age)).await?;
            let Some(deleted) = counts.get("incidents") else { break };
            incidents += deleted;
        }
    }
    with_retries(retry_policy, stop, || store.retain_rest(lease, tenant.retention)).await?;
    if incidents > 0 {
        metrics::counter!("incident_sync_retention_deleted_total", "tenant" => tenant.name.clone())
            .increment(incidents);
        tracing::info!(tenant.id = %tenant.id, tenant.name = tenant.name, incidents, "Deleted old closed incidents");
    }
    Ok(())
}
