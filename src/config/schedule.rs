//! `[schedule]`: when each kind of run starts.

use super::cron;
use super::section::{Report, Section};

/// Cron lines with seconds, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// New and changed incidents of every tenant.
    pub poll: String,
    /// Open incidents again: an alert can change without a change of its incident.
    pub open_incidents: String,
    /// The incidents of the last days again, changed or not.
    pub reconcile: String,
}

pub(super) fn read(mut section: Section, report: &mut Report) -> Schedule {
    let mut line = |key, default: &str| {
        let line = section.parsed(key, cron::check).ok().unwrap_or_else(|| default.to_owned());
        section.add_default(key, default);
        line
    };
    let schedule = Schedule {
        poll: line("poll", "0 */5 * * * *"),
        open_incidents: line("open_incidents", "0 20 * * * *"),
        reconcile: line("reconcile", "0 30 3 * * *"),
    };
    report.close(section);
    schedule
}
