//! Claims tenants, starts their runs, and renews the leases of those in progress.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::{SyncEngine, SyncSettings, TURN, TenantResult};
use crate::error::{Owner, SyncError};
use crate::failpoint;
use crate::sync::heartbeat::CLAIM_PERIOD;
use crate::sync::retry::with_retries;
use crate::sync::tenant_run::{PAGES_PER_SLICE, SyncMode};
use crate::tenant::TenantId;

const CLAIM_WARNING_PERIOD: Duration = Duration::from_secs(60);

impl SyncEngine {
    /// Runs the due tenants whenever `wake` is notified and every few seconds, until `stop` fires; then waits for the runs in
    /// progress. Fails if a newer version changed the schema so that this version cannot work with it.
    pub async fn run(self: &Arc<Self>, wake: &Notify) -> Result<(), SyncError> {
        let mut runs = JoinSet::new();
        let mut renewal = tokio::time::interval(self.services.store.renewal_period());
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut claim = tokio::time::interval(CLAIM_PERIOD);
        claim.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Box::pin(self.resume_retired_sources()).await;
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
                Some(_) = runs.join_next() => {
                    self.claim_due(&mut runs).await;
                    if runs.is_empty() {
                        self.pass_counts.log();
                    }
                }
                () = self.services.slots.released() => self.claim_due(&mut runs).await,
                () = wake.notified() => self.claim_due(&mut runs).await,
                _ = claim.tick() => self.claim_due(&mut runs).await,
                _ = turn.tick() => {}
            }
        }
        while runs.join_next().await.is_some() {}
        self.pass_counts.log();
        failpoint::reach("release").await;
        if let Err(error) = self.services.store.release_leases().await {
            tracing::warn!(error = %error, "Cannot release the leases; they expire");
        }
        ended
    }

    /// Renews the leases of runs in progress only: a lease that could not be released must expire. Limited to the renewal
    /// period, after which the next renewal may succeed.
    async fn renew(&self) {
        let tenants = self.lease_deadlines.tenants();
        if tenants.is_empty() {
            return;
        }
        failpoint::reach("renewal").await;
        let store = &self.services.store;
        let asked = Instant::now();
        let renew =
            tokio::time::timeout(store.renewal_period(), Box::pin(store.renew_leases(&tenants)));
        match self.bounded(store.renewal_period(), renew).await {
            Ok(Ok(renewed)) => self.lease_deadlines.extend(renewed, asked),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "Cannot renew the leases; runs end when they expire");
            }
            Err(_) => tracing::warn!("Timed out renewing the leases; runs end when they expire"),
        }
    }

    /// Another instance may have migrated. An unreachable database is not an error here.
    async fn check_schema(&self) -> Result<(), SyncError> {
        let store = &self.services.store;
        let check = tokio::time::timeout(store.renewal_period(), Box::pin(store.check_schema()));
        match self.bounded(store.renewal_period(), check).await {
            Ok(Err(error @ SyncError::Schema { .. })) => Err(error),
            _ => Ok(()),
        }
    }

    async fn claim_due(self: &Arc<Self>, runs: &mut JoinSet<()>) {
        self.beat.claims();
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
        self.report_database_back();
        self.lease_deadlines.begin(claims.iter().map(|claim| claim.lease.tenant), asked);
        failpoint::reach("claim.committed").await;
        for claim in claims {
            let Some(tenant) = settings.tenants.get(&claim.lease.tenant.0).cloned() else {
                continue;
            };
            let engine = Arc::clone(self);
            let options = settings.run_options(SyncMode::Incremental, PAGES_PER_SLICE);
            runs.spawn(async move { drop(engine.run_and_record(tenant, claim, options).await) });
        }
    }

    fn report_database_back(&self) {
        let Some(since) = self.database_away_since.lock().take() else { return };
        *self.claim_warned_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let seconds = since.elapsed().as_secs();
        tracing::info!(
            seconds,
            "The database answers again after {seconds} s; all tenants are read"
        );
    }

    /// The dispatcher tries again every few seconds; a failure is logged once a minute. One that lasts does not end by itself.
    fn warn_claim_failed(&self, error: &SyncError) {
        let since = *self.database_away_since.lock().get_or_insert_with(Instant::now);
        let lasts = since.elapsed() >= CLAIM_WARNING_PERIOD;
        let mut warned_at = self.claim_warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        if warned_at.is_some_and(|warned_at| warned_at.elapsed() < CLAIM_WARNING_PERIOD) {
            return;
        }
        *warned_at = Some(Instant::now());
        let diagnosis = error.diagnosis();
        let class = diagnosis.class.as_str();
        let is_recovering = diagnosis.owner == Owner::Nobody && !lasts;
        let owner = if diagnosis.owner == Owner::Nobody && lasts {
            Owner::Operator
        } else {
            diagnosis.owner
        };
        let owner = owner.as_str();
        let advice = &*diagnosis.advice;
        let seconds = since.elapsed().as_secs();
        if is_recovering {
            tracing::warn!(error = %error, class, owner, advice, "Cannot claim tenants: {error}. {advice}");
        } else {
            tracing::error!(error = %error, class, owner, advice, seconds, "Cannot claim tenants for {seconds} s, so no tenant is read: {error}. {advice}");
        }
    }

    fn free(&self, settings: &SyncSettings, running: usize) -> usize {
        let concurrency =
            if self.is_database_failing.load(Ordering::Relaxed) { 1 } else { settings.concurrency };
        self.services.slots.free(concurrency, running)
    }

    /// Runs the named tenants once, due or not, and returns the result of each, except tenants that another instance
    /// has.
    pub async fn run_once(
        self: &Arc<Self>,
        tenants: &[Uuid],
        mode: SyncMode,
    ) -> Result<Vec<TenantResult>, SyncError> {
        let settings = self.settings();
        let options = settings.run_options(mode, usize::MAX);
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
}
