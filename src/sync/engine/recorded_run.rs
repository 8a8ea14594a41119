//! One run of a tenant with its record: caught panics, the limit of the lease, due times, and the notice to listeners.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::SyncEngine;
use super::next_attempt::next_wait;
use super::run_result::TenantResult;
use crate::entra::Tenant;
use crate::error::{Diagnosis, Owner, SyncError, panic_message};
use crate::failpoint;
use crate::incident::window::to_delta;
use crate::store::lease::{RunKind, TICK_TOLERANCE};
use crate::store::runs::{Due, Outcome, RunRecord};
use crate::store::{Claim, DatabaseClock};
use crate::sync::page_fetcher::PageFetcher;
use crate::sync::page_writer::PageWriter;
use crate::sync::progress::TenantProgress;
use crate::sync::retention;
use crate::sync::retry::retry_until;
use crate::sync::source_switch;
use crate::sync::tenant_run::{RunOptions, RunReport, SyncMode, TenantRun};
use crate::tenant::TenantId;

/// SQLSTATE of a full queue of notifications.
const QUEUE_IS_FULL: &str = "54000";

impl SyncEngine {
    /// Runs the tenant, records the result and logs it.
    pub(super) async fn run_and_record(
        &self,
        tenant: Arc<Tenant>,
        claim: Claim,
        options: RunOptions,
    ) -> TenantResult {
        let options = options.reaching_back(claim.lateness);
        let work = self.lease_deadlines.guard(tenant.id);
        let tenant = source_switch::tenant_of_run(tenant, &claim);
        let started = Instant::now();
        let progress = self.progress.tenant(&tenant.name);
        let mut report = match self.check_source(tenant.source()) {
            Ok(()) => self.run_catching_panics(&tenant, &claim, options, progress).await,
            Err(error) => RunReport::aborted(&claim, error),
        };
        self.lease_deadlines.end(tenant.id);
        self.judge_answer(&tenant, &claim, &mut report, started).await;
        let took = started.elapsed();
        let diagnosis = report.failure.as_ref().map(SyncError::diagnosis);
        let outcome = diagnosis.as_ref().map_or(Outcome::Ok, Outcome::of);
        let record = self.record(&claim, options, &report, outcome, diagnosis.clone(), took);
        // A run whose move was refused has read the new source.
        let record = RunRecord { source: tenant.source(), ..record };
        let is_database_error =
            diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.class.is_database());
        self.is_database_failing.store(is_database_error, Ordering::Relaxed);
        failpoint::reach("run.ended").await;
        let store = &self.services.store;
        // Retried so that the tenant need not wait for its lease to expire after a short outage of the database.
        let record_end = || store.finish_run(&claim.lease, &record);
        let recorded =
            retry_until("the end of a run", store.lease_term(), &self.stop, record_end).await;
        match recorded {
            Ok(()) if report.counts.incidents_written + report.counts.alerts_written > 0 => {
                self.notify_listeners().await;
            }
            Ok(()) => {}
            Err(error) => {
                tracing::error!(tenant.id = %tenant.id, tenant.name = tenant.name, error = %error, "Cannot record the end of the run");
            }
        }
        drop(work);
        failpoint::reach("run.recorded").await;
        let result = TenantResult { tenant, report, outcome, diagnosis, took };
        result.log(&claim, options);
        self.pass_counts.add(&result);
        result
    }

    /// A failure loses neither the record nor a change: pipelines also poll. It is logged once until a NOTIFY succeeds.
    async fn notify_listeners(&self) {
        let Err(error) = self.services.store.notify_listeners().await else {
            self.is_notify_failing.store(false, Ordering::Relaxed);
            return;
        };
        if self.is_notify_failing.swap(true, Ordering::Relaxed) {
            return;
        }
        let advice = if error.sqlstate() == Some(QUEUE_IS_FULL) {
            "The queue of notifications is full because a listening session keeps a transaction open: see SELECT pg_notification_queue_usage(). Find the session with SELECT pid, usename, xact_start FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start, and end it with SELECT pg_terminate_backend(pid)"
        } else {
            "Check Postgres"
        };
        tracing::warn!(
            owner = Owner::Operator.as_str(), advice, error = %error,
            "NOTIFY incident_sync_changes failed; the run is recorded, and pipelines that only LISTEN do not see its changes yet"
        );
    }

    /// A panic, or a lease that could not be renewed, fails this run only.
    async fn run_catching_panics(
        &self,
        tenant: &Tenant,
        claim: &Claim,
        options: RunOptions,
        progress: TenantProgress,
    ) -> RunReport {
        let clock = DatabaseClock::showing(claim.claimed_at);
        let mut pages = PageFetcher::new(&self.services, tenant, &self.stop, clock, progress);
        let settled = Box::pin(source_switch::settle(&self.services, tenant, claim, &pages));
        let switched = match self.guarded(tenant.id, settled).await.flatten() {
            Ok(switched) => switched,
            Err(failure) => {
                let counts = pages.finish();
                return RunReport { counts, ..RunReport::aborted(claim, failure) };
            }
        };
        let claim = switched.as_ref().unwrap_or(claim);
        let RunOptions { overlap, overlap_min, .. } = options;
        let mut writer = PageWriter::new(&self.services, tenant, claim, overlap, overlap_min);
        let run = TenantRun {
            services: &self.services,
            tenant,
            claim,
            options,
            pages: &mut pages,
            writer: &mut writer,
        };
        let work = Box::pin(async {
            let report = run.run().await;
            if claim.kind == RunKind::Reconcile && report.failure.is_none() {
                retention::apply(&self.services, tenant, &claim.lease, &self.stop).await;
            }
            report
        });
        let outcome = self.guarded(tenant.id, work).await;
        let mut report = outcome.unwrap_or_else(|failure| RunReport::aborted(claim, failure));
        report.counts = pages.finish().plus(&writer.counts);
        report
    }

    /// Work under a lease; a panic and the end of the lease are errors.
    async fn guarded<T>(
        &self,
        tenant: TenantId,
        work: impl Future<Output = T>,
    ) -> Result<T, SyncError> {
        tokio::select! {
            biased;
            caught = AssertUnwindSafe(work).catch_unwind() => caught.map_err(|panic| panic_error(&*panic)),
            () = self.lease_deadlines.expired(tenant) => Err(SyncError::LeaseLost),
        }
    }

    fn record(
        &self,
        claim: &Claim,
        options: RunOptions,
        report: &RunReport,
        outcome: Outcome,
        diagnosis: Option<Diagnosis>,
        took: Duration,
    ) -> RunRecord {
        let now = claim.claimed_at + to_delta(took);
        let is_news = matches!(claim.kind, RunKind::Poll | RunKind::Backfill | RunKind::Manual)
            && matches!(options.mode, SyncMode::Incremental | SyncMode::Full);
        let is_complete = report.is_drained && is_news;
        let schedule = &self.settings().schedule;
        let mut due = Due::default();
        if report.is_drained {
            // A due time within the tolerance would be claimed repeatedly until it has passed.
            let from = now + to_delta(TICK_TOLERANCE);
            due.poll = is_news.then(|| schedule.next_poll(from)).flatten();
            due.open = (claim.kind == RunKind::Open || !claim.is_backfilled && is_news)
                .then(|| schedule.next_open(from))
                .flatten();
            due.reconcile = (claim.kind == RunKind::Reconcile || !claim.is_backfilled && is_news)
                .then(|| schedule.next_reconcile(from))
                .flatten();
        }
        let wait = diagnosis.as_ref().and_then(|diagnosis| next_wait(diagnosis, outcome, claim));
        RunRecord {
            kind: claim.kind,
            source: claim.source,
            started_at: claim.claimed_at,
            outcome,
            is_complete,
            window_from: report.window_from,
            window_to: report.watermark,
            counts: report.counts.clone(),
            failure: diagnosis.zip(report.failure.as_ref().map(ToString::to_string)),
            keeps_state: options.mode == SyncMode::Quarantine && outcome == Outcome::Ok,
            next_attempt_at: wait.map(|wait| now + to_delta(wait)),
            due,
        }
    }
}

pub(crate) fn panic_error(panic: &(dyn std::any::Any + Send)) -> SyncError {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    SyncError::Panicked { what: panic_message(text.unwrap_or_default()).to_owned() }
}
