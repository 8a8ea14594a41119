//! Tells the refusal of one tenant from the end of an API.

use tokio::time::Instant;
use uuid::Uuid;

use super::SyncEngine;
use crate::entra::Tenant;
use crate::error::{ErrorClass, Peer, SyncError};
use crate::store::Claim;
use crate::sync::source_breaker::Verdict;
use crate::sync::tenant_run::RunReport;
use crate::tenant::Source;

impl SyncEngine {
    /// Fails while the API seems retired, except for one run per interval.
    pub(super) fn check_source(&self, api: Source) -> Result<(), SyncError> {
        let is_permitted = self.sources.lock().entry(api).or_default().permits_run(Instant::now());
        if is_permitted { Ok(()) } else { Err(SyncError::ApiRetired { api }) }
    }

    /// Records the answer of the tenant's API, and replaces a refusal that is not the tenant's.
    pub(super) async fn judge_answer(
        &self,
        tenant: &Tenant,
        claim: &Claim,
        report: &mut RunReport,
        started: Instant,
    ) {
        let api = tenant.source();
        let Some(error) = &report.failure else {
            let answers_again =
                self.sources.lock().entry(api).or_default().record_success(tenant.id, started);
            if answers_again {
                self.report_answer(api).await;
            }
            return;
        };
        let SyncError::Api { status, .. } = *error else { return };
        if !error.may_mean_retirement() {
            return;
        }
        let was_served = claim.consecutive_failures == 0 && claim.watermark.is_some();
        let tenants = self.settings().enabled_of(api).len();
        let verdict = self.sources.lock().entry(api).or_default().record_refusal(
            tenant.id,
            was_served,
            tenants,
            Instant::now(),
        );
        match verdict {
            Verdict::Tenant => {}
            Verdict::Undecided => report.failure = Some(SyncError::ApiInDoubt { api, status }),
            Verdict::Retired { is_new } => {
                if is_new {
                    report_retirement(api, &error.to_string());
                    self.reclassify_refused(api).await;
                }
                report.failure = Some(SyncError::ApiRetired { api });
            }
        }
    }

    /// Tenants that were parked before the cause was known: their next run, which makes no call, corrects it.
    async fn reclassify_refused(&self, api: Source) {
        let refused: Vec<Uuid> = {
            let sources = self.sources.lock();
            sources
                .get(&api)
                .into_iter()
                .flat_map(|source| source.refused())
                .map(|id| id.0)
                .collect()
        };
        self.make_due(&refused).await;
    }

    async fn report_answer(&self, api: Source) {
        set_gauge(api, false);
        tracing::info!(
            source = api.as_str(),
            "{} serves tenants again; all of them are read",
            Peer::from(api)
        );
        self.make_due(&self.settings().enabled_of(api)).await;
    }

    async fn make_due(&self, tenants: &[Uuid]) {
        if let Err(error) = self.services.store.clear_parking(tenants).await {
            tracing::warn!(error = %error, "refused tenants were not made due; they are retried on schedule");
        }
    }

    /// After a restart, an API that seemed retired is tried with one tenant, not with all.
    pub(super) async fn resume_retired_sources(&self) {
        for api in [Source::Defender, Source::Graph] {
            set_gauge(api, false);
        }
        let store = &self.services.store;
        let looked = store.tenants_with_error(ErrorClass::ApiRetired);
        // The next claim reports an unreachable database.
        let Ok(refused) = self.bounded(store.dispatcher_wait(), Box::pin(looked)).await else {
            return;
        };
        for api in [Source::Defender, Source::Graph] {
            let enabled = self.settings().enabled_of(api);
            let tenants = refused.iter().filter(|tenant| enabled.contains(tenant)).count();
            if self.sources.lock().entry(api).or_default().resume(tenants) {
                report_retirement(api, "refused before the restart");
            }
        }
    }
}

/// The one line for all tenants.
fn report_retirement(api: Source, error: &str) {
    set_gauge(api, true);
    let diagnosis = SyncError::ApiRetired { api }.diagnosis();
    let class = diagnosis.class.as_str();
    let owner = diagnosis.owner.as_str();
    let advice = &*diagnosis.advice;
    tracing::error!(
        source = api.as_str(),
        class,
        owner,
        advice,
        error,
        "{} refuses every tenant and seems to be retired",
        Peer::from(api)
    );
}

fn set_gauge(api: Source, is_retired: bool) {
    metrics::gauge!("incident_sync_api_retired", "source" => api.as_str())
        .set(f64::from(is_retired));
}
