//! What a run needs of the configuration.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::entra::Tenant;
use crate::entra::credential::{Credential, CredentialId};
use crate::error::SyncError;
use crate::incident::window::to_delta;
use crate::store::Store;
use crate::store::lease::TICK_TOLERANCE;
use crate::store::runs::Due;
use crate::sync::schedule::Schedule;
use crate::sync::tenant_run::{RunOptions, SyncMode};
use crate::tenant::Source;

/// A reload replaces all of it.
#[derive(Debug)]
pub struct SyncSettings {
    /// The tenants, by id.
    pub tenants: HashMap<Uuid, Arc<Tenant>>,
    /// Whether these are all configured tenants; a file that cannot be read may configure others.
    pub are_all: bool,
    /// Limit of runs at a time; runs that wait for a peer do not count.
    pub concurrency: usize,
    /// A poll starts this far before the watermark.
    pub overlap: Duration,
    /// The hourly run reads everything that changed this recently again.
    pub recheck: Duration,
    /// A first sync goes back this far.
    pub lookback: Duration,
    /// A reconciliation goes back this far.
    pub reconcile: Duration,
    /// When runs are due.
    pub schedule: Schedule,
}

impl SyncSettings {
    pub(super) fn enabled(&self) -> Vec<Uuid> {
        self.tenants.values().filter(|tenant| tenant.enabled).map(|tenant| tenant.id.0).collect()
    }

    /// The enabled tenants that are read from this API.
    pub(super) fn enabled_of(&self, source: Source) -> Vec<Uuid> {
        let tenants = self.tenants.values().filter(|tenant| tenant.enabled);
        let of_source = tenants.filter(|tenant| tenant.source() == source);
        of_source.map(|tenant| tenant.id.0).collect()
    }

    pub(super) fn credentials(&self) -> HashMap<CredentialId, Arc<Credential>> {
        let all = self.tenants.values().flat_map(|tenant| tenant.app.credentials());
        all.map(|(credential_id, credential)| (credential_id, Arc::clone(credential))).collect()
    }

    /// Keeps the previous settings of these tenants, except where another tenant has taken the name: metrics tell tenants apart
    /// by it.
    pub(super) fn keep(&mut self, held: &[(Uuid, String)], before: &Self) {
        let names: HashSet<&str> =
            self.tenants.values().map(|tenant| tenant.name.as_str()).collect();
        let kept = held.iter().filter_map(|(id, _)| Some((*id, before.tenants.get(id)?)));
        let kept: Vec<(Uuid, Arc<Tenant>)> = kept
            .filter(|(_, tenant)| !names.contains(tenant.name.as_str()))
            .map(|(id, tenant)| (id, Arc::clone(tenant)))
            .collect();
        self.tenants.extend(kept);
    }

    /// Moves due times forward to the next ones of this schedule; earlier ones stay.
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

    pub(super) fn run_options(&self, mode: SyncMode, pages_max: usize) -> RunOptions {
        RunOptions {
            overlap: self.overlap,
            overlap_min: self.overlap,
            recheck: self.recheck,
            lookback: self.lookback,
            reconcile: self.reconcile,
            mode,
            pages_max,
        }
    }
}
