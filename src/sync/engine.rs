//! Runs the tenants that are due, up to a limit at a time. A slow or failing tenant does not delay the others.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::entra::Tenant;
use crate::entra::credential::{Credential, CredentialId};
use crate::error::{Diagnosis, Owner, Retry, SyncError, panic_message};
use crate::failpoint;
use crate::incident::window::to_delta;
use crate::store::lease::{RunKind, TICK_TOLERANCE};
use crate::store::runs::{Due, Outcome, RunRecord, back_off};
use crate::store::tenants::RemovedTenants;
use crate::store::{Claim, DatabaseClock, Store};
use crate::sync::heartbeat::Heartbeat;
use crate::sync::lease_deadlines::LeaseDeadlines;
use crate::sync::page_fetcher::{PageFetcher, Services};
use crate::sync::page_writer::PageWriter;
use crate::sync::progress::{Progress, TenantProgress};
use crate::sync::retention;
use crate::sync::retry::{retry_until, with_retries};
use crate::sync::schedule::Schedule;
use crate::sync::tenant_run::{PAGES_PER_SLICE, RunOptions, RunReport, SyncMode, TenantRun};
use crate::tenant::TenantId;

/// The metric of how long runs took.
pub(crate) const RUN_DURATION: &str = "incident_sync_run_duration_seconds";

/// Its buckets, in seconds: a poll without news, up to a first synchronisation.
pub(crate) const DURATION_BOUNDS: [f64; 11] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// A parked tenant is probed this often: consent comes without telling us.
const PARKED_PROBE: Duration = Duration::from_secs(3600);

/// A database failure affects all tenants and ends for all of them together; after this pause one run tests it.
const DATABASE_PROBE: Duration = Duration::from_secs(5);

/// The dispatcher's loop turns at least so often.
const TURN: Duration = Duration::from_secs(2);

const CLAIM_WARNING_PERIOD: Duration = Duration::from_secs(60);
/// Postgres's code for a full queue of notifications.
const QUEUE_IS_FULL: &str = "54000";

/// The configuration of runs. A reload replaces it as a whole.
#[derive(Debug)]
pub struct SyncSettings {
    /// The tenants, by id.
    pub tenants: HashMap<Uuid, Arc<Tenant>>,
    /// Whether no other tenant is configured; one whose file cannot be read may be.
    pub are_all: bool,
    /// Tenants in flight.
    pub concurrency: usize,
    /// A poll starts this far before the watermark.
    pub overlap: Duration,
    /// A first synchronisation goes back this far.
    pub lookback: Duration,
    /// A reconciliation goes back this far.
    pub reconcile: Duration,
    /// When runs are due.
    pub schedule: Schedule,
}

impl SyncSettings {
    fn enabled(&self) -> Vec<Uuid> {
        self.tenants.values().filter(|tenant| tenant.enabled).map(|tenant| tenant.id.0).collect()
    }

    fn credentials(&self) -> HashMap<CredentialId, Arc<Credential>> {
        let all = self.tenants.values().flat_map(|tenant| tenant.app.credentials());
        all.map(|(credential_id, credential)| (credential_id, Arc::clone(credential))).collect()
    }

    /// Due times move forward to this schedule's next ones; earlier ones stay.
    pub async fn apply_schedule(&self, store: &Store) -> Result<(), SyncError> {
        let due = |now: DateTime<Utc>| {
            let from = now + to_delta(TICK_TOLERANCE);
            Due {
                poll: self.schedule.next_poll(from),
                open: self.schedule.next_open(from),
                reconcile: self.schedule.next_reconcile(from),
            }
        };
        store.advance_due_times(&self.enabled(), due).await
    }

    fn run_options(&self, mode: SyncMode, pages_max: usize) -> RunOptions {
        RunOptions {
            overlap: self.overlap,
            lookback: self.lookback,
            reconcile: self.reconcile,
            mode,
            pages_max,
        }
    }
}

/// Why settings are taken over.
#[derive(Debug)]
pub enum ReloadTrigger {
    /// An operator asked for it: the cause of a parked tenant may be fixed.
    OperatorRequest,
    /// Files of these tenants have come or changed.
    ChangedFiles(Vec<Uuid>),
}

/// Everything that runs need, shared by all of them.
#[derive(Debug)]
pub struct SyncEngine {
    services: Services,
    settings: RwLock<Arc<SyncSettings>>,
    progress: Progress,
    lease_deadlines: LeaseDeadlines,
    /// Set while runs fail because of the database: only one at a time finds out whether it is well again, because what
    /// the others would fetch could not be stored.
    is_database_failing: AtomicBool,
    /// Set while NOTIFY fails, so that one cause is one warning.
    notify_fails: AtomicBool,
    claim_warned_at: Mutex<Option<Instant>>,
    beat: Heartbeat,
    /// Stops claiming and ends runs between two pages.
    pub stop: CancellationToken,
}

/// How one tenant's run ended.
#[derive(Debug)]
pub struct TenantResult {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// What it did.
    pub report: RunReport,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not end well.
    pub diagnosis: Option<Diagnosis>,
    /// How long it took.
    pub took: Duration,
}

impl SyncEngine {
    /// An engine of these services and settings.
    pub fn new(
        services: Services,
        settings: SyncSettings,
        progress: Progress,
        stop: CancellationToken,
    ) -> Self {
        let lease_deadlines = LeaseDeadlines::new(services.store.lease_term());
        let (is_database_failing, notify_fails, claim_warned_at) =
            (AtomicBool::default(), AtomicBool::default(), Mutex::default());
        let settings = RwLock::new(Arc::new(settings));
        let beat = Heartbeat::new();
        Self {
            services,
            settings,
            progress,
            lease_deadlines,
            is_database_failing,
            notify_fails,
            claim_warned_at,
            beat,
            stop,
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<SyncSettings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The progress of [`SyncEngine::run`].
    pub fn beat(&self) -> &Heartbeat {
        &self.beat
    }

    /// The shared services.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Applies new settings. Runs in flight keep the old ones; new tenants are due immediately.
    pub async fn reload(
        &self,
        settings: SyncSettings,
        trigger: ReloadTrigger,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let tenants: Vec<Arc<Tenant>> = settings.tenants.values().cloned().collect();
        // A tenant whose file is refused now is among the previous settings.
        let before = self.settings();
        let gone: Vec<Uuid> = before
            .tenants
            .keys()
            .filter(|id| !settings.tenants.contains_key(id))
            .copied()
            .collect();
        let left =
            if settings.are_all { RemovedTenants::AllOthers } else { RemovedTenants::Only(&gone) };
        store.sync_tenants(&tenants, left).await?;
        match trigger {
            ReloadTrigger::OperatorRequest => {
                store.clear_parking(&settings.enabled()).await?;
                self.services.tokens.probe_refused();
            }
            ReloadTrigger::ChangedFiles(changed) => store.clear_parking(&changed).await?,
        }
        settings.apply_schedule(store).await?;
        let known = before.credentials();
        for (credential_id, credential) in settings.credentials() {
            if let Some(known) = known.get(&credential_id) {
                credential.inherit(known);
            }
        }
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        Ok(())
    }

    /// Runs what is due whenever `wake` is notified, until `stop` fires; then waits for the runs in flight. Fails when a newer
    /// version has changed the schema so that this version cannot work with it.
    pub async fn run(self: &Arc<Self>, wake: &Notify) -> Result<(), SyncError> {
        let mut runs = JoinSet::new();
        let mut renewal = tokio::time::interval(self.services.store.renewal_period());
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        wake.notify_one();
        let mut ended = Ok(());
        let mut reported = BTreeMap::new();
        loop {
            self.beat.expect_within(TURN);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                _ = renewal.tick() => {
                    self.renew().await;
                    ended = self.check_schema().await;
                    if ended.is_err() {
                        self.stop.cancel();
                    }
                    Box::pin(self.report_out_of_bounds(&mut reported)).await;
                }
                Some(_) = runs.join_next() => self.claim_due(&mut runs).await,
                () = self.services.slots.released() => self.claim_due(&mut runs).await,
                () = wake.notified() => self.claim_due(&mut runs).await,
                _ = turn.tick() => {}
            }
        }
        while runs.join_next().await.is_some() {}
        failpoint::reach("release").await;
        if let Err(error) = self.services.store.release_leases().await {
            tracing::warn!(error = %error, "leases were not given back; they expire by themselves");
        }
        ended
    }

    /// Waits for work that ends within `wait`, and extends the watchdog's deadline by it.
    async fn bounded<T>(&self, wait: Duration, work: impl Future<Output = T>) -> T {
        self.beat.expect_within(wait);
        let done = work.await;
        self.beat.expect_within(TURN);
        done
    }

    /// Logs each tenant whose state is out of bounds once, until it is corrected. `reported` has those of earlier calls.
    async fn report_out_of_bounds(&self, reported: &mut BTreeMap<Uuid, Vec<String>>) {
        let (store, settings) = (&self.services.store, self.settings());
        let enabled = settings.enabled();
        let looked =
            self.bounded(store.dispatcher_wait(), Box::pin(store.out_of_bounds(&enabled))).await;
        // The next claim reports a database that is away.
        let Ok(found) = looked else { return };
        for (tenant, columns) in
            found.iter().filter(|(tenant, columns)| reported.get(tenant) != Some(columns))
        {
            let name = settings.tenants.get(tenant).map_or("", |tenant| tenant.name.as_str());
            let error = SyncError::StateOutOfBounds { columns: columns.join(", ") };
            let diagnosis = error.diagnosis();
            let (class, owner, advice) =
                (diagnosis.class.as_str(), diagnosis.owner.as_str(), &*diagnosis.advice);
            tracing::error!(
                tenant.id = %tenant, tenant.name = name, error = %error, class, owner, advice,
                "a tenant's state is out of bounds; other tenants are read as always"
            );
        }
        *reported = found.into_iter().collect();
    }

    /// Only for the runs in flight: a lease that could not be given back must expire. Bounded by the period: the next
    /// renewal may find the database back.
    async fn renew(&self) {
        let tenants = self.lease_deadlines.tenants();
        if tenants.is_empty() {
            return;
        }
        failpoint::reach("renewal").await;
        let (store, asked) = (&self.services.store, Instant::now());
        let renew =
            tokio::time::timeout(store.renewal_period(), Box::pin(store.renew_leases(&tenants)));
        match self.bounded(store.renewal_period(), renew).await {
            Ok(Ok(renewed)) => self.lease_deadlines.extend(renewed, asked),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "leases were not renewed; runs end when they expire");
            }
            Err(_) => tracing::warn!("leases were not renewed in time; runs end when they expire"),
        }
    }

    /// Another instance may have migrated. An unreachable database is no statement about its schema.
    async fn check_schema(&self) -> Result<(), SyncError> {
        let store = &self.services.store;
        let check = tokio::time::timeout(store.renewal_period(), Box::pin(store.check_schema()));
        match self.bounded(store.renewal_period(), check).await {
            Ok(Err(error @ SyncError::Schema { .. })) => Err(error),
            _ => Ok(()),
        }
    }

    async fn claim_due(self: &Arc<Self>, runs: &mut JoinSet<()>) {
        let settings = self.settings();
        let free = self.free(&settings, runs.len());
        if free == 0 {
            return;
        }
        let mut idle = settings.enabled();
        idle.retain(|tenant| !self.lease_deadlines.is_running(TenantId(*tenant)));
        let asked = Instant::now();
        let store = &self.services.store;
        let claims = match self
            .bounded(store.dispatcher_wait(), Box::pin(store.claim_due(&idle, free)))
            .await
        {
            Ok(claims) => claims,
            Err(error) => {
                self.is_database_failing.store(true, Ordering::Relaxed);
                self.warn_claim_failed(&error);
                return;
            }
        };
        self.lease_deadlines.begin(claims.iter().map(|claim| claim.lease.tenant), asked);
        failpoint::reach("claim.committed").await;
        for claim in claims {
            let Some(tenant) = settings.tenants.get(&claim.lease.tenant.0).cloned() else {
                continue;
            };
            let (engine, options) =
                (Arc::clone(self), settings.run_options(SyncMode::Incremental, PAGES_PER_SLICE));
            runs.spawn(async move { drop(engine.run_and_record(tenant, claim, options).await) });
        }
    }

    /// The dispatcher tries again every few seconds and logs the failure once a minute.
    fn warn_claim_failed(&self, error: &SyncError) {
        let mut warned_at = self.claim_warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        if warned_at.is_some_and(|warned_at| warned_at.elapsed() < CLAIM_WARNING_PERIOD) {
            return;
        }
        *warned_at = Some(Instant::now());
        let diagnosis = error.diagnosis();
        let (class, owner, advice) =
            (diagnosis.class.as_str(), diagnosis.owner.as_str(), &*diagnosis.advice);
        if diagnosis.owner == Owner::Nobody {
            tracing::warn!(error = %error, class, owner, advice, "no tenant could be claimed");
        } else {
            tracing::error!(error = %error, class, owner, advice, "no tenant could be claimed");
        }
    }

    fn free(&self, settings: &SyncSettings, running: usize) -> usize {
        let concurrency =
            if self.is_database_failing.load(Ordering::Relaxed) { 1 } else { settings.concurrency };
        self.services.slots.free(concurrency, running)
    }

    /// Runs the named tenants once, due or not, and answers how each ended; a tenant that another instance works on is
    /// left out.
    pub async fn run_once(
        self: &Arc<Self>,
        tenants: &[Uuid],
        what: SyncMode,
    ) -> Result<Vec<TenantResult>, SyncError> {
        let settings = self.settings();
        let options = settings.run_options(what, usize::MAX);
        Box::pin(self.report_out_of_bounds(&mut BTreeMap::new())).await;
        let mut waiting = tenants.to_vec();
        let mut runs = JoinSet::new();
        let mut results = Vec::new();
        let mut renewal = tokio::time::interval(self.services.store.renewal_period());
        loop {
            let free = self.free(&settings, runs.len());
            if free > 0 && !waiting.is_empty() && !self.stop.is_cancelled() {
                let asked = Instant::now();
                let claim = || self.services.store.claim_named(&waiting, free);
                let claims = with_retries(self.services.retry_policy, &self.stop, claim).await?;
                self.lease_deadlines.begin(claims.iter().map(|claim| claim.lease.tenant), asked);
                if claims.len() < free.min(waiting.len()) {
                    waiting.clear();
                }
                for claim in claims {
                    waiting.retain(|id| *id != claim.lease.tenant.0);
                    let Some(tenant) = settings.tenants.get(&claim.lease.tenant.0).cloned() else {
                        continue;
                    };
                    let engine = Arc::clone(self);
                    runs.spawn(async move { engine.run_and_record(tenant, claim, options).await });
                }
            }
            tokio::select! {
                biased;
                _ = renewal.tick() => self.renew().await,
                () = self.services.slots.released() => {}
                ended = runs.join_next() => match ended {
                    Some(ended) => results.extend(ended),
                    None => break,
                },
            }
        }
        results.sort_by(|a, b| a.tenant.name.cmp(&b.tenant.name));
        Ok(results)
    }

    async fn run_and_record(
        &self,
        tenant: Arc<Tenant>,
        claim: Claim,
        options: RunOptions,
    ) -> TenantResult {
        let (work, started) = (self.lease_deadlines.guard(tenant.id), Instant::now());
        let progress = self.progress.tenant(&tenant.name);
        let report = self.run_catching_panics(&tenant, &claim, options, progress).await;
        self.lease_deadlines.end(tenant.id);
        let took = started.elapsed();
        let diagnosis = report.failure.as_ref().map(SyncError::diagnosis);
        let outcome = diagnosis.as_ref().map_or(Outcome::Ok, Outcome::of);
        let record = self.record(&claim, options, &report, outcome, diagnosis.clone(), took);
        let is_database_error =
            diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.class.is_database());
        self.is_database_failing.store(is_database_error, Ordering::Relaxed);
        failpoint::reach("run.ended").await;
        let store = &self.services.store;
        // Else the tenant would wait for its lease to expire when the database has long been back.
        let record_end = || store.finish_run(&claim.lease, &record);
        let recorded =
            retry_until("the end of a run", store.lease_term(), &self.stop, record_end).await;
        match recorded {
            Ok(()) if report.counts.incidents_written > 0 => self.notify_listeners().await,
            Ok(()) => {}
            Err(error) => {
                tracing::error!(tenant.id = %tenant.id, tenant.name = tenant.name, error = %error, "the end of the run was not recorded");
            }
        }
        drop(work);
        failpoint::reach("run.recorded").await;
        let result = TenantResult { tenant, report, outcome, diagnosis, took };
        log_run(&claim, &result);
        result
    }

    /// A failure loses no record and no change: pipelines also ask on their own. It is logged once until it has passed.
    async fn notify_listeners(&self) {
        let Err(error) = self.services.store.notify_listeners().await else {
            self.notify_fails.store(false, Ordering::Relaxed);
            return;
        };
        if self.notify_fails.swap(true, Ordering::Relaxed) {
            return;
        }
        let say = if error.sqlstate() == Some(QUEUE_IS_FULL) {
            "A session that listens has kept a transaction open, and the queue of notifications is full: see SELECT pg_notification_queue_usage(). Find the session by SELECT pid, usename, xact_start FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start, and end it by SELECT pg_terminate_backend(pid)"
        } else {
            "Check Postgres"
        };
        tracing::warn!(
            owner = Owner::Operator.as_str(), advice = say, error = %error,
            "NOTIFY incident_sync_changes failed; the run is recorded, and pipelines that only LISTEN do not see its changes yet"
        );
    }

    /// A panic fails this run only, and so does a lease that could not be renewed.
    async fn run_catching_panics(
        &self,
        tenant: &Tenant,
        claim: &Claim,
        options: RunOptions,
        progress: TenantProgress,
    ) -> RunReport {
        let clock = DatabaseClock::showing(claim.claimed_at);
        let mut pages = PageFetcher::new(&self.services, tenant, &self.stop, clock, progress);
        let mut writer = PageWriter::new(&self.services, tenant, claim, options.overlap);
        let run = TenantRun {
            services: &self.services,
            tenant,
            claim,
            options,
            pages: &mut pages,
            writer: &mut writer,
        };
        let work = async {
            let report = run.run().await;
            if claim.kind == RunKind::Reconcile && report.failure.is_none() {
                retention::apply(&self.services, tenant, &claim.lease, &self.stop).await;
            }
            report
        };
        let outcome = tokio::select! {
            biased;
            caught = AssertUnwindSafe(work).catch_unwind() => caught.map_err(|panic| panic_error(&*panic)),
            () = self.lease_deadlines.expired(tenant.id) => Err(SyncError::LeaseLost),
        };
        let mut report = outcome.unwrap_or_else(|failure| RunReport::aborted(claim, failure));
        report.counts = pages.finish().plus(&writer.counts);
        report
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
            // A due time within the tolerance would be claimed again and again until it has passed.
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
            started_at: claim.claimed_at,
            outcome,
            is_complete,
            window_from: report.window_from,
            window_to: report.watermark,
            counts: report.counts.clone(),
            failure: diagnosis.zip(report.failure.as_ref().map(ToString::to_string)),
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

/// How long a failed tenant is left alone; `None` is not at all.
pub(crate) fn next_wait(
    diagnosis: &Diagnosis,
    outcome: Outcome,
    claim: &Claim,
) -> Option<Duration> {
    match (outcome, diagnosis.retry) {
        (Outcome::Ok | Outcome::Stopped, _) => None,
        (_, Retry::After(asked)) => {
            Some(asked.max(Duration::from_secs(1)) + asked.mul_f64(jitter(claim) / 10.0))
        }
        (Outcome::Parked, _) => Some(PARKED_PROBE.mul_f64(0.8 + 0.4 * jitter(claim))),
        (Outcome::Failed, _) if diagnosis.class.is_database() => {
            Some(DATABASE_PROBE.mul_f64(0.8 + 0.4 * jitter(claim)))
        }
        (Outcome::Failed | Outcome::Throttled, _) => {
            Some(back_off(claim.consecutive_failures).mul_f64(0.8 + 0.4 * jitter(claim)))
        }
    }
}

/// Between 0 and 1, other for each tenant and attempt, so that those who failed together do not come back together.
fn jitter(claim: &Claim) -> f64 {
    let (high, low) = claim.lease.tenant.0.as_u64_pair();
    let mixed = (high ^ low ^ claim.lease.fence.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f64::from(u32::try_from(mixed >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// The one line that a run leaves in the log, and its metrics.
fn log_run(claim: &Claim, result: &TenantResult) {
    let TenantResult { tenant, report, outcome, diagnosis, took } = result;
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
        tracing::error!(
            tenant.id = %tenant.id, tenant.name = name, found_late = counts.found_late, owner = "operator",
            "incidents behind the watermark had not been found by a poll; they are stored now. The API lists changes later than sync.overlap: make it longer"
        );
    }
    let (class, owner, advice) = diagnosis.as_ref().map_or(("", "", ""), |diagnosis| {
        (diagnosis.class.as_str(), diagnosis.owner.as_str(), &*diagnosis.advice)
    });
    let error = report.failure.as_ref().map(ToString::to_string).unwrap_or_default();
    macro_rules! log_event {
        ($level:ident, $($extra:tt)*) => {
            tracing::$level!(
                tenant.id = %tenant.id, tenant.name = tenant.name, kind = claim.kind.as_str(), outcome = outcome.as_str(),
                api_calls = counts.api_calls, incidents_seen = counts.incidents_seen,
                incidents_written = counts.incidents_written, alerts_written = counts.alerts_written,
                rejected = counts.rejected, throttled = counts.throttled, watermark = %OptionalTime(report.watermark),
                duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), $($extra)*
                "tenant run done: {} {} {}", tenant.name, claim.kind.as_str(), outcome.as_str()
            )
        };
    }
    match outcome {
        Outcome::Ok => log_event!(info,),
        // The alarm of a credential is one line, when it is refused.
        _ if diagnosis
            .as_ref()
            .is_some_and(|diagnosis| diagnosis.owner != Owner::Nobody && !diagnosis.shared) =>
        {
            log_event!(error, class, owner, advice, error,);
        }
        _ => log_event!(warn, class, owner, advice, error,),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Lease;
    use crate::tenant::TenantId;

    fn wait_after(sqlstate: &str, consecutive_failures: u32) -> Duration {
        let claim = Claim {
            lease: Lease { tenant: TenantId(Uuid::from_u128(1)), fence: 1 },
            watermark: None,
            is_backfilled: true,
            consecutive_failures,
            claimed_at: DateTime::UNIX_EPOCH,
            kind: RunKind::Poll,
        };
        let diagnosis = SyncError::Database {
            step: "writing a page",
            sqlstate: Some(sqlstate.to_owned()),
            what: String::new(),
            fault: None,
        }
        .diagnosis();
        next_wait(&diagnosis, Outcome::of(&diagnosis), &claim).unwrap()
    }

    #[test]
    fn refused_value_backs_off_but_outage_is_probed() {
        for sqlstate in ["22021", "23514", "54000"] {
            assert!(wait_after(sqlstate, 0) >= Duration::from_secs(48), "{sqlstate}");
            assert!(wait_after(sqlstate, 9) >= Duration::from_secs(48 * 60), "{sqlstate}");
        }
        for sqlstate in ["08006", "28P01", "53100", "25006", "40P01"] {
            assert!(wait_after(sqlstate, 9) <= DATABASE_PROBE.mul_f64(1.2), "{sqlstate}");
        }
    }
}
