//! One tenant's traffic: the log of its calls, its quota, and the scripted replies.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::fault::{Call, Endpoint, ScriptedReply};
use super::quota::Quota;

/// The oldest calls are removed, so that a simulator can run for days.
const CALLS_KEPT: usize = 100_000;

#[derive(Debug)]
pub(super) struct Traffic {
    quota: Quota,
    pub(super) quota_violations: usize,
    token_script: VecDeque<ScriptedReply>,
    incidents_script: VecDeque<ScriptedReply>,
    calls: VecDeque<(u64, Call)>,
    arrived: u64,
}

impl Traffic {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            quota_violations: 0,
            token_script: VecDeque::new(),
            incidents_script: VecDeque::new(),
            calls: VecDeque::new(),
            arrived: 0,
        }
    }

    /// Counts a call against the quota, or counts a violation and returns the seconds to wait.
    pub(super) fn admit(&mut self, now: DateTime<Utc>) -> Result<(), i64> {
        let admitted = self.quota.admit(now);
        self.quota_violations += usize::from(admitted.is_err());
        admitted
    }

    pub(super) fn script(&mut self, endpoint: Endpoint) -> &mut VecDeque<ScriptedReply> {
        match endpoint {
            Endpoint::Token => &mut self.token_script,
            Endpoint::Incidents => &mut self.incidents_script,
        }
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
