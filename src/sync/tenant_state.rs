//! The state of a tenant, derived from its row in the database: `status` and the status page show the same.

use std::time::Duration;

use crate::error::Owner;
use crate::store::status::Standing;

/// The age of a tenant's data.
pub fn data_as_of(tenant: &Standing) -> String {
    tenant
        .freshness_seconds
        .map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", age(seconds)))
}

/// Kind and outcome of a tenant's last run.
pub fn last_run(tenant: &Standing) -> String {
    let last_run = tenant.last_kind.as_deref().zip(tenant.last_outcome.as_deref());
    last_run.map_or_else(|| "none".to_owned(), |(kind, outcome)| format!("{kind} {outcome}"))
}

/// The owner of a tenant's problem and the advice; `None` where no action is needed.
pub fn must_act(tenant: &Standing) -> Option<(&str, &str)> {
    match State::of(tenant) {
        State::Parked | State::Failing => {
            tenant.who_must_act.as_deref().zip(tenant.error_message.as_deref())
        }
        State::Stale if tenant.is_watermark_ahead => {
            Some((Owner::Operator.as_str(), OF_WATERMARK_AHEAD))
        }
        State::Stale => Some((Owner::Operator.as_str(), OF_STALE)),
        State::Missing => Some((Owner::Operator.as_str(), OF_MISSING)),
        State::NeverRun => Some((Owner::Operator.as_str(), OF_NEVER_RUN)),
        State::Incomplete | State::FirstSync if tenant.gaps > 0 => {
            Some((Owner::Operator.as_str(), OF_GAPS))
        }
        State::Incomplete | State::FirstSync if tenant.rejected > 0 => {
            Some((Owner::Operator.as_str(), OF_REJECTED))
        }
        State::Incomplete | State::FirstSync | State::Ok | State::Disabled | State::Removed => None,
    }
}

const OF_GAPS: &str = "The API keeps failing for part of the incident list. Open a Microsoft support ticket with the details in defender.sync_gaps";
const OF_REJECTED: &str = "Incidents that could not be decoded are in quarantine (defender.rejected_payloads). Install the newest version and run \
    incident-sync retry-rejected; if they stay, report a bug with the reason in that table";
const OF_STALE: &str = "The poll is overdue although no run failed. Check that the daemon runs and that sync.concurrency is high enough";
const OF_WATERMARK_AHEAD: &str = "The watermark is in the future because a clock was wrong. The next run reads everything again; if this \
    persists, check the clock of the database server and run incident-sync sync --full for this tenant";
const OF_MISSING: &str = "The configuration no longer names this tenant and many others; their removal is held back. Check that tenants_dir is mounted and \
    complete. To remove them, run: incident-sync tenant confirm-removal";
const OF_NEVER_RUN: &str = "No daemon has picked up this tenant yet. Start the service, or run systemctl reload incident-sync";
/// Longer than a wait for a run slot or a restart of the daemon.
const OVERDUE_SECONDS: f64 = 900.0;
/// Tenants onboarded together wait longer for each slice of their first sync.
const OVERDUE_AT_FIRST: f64 = 3600.0;

/// The state of a tenant; the worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It waits for an action.
    Parked,
    Failing,
    /// The configuration does not name it, and its removal is not confirmed.
    Missing,
    /// It is configured, but no daemon has read that yet.
    NeverRun,
    /// No run failed, but a poll is overdue or the watermark is in the future.
    Stale,
    /// It has gaps or quarantined incidents.
    Incomplete,
    /// The first sync is not complete.
    FirstSync,
    /// No action is needed.
    Ok,
    Disabled,
    Removed,
}

impl State {
    /// As options of commands spell the states.
    pub const NAMES: [&'static str; 10] = [
        "parked",
        "failing",
        "missing",
        "never-run",
        "stale",
        "incomplete",
        "first-sync",
        "ok",
        "disabled",
        "removed",
    ];

    /// Whether an option of a command names this state.
    pub fn is_named(self, name: &str) -> bool {
        self.as_str().replace(' ', "-") == name
    }

    pub fn of(tenant: &Standing) -> Self {
        match tenant {
            Standing { removed_at: Some(_), .. } => Self::Removed,
            Standing { missing_since: Some(_), .. } => Self::Missing,
            Standing { enabled: false, .. } => Self::Disabled,
            Standing { consecutive_failures: None, .. } => Self::NeverRun,
            Standing { parked_reason: Some(_), .. } => Self::Parked,
            Standing { error_class: Some(_), .. } => Self::Failing,
            Standing { is_watermark_ahead: true, .. } => Self::Stale,
            Standing { backfilled_at: None, overdue_seconds: Some(OVERDUE_AT_FIRST..), .. } => {
                Self::Stale
            }
            Standing { backfilled_at: None, .. } => Self::FirstSync,
            Standing { overdue_seconds: Some(OVERDUE_SECONDS..), .. } => Self::Stale,
            Standing { gaps: 1.., .. } | Standing { rejected: 1.., .. } => Self::Incomplete,
            _ => Self::Ok,
        }
    }

    /// All of them, the worst first.
    pub const ALL: [Self; 10] = [
        Self::Parked,
        Self::Failing,
        Self::Missing,
        Self::NeverRun,
        Self::Stale,
        Self::Incomplete,
        Self::FirstSync,
        Self::Ok,
        Self::Disabled,
        Self::Removed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Failing => "failing",
            Self::Missing => "missing",
            Self::NeverRun => "never run",
            Self::Stale => "stale",
            Self::Incomplete => "incomplete",
            Self::FirstSync => "first sync",
            Self::Ok => "ok",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
        }
    }
}

/// An age in its two largest units.
pub fn age(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds.max(0.0));
    let rounded = match whole.as_secs() {
        0..60 => whole.as_secs(),
        60..3600 => whole.as_secs() / 10 * 10,
        _ => whole.as_secs() / 60 * 60,
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_every_state() {
        assert_eq!(State::ALL.map(|state| state.as_str().replace(' ', "-")), State::NAMES);
    }

    #[test]
    fn age_has_at_most_two_units() {
        assert_eq!(age(7.9), "7s");
        assert_eq!(age(605.0), "10m");
        assert_eq!(age(7_384.0), "2h 3m");
        assert_eq!(age(-1.0), "0s");
    }
}
