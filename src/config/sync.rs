//! `[sync]`: how much is read.

use std::time::Duration;

use super::section::{Report, Section};
use super::{DAY, MINUTE};
use crate::defender::{CALLS_PER_HOUR, CALLS_PER_MINUTE};

/// The API keeps no incident longer.
const RETENTION_DAYS: u32 = 180;

/// Concurrency, ranges and quota of the runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Tenants that are read at the same time.
    pub concurrency: usize,
    /// How far before the watermark a poll starts.
    pub overlap: Duration,
    /// How far a first sync reaches back.
    pub lookback: Duration,
    /// The calls of one application in one tenant.
    pub calls_per_minute: u32,
    /// The same for an hour.
    pub calls_per_hour: u32,
    /// How far a reconciliation reaches back.
    pub reconcile_days: u32,
}

pub(super) fn read(mut section: Section, report: &mut Report) -> Sync {
    let day = Duration::ZERO..=DAY;
    let sync = Sync {
        concurrency: section.number("concurrency", 1..=1_000, 16) as usize,
        overlap: section.duration("overlap", day, 10 * MINUTE),
        lookback: section.duration("lookback", MINUTE..=RETENTION_DAYS * DAY, RETENTION_DAYS * DAY),
        calls_per_minute: section.number("calls_per_minute", 1..=1_000_000, CALLS_PER_MINUTE),
        calls_per_hour: section.number("calls_per_hour", 1..=1_000_000, CALLS_PER_HOUR),
        reconcile_days: section.number("reconcile_days", 1..=RETENTION_DAYS, 7),
    };
    for (key, set, documented) in [
        ("calls_per_minute", sync.calls_per_minute, CALLS_PER_MINUTE),
        ("calls_per_hour", sync.calls_per_hour, CALLS_PER_HOUR),
    ] {
        if set > documented {
            let name = section.name_of(key);
            report.warnings.push(format!(
                "{name}: {set} is above the {documented} that Microsoft allows; expect throttling"
            ));
        }
    }
    report.close(section);
    sync
}
