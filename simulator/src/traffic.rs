//! One tenant's traffic: the log of its calls, its quotas, and the scripted replies.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::fault::{Call, Endpoint, ScriptedReply};
use super::quota::Quota;
use super::source::Source;
use super::world::World;

/// The oldest calls are removed, so that a simulator can run for days.
const CALLS_KEPT: usize = 100_000;

#[derive(Debug)]
pub(super) struct Traffic {
    defender: Limit,
    graph: Limit,
    scripts: [VecDeque<ScriptedReply>; 4],
    calls: VecDeque<(u64, Call)>,
    arrived: u64,
}

/// A quota and how often it was exceeded.
#[derive(Debug)]
struct Limit {
    quota: Quota,
    violations: usize,
}

impl Traffic {
    pub(super) fn new(defender: Quota, graph: Quota) -> Self {
        let limit = |quota| Limit { quota, violations: 0 };
        Self {
            defender: limit(defender),
            graph: limit(graph),
            scripts: Default::default(),
            calls: VecDeque::new(),
            arrived: 0,
        }
    }

    /// Counts a call against the quota, or counts a violation and returns the seconds to wait.
    pub(super) fn admit(&mut self, source: Source, now: DateTime<Utc>) -> Result<(), i64> {
        let limit = match source {
            Source::Defender => &mut self.defender,
            Source::Graph => &mut self.graph,
        };
        let admitted = limit.quota.admit(now);
        limit.violations += usize::from(admitted.is_err());
        admitted
    }

    pub(super) fn quota_violations(&self) -> usize {
        self.defender.violations + self.graph.violations
    }

    pub(super) fn script(&mut self, endpoint: Endpoint) -> &mut VecDeque<ScriptedReply> {
        &mut self.scripts[endpoint as usize]
    }

    /// Logs a call at its arrival, so that unanswered calls are included, and returns its number.
    pub(super) fn arrive(&mut self, endpoint: Endpoint, at: DateTime<Utc>, query: String) -> u64 {
        self.arrived += 1;
        let call = Call { endpoint, at, query, status: 0 };
        if self.calls.len() == CALLS_KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back((self.arrived, call));
        self.arrived
    }

    /// Records the status of a call, unless it was removed from the log meanwhile.
    pub(super) fn answered(&mut self, number: u64, status: u16) {
        if let Some((_, call)) = self.calls.iter_mut().rev().find(|(n, _)| *n == number) {
            call.status = status;
        }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().map(|(_, call)| call.clone()).collect()
    }

    pub(super) fn clear_calls(&mut self) {
        self.calls.clear();
    }
}

impl World {
    /// Scripts replies for the next requests to this endpoint, one each, after the ones scripted before.
    pub fn script(&self, tenant: Uuid, endpoint: Endpoint, replies: Vec<ScriptedReply>) {
        self.with(tenant, |tenant| {
            tenant.traffic.script(endpoint).extend(replies);
        });
    }

    /// Makes random updates after each page, so that the list changes while a client reads it.
    pub fn churn(&self, tenant: Uuid, updates_per_page: usize) {
        self.with(tenant, |tenant| tenant.churn = updates_per_page);
    }

    /// Stops the random updates.
    pub fn churn_stop(&self, tenant: Uuid) {
        self.churn(tenant, 0);
    }

    /// The calls of a tenant so far, oldest first.
    pub fn calls(&self, tenant: Uuid) -> Vec<Call> {
        self.with(tenant, |tenant| tenant.traffic.calls())
    }

    /// Clears the log of a tenant's calls.
    pub fn clear_calls(&self, tenant: Uuid) {
        self.with(tenant, |tenant| tenant.traffic.clear_calls());
    }

    /// The number of calls rejected by the quota.
    pub fn quota_violations(&self, tenant: Uuid) -> usize {
        self.with(tenant, |tenant| tenant.traffic.quota_violations())
    }
}
