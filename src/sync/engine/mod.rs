//! Runs the tenants that are due, up to a limit at a time. A slow or failing tenant does not delay the others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::entra::Tenant;
use crate::error::SyncError;
use crate::store::tenants::RemovedTenants;
use crate::sync::fleet_change::{Confirmation, log_removed, store_tenants};
use crate::sync::heartbeat::Heartbeat;
use crate::sync::lease_deadlines::LeaseDeadlines;
use crate::sync::page_fetcher::Services;
use crate::sync::progress::Progress;
use crate::sync::source_breaker::SourceBreaker;
use crate::tenant::Source;

mod dispatch;
mod next_attempt;
mod pass_counts;
mod recorded_run;
mod run_result;
mod settings;
mod source_verdict;

#[cfg(test)]
pub(crate) use next_attempt::next_wait;
use pass_counts::PassCounts;
pub(crate) use recorded_run::panic_error;
pub use run_result::TenantResult;
pub(crate) use run_result::{DURATION_BOUNDS, RUN_DURATION};
pub use settings::SyncSettings;

/// The dispatcher's loop turns at least this often.
const TURN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum ReloadTrigger {
    /// An operator requested it: the cause of a parked tenant may be fixed.
    OperatorRequest,
    /// Files of these tenants are new or changed.
    ChangedFiles(Vec<Uuid>),
}

/// Shared by all runs.
#[derive(Debug)]
pub struct SyncEngine {
    services: Services,
    settings: RwLock<Arc<SyncSettings>>,
    progress: Progress,
    lease_deadlines: LeaseDeadlines,
    /// Set while runs fail because of the database. Then one run at a time tests it: what others fetch could not be stored.
    is_database_failing: AtomicBool,
    /// Set while NOTIFY fails, so that one cause is one warning.
    is_notify_failing: AtomicBool,
    claim_warned_at: Mutex<Option<Instant>>,
    /// Since when the database does not answer.
    database_away_since: parking_lot::Mutex<Option<Instant>>,
    pass_counts: PassCounts,
    /// Tenants that the configuration no longer names and whose removal is not confirmed.
    held: parking_lot::Mutex<HashSet<Uuid>>,
    /// Which of the APIs seem to be retired.
    sources: parking_lot::Mutex<HashMap<Source, SourceBreaker>>,
    beat: Heartbeat,
    /// Stops claiming, and ends runs between two pages.
    pub stop: CancellationToken,
}

impl SyncEngine {
    pub fn new(
        services: Services,
        settings: SyncSettings,
        progress: Progress,
        stop: CancellationToken,
    ) -> Self {
        let lease_deadlines = LeaseDeadlines::new(services.store.lease_term());
        Self {
            services,
            settings: RwLock::new(Arc::new(settings)),
            progress,
            lease_deadlines,
            is_database_failing: AtomicBool::default(),
            is_notify_failing: AtomicBool::default(),
            claim_warned_at: Mutex::default(),
            database_away_since: parking_lot::Mutex::default(),
            pass_counts: PassCounts::default(),
            held: parking_lot::Mutex::default(),
            sources: parking_lot::Mutex::default(),
            beat: Heartbeat::new(),
            stop,
        }
    }

    /// The same engine that waits for the confirmation of these removals.
    #[must_use]
    pub fn with_held(mut self, held: HashSet<Uuid>) -> Self {
        *self.held.get_mut() = held;
        self
    }

    pub fn settings(&self) -> Arc<SyncSettings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The progress of [`SyncEngine::run`].
    pub fn beat(&self) -> &Heartbeat {
        &self.beat
    }

    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Applies new settings. Runs in progress keep the old ones; new tenants are due immediately. Tenants whose removal is held
    /// back keep theirs.
    pub async fn reload(
        &self,
        mut settings: SyncSettings,
        trigger: ReloadTrigger,
    ) -> Result<(), SyncError> {
        let store = &self.services.store;
        let configured: Vec<Arc<Tenant>> = settings.tenants.values().cloned().collect();
        // A tenant whose file is rejected keeps its previous settings, so it is among `settings` and not removed.
        let before = self.settings();
        let removed: Vec<Uuid> = before
            .tenants
            .keys()
            .filter(|id| !settings.tenants.contains_key(id))
            .copied()
            .collect();
        let may_leave = if settings.are_all {
            RemovedTenants::AllOthers
        } else {
            RemovedTenants::Only(&removed)
        };
        let (confirmation, reported) = match trigger {
            // Reported again to the operator who requests it.
            ReloadTrigger::OperatorRequest => (Confirmation::Reload, HashSet::new()),
            ReloadTrigger::ChangedFiles(_) => (Confirmation::None, self.held.lock().clone()),
        };
        let change = store_tenants(store, &configured, may_leave, confirmation, &reported).await?;
        settings.keep(&change.held, &before);
        // The command that confirms a removal has removed them in the database.
        let is_left = |id: &Uuid| {
            !settings.tenants.contains_key(id) && !change.removed.iter().any(|(of, _)| of == id)
        };
        let left = before.tenants.iter().filter(|(id, _)| is_left(id));
        let mut left: Vec<&str> = left.map(|(_, tenant)| tenant.name.as_str()).collect();
        left.sort_unstable();
        log_removed(&left);
        *self.held.lock() = change.held.iter().map(|(id, _)| *id).collect();
        match trigger {
            ReloadTrigger::OperatorRequest => {
                store.clear_parking(&settings.enabled()).await?;
                self.services.tokens.probe_refused();
                self.sources.lock().values_mut().for_each(SourceBreaker::probe_now);
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

    /// Makes the tenants due that an error parked, because its cause may be fixed.
    pub async fn retry_parked(&self) -> Result<(), SyncError> {
        self.services.store.clear_parking(&self.settings().enabled()).await
    }

    /// Whether an operator has confirmed a removal that is held back.
    pub async fn removal_is_confirmed(&self) -> bool {
        if self.held.lock().is_empty() {
            return false;
        }
        // The dispatcher reports an unreachable database.
        let Ok(known) = self.services.store.known_tenants().await else { return false };
        let held = self.held.lock();
        known.iter().any(|tenant| tenant.is_removed && held.contains(&tenant.tenant_id))
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
        let store = &self.services.store;
        let settings = self.settings();
        let enabled = settings.enabled();
        let looked =
            self.bounded(store.dispatcher_wait(), Box::pin(store.out_of_bounds(&enabled))).await;
        // The next claim reports an unreachable database.
        let Ok(found) = looked else { return };
        for (tenant, columns) in
            found.iter().filter(|(tenant, columns)| reported.get(tenant) != Some(columns))
        {
            let name = settings.tenants.get(tenant).map_or("", |tenant| tenant.name.as_str());
            let error = SyncError::StateOutOfBounds { columns: columns.join(", ") };
            let diagnosis = error.diagnosis();
            let class = diagnosis.class.as_str();
            let owner = diagnosis.owner.as_str();
            let advice = &*diagnosis.advice;
            tracing::error!(
                tenant.id = %tenant, tenant.name = name, error = %error, class, owner, advice,
                "The state of a tenant is out of bounds; other tenants are not affected"
            );
        }
        *reported = found.into_iter().collect();
    }
}
