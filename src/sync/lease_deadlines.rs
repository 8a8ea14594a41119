//! Until when a lease is valid without asking Postgres: work never outlives its lease, even if Postgres is unreachable.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::tenant::TenantId;

/// The leases of this process, by this machine's monotonic clock.
#[derive(Debug)]
pub struct LeaseDeadlines {
    term: Duration,
    /// `None` after the run has ended and before its end is recorded.
    until: Mutex<HashMap<TenantId, Option<Instant>>>,
}

/// A tenant is free for the next claim when this is dropped.
#[derive(Debug)]
pub struct RunGuard<'a> {
    deadlines: &'a LeaseDeadlines,
    tenant: TenantId,
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        self.deadlines.until.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.tenant);
    }
}

impl LeaseDeadlines {
    /// For leases of this term.
    pub fn new(term: Duration) -> Self {
        // Five sixths: a write that is sent at this deadline must arrive within the lease.
        Self { term: term / 6 * 5, until: Mutex::default() }
    }

    /// The leases of these tenants were claimed by a statement that was sent at `asked`; their runs begin.
    pub fn begin(&self, tenants: impl IntoIterator<Item = TenantId>, asked: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.extend(tenants.into_iter().map(|tenant| (tenant, Some(asked + self.term))));
    }

    /// The leases of these tenants were renewed by a statement that was sent at `asked`. A run that ended meanwhile stays
    /// ended.
    pub fn extend(&self, tenants: impl IntoIterator<Item = TenantId>, asked: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        for tenant in tenants {
            until.entry(tenant).and_modify(|until| *until = until.map(|_| asked + self.term));
        }
    }

    /// The tenants whose runs have not ended.
    pub fn tenants(&self) -> Vec<TenantId> {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.iter().filter(|(_, until)| until.is_some()).map(|(tenant, _)| *tenant).collect()
    }

    /// Whether a run of this tenant has not ended, or its end is still to be recorded.
    pub fn is_running(&self, tenant: TenantId) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&tenant)
    }

    /// A run has ended: its lease is no longer renewed.
    pub fn end(&self, tenant: TenantId) {
        self.until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(tenant)
            .and_modify(|until| *until = None);
    }

    /// Kept during a run and the recording of its end.
    pub fn guard(&self, tenant: TenantId) -> RunGuard<'_> {
        RunGuard { deadlines: self, tenant }
    }

    /// Returns when the tenant's lease may be invalid.
    pub async fn expired(&self, tenant: TenantId) {
        while let Some(until) = self.until(tenant).filter(|until| Instant::now() < *until) {
            tokio::time::sleep_until(until).await;
        }
    }

    fn until(&self, tenant: TenantId) -> Option<Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).copied().flatten()
    }
}
