//! Moves a tenant to the source that the configuration names: proves its ids, then changes the source under the lease.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use crate::entra::Tenant;
use crate::error::{Owner, SyncError};
use crate::failpoint;
use crate::incident::decode;
use crate::incident::paging::Request;
use crate::incident::raw;
use crate::incident::window::{Window, floor_to_second};
use crate::store::Claim;
use crate::store::source::StoredExtent;
use crate::sync::page_fetcher::{PageFetcher, Services};
use crate::sync::retry::with_retries;
use crate::sync::source_proof::{self, Agreement};
use crate::tenant::Source;

/// Instances whose configurations differ would move a tenant to and fro with each run. After a move the other direction is
/// closed for this long, and the tenant is read from where it is.
const SETTLING: TimeDelta = TimeDelta::hours(1);

/// Incidents on a page of the proof: enough to meet stored alerts, few enough for a source that struggles with alerts.
const PROOF_ROWS: usize = 20;
/// The same after a page that the source could not serve.
const PROOF_ROWS_MIN: usize = 2;

/// The tenant as this run reads it: from the configured source, unless it was just moved away from that one.
pub(crate) fn tenant_of_run(tenant: Arc<Tenant>, claim: &Claim) -> Arc<Tenant> {
    if !is_settling(tenant.source(), claim) {
        return tenant;
    }
    tracing::warn!(
        tenant.id = %tenant.id, tenant.name = tenant.name, owner = Owner::Operator.as_str(),
        advice = "Set the same source in the configuration of all instances",
        "The configuration names source {}, but the tenant was moved to {} less than an hour ago; reading from {}",
        tenant.source().as_str(), claim.source.as_str(), claim.source.as_str()
    );
    Arc::new(tenant.read_from(claim.source))
}

fn is_settling(wanted: Source, claim: &Claim) -> bool {
    wanted != claim.source
        && claim.source_since.is_some_and(|since| claim.claimed_at - since < SETTLING)
}

/// Moves the tenant to the source that it is read from, if its data comes from the other one, and returns the claim as it is
/// then. Nothing is written unless the ids are proven.
pub(crate) async fn settle(
    services: &Services,
    tenant: &Tenant,
    claim: &Claim,
    pages: &PageFetcher<'_>,
) -> Result<Option<Claim>, SyncError> {
    if tenant.source() == claim.source {
        return Ok(None);
    }
    let never = CancellationToken::new();
    let store = &services.store;
    let look = || store.stored_extent(tenant.id);
    let stored = with_retries(services.retry_policy, &never, look).await?;
    let was_read = claim.watermark.is_some() || stored.newest.is_some();
    if was_read {
        prove(services, tenant, stored, pages).await?;
    }
    failpoint::reach("source.proven").await;
    let switch = || store.switch_source(claim, tenant.source(), was_read);
    let switched = with_retries(services.retry_policy, &never, switch).await?;
    failpoint::reach("source.switched").await;
    if was_read {
        tracing::info!(
            tenant.id = %tenant.id, tenant.name = tenant.name,
            "Tenant moved from source {} to {}", claim.source.as_str(), tenant.source().as_str()
        );
    }
    Ok(Some(switched))
}

/// Reads at most three pages of the tenant's source and compares the ids on them with the stored ones. Writes nothing.
pub async fn prove(
    services: &Services,
    tenant: &Tenant,
    stored: StoredExtent,
    pages: &PageFetcher<'_>,
) -> Result<(), SyncError> {
    let source = tenant.source();
    let (mut agreement, mut top, mut failure) = (Agreement::default(), PROOF_ROWS, None);
    for window in windows(stored.newest) {
        let page = match pages.sample(&Request::sample(source, window, top)).await {
            Ok(page) => page,
            // Another window may be served.
            Err(error) if error.smaller_page_may_help() || is_refused_query(&error) => {
                top = PROOF_ROWS_MIN;
                failure = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let elements = raw::newest_of_each(page.elements());
        let rows = decode::page_rows(tenant.id, source, &elements)?;
        let served = source_proof::served_identities(&rows);
        let ids: Vec<i64> = served.iter().map(|incident| incident.incident_id).collect();
        let look = || services.store.stored_identities(tenant.id, &ids);
        let known = with_retries(services.retry_policy, &CancellationToken::new(), look).await?;
        agreement = agreement.plus(source_proof::compare(source, &served, &known)?);
        if agreement.is_proof(stored) {
            return Ok(());
        }
    }
    Err(failure.unwrap_or_else(|| source_proof::nothing_compared(source, agreement)))
}

/// Where stored incidents are likely to be found: the last days of what is stored, the last month, everything.
fn windows(newest: Option<DateTime<Utc>>) -> Vec<Window> {
    let everything = Window { from: None, to: None, status: None };
    let Some(newest) = newest else { return vec![everything] };
    let before = |days| floor_to_second(newest - TimeDelta::days(days));
    let to = floor_to_second(newest) + TimeDelta::seconds(1);
    vec![
        Window { from: Some(before(3)), ..everything },
        Window { from: Some(before(30)), to: Some(to), ..everything },
        everything,
    ]
}

fn is_refused_query(error: &SyncError) -> bool {
    matches!(error, SyncError::Api { status: 400, .. })
}
