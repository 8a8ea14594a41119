//! The result of one tenant's run, its line in the log and its metrics.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::entra::Tenant;
use crate::error::{Diagnosis, ErrorClass, Owner};
use crate::store::Claim;
use crate::store::lease::RunKind;
use crate::store::runs::Outcome;
use crate::sync::tenant_run::{RunOptions, RunReport};

/// The metric of the duration of runs.
pub(crate) const RUN_DURATION: &str = "incident_sync_run_duration_seconds";

/// Its buckets in seconds: from a poll without changes to a first sync.
pub(crate) const DURATION_BOUNDS: [f64; 11] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

#[derive(Debug)]
pub struct TenantResult {
    pub tenant: Arc<Tenant>,
    pub report: RunReport,
    pub outcome: Outcome,
    /// The diagnosis of its error.
    pub diagnosis: Option<Diagnosis>,
    pub took: Duration,
}

impl TenantResult {
    /// The one line of a run in the log, and its metrics.
    pub(super) fn log(&self, claim: &Claim, options: RunOptions) {
        let Self { tenant, report, outcome, diagnosis, took } = self;
        let counts = &report.counts;
        let name = tenant.name.clone();
        metrics::counter!("incident_sync_runs_total", "outcome" => outcome.as_str(), "kind" => claim.kind.as_str())
        .increment(1);
        metrics::counter!("incident_sync_incidents_written_total", "tenant" => name.clone())
            .increment(counts.incidents_written as u64);
        metrics::counter!("incident_sync_rejected_total", "tenant" => name.clone())
            .increment(counts.rejected as u64);
        metrics::histogram!(RUN_DURATION).record(took.as_secs_f64());
        if counts.found_late > 0 {
            let overlap = options.reaching_back(counts.lateness.max(claim.lateness)).overlap;
            tracing::warn!(
                tenant.id = %tenant.id, tenant.name = name, found_late = counts.found_late, lateness_s = counts.lateness.as_secs(),
                overlap_s = overlap.as_secs(), owner = Owner::Nobody.as_str(),
                "Stored incidents that polls had missed: the API listed them late. Polls of this tenant start overlap_s seconds before the watermark now"
            );
        }
        let (class, owner, advice) = diagnosis.as_ref().map_or(("", "", ""), |diagnosis| {
            (diagnosis.class.as_str(), diagnosis.owner.as_str(), &*diagnosis.advice)
        });
        let error = report.failure.as_ref().map(ToString::to_string).unwrap_or_default();
        // The journal and what forwards it show the message only.
        let reason = if error.is_empty() {
            String::new()
        } else {
            format!(": {error}. Owner: {owner}. {advice}")
        };
        // The line of the pass has their counts. A person waits for the others.
        let is_routine = matches!(claim.kind, RunKind::Poll | RunKind::Open | RunKind::Reconcile)
            && counts.rejected == 0;
        macro_rules! log_event {
        ($level:ident, $($extra:tt)*) => {
            tracing::$level!(
                tenant.id = %tenant.id, tenant.name = tenant.name, kind = claim.kind.as_str(), outcome = outcome.as_str(),
                api_calls = counts.api_calls, incidents_seen = counts.incidents_seen,
                incidents_written = counts.incidents_written, alerts_written = counts.alerts_written,
                rejected = counts.rejected, throttled = counts.throttled, watermark = %OptionalTime(report.watermark),
                duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), $($extra)*
                "Tenant run done: {} {} {}{reason}", tenant.name, claim.kind.as_str(), outcome.as_str()
            )
        };
    }
        match outcome {
            Outcome::Ok if is_routine => log_event!(debug,),
            Outcome::Ok => log_event!(info,),
            // Reported once for all tenants.
            _ if class == ErrorClass::ApiRetired.as_str() => {
                log_event!(debug, class, owner, advice, error,);
            }
            // A credential of several tenants is reported once, when it is refused.
            _ if diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.shared) => {
                log_event!(debug, class, owner, advice, error,);
            }
            _ if diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.owner != Owner::Nobody) => {
                log_event!(error, class, owner, advice, error,);
            }
            _ => log_event!(warn, class, owner, advice, error,),
        }
    }
}

/// A time for the log, or a dash.
struct OptionalTime(Option<DateTime<Utc>>);

impl std::fmt::Display for OptionalTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(time) => {
                write!(f, "{}", time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
            }
            None => f.write_str("-"),
        }
    }
}
