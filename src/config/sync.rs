//! `[sync]`: how much is read.

use std::time::Duration;

use super::section::{Report, Section};
use super::{DAY, MINUTE};
use crate::tenant::Source;

/// The API keeps no incident longer.
const RETENTION_DAYS: u32 = 180;

/// The calls of one application in one tenant to one API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    pub per_minute: u32,
    /// `None` sets no limit.
    pub per_hour: Option<u32>,
}

/// Concurrency, ranges and quota of the runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Tenants that are read at the same time.
    pub concurrency: usize,
    /// How far before the watermark a poll starts.
    pub overlap: Duration,
    /// How far the hourly run reads everything again, whatever its status.
    pub recheck: Duration,
    /// How far a first sync reaches back.
    pub lookback: Duration,
    pub defender_calls: CallLimits,
    pub graph_calls: CallLimits,
    /// How far a reconciliation reaches back.
    pub reconcile_days: u32,
}

pub(super) fn read(mut section: Section, report: &mut Report) -> Sync {
    let day = Duration::ZERO..=DAY;
    let sync = Sync {
        concurrency: section.number("concurrency", 1..=1_000, 16) as usize,
        overlap: section.duration("overlap", day, 10 * MINUTE),
        recheck: section.duration("recheck", Duration::ZERO..=7 * DAY, 6 * 60 * MINUTE),
        lookback: section.duration("lookback", MINUTE..=RETENTION_DAYS * DAY, RETENTION_DAYS * DAY),
        defender_calls: read_calls(&mut section, Source::Defender, report),
        graph_calls: read_calls(&mut section, Source::Graph, report),
        reconcile_days: section.number("reconcile_days", 1..=RETENTION_DAYS, 7),
    };
    report.close(section);
    sync
}

fn read_calls(section: &mut Section, source: Source, report: &mut Report) -> CallLimits {
    let (minute, hour) = match source {
        Source::Defender => ("calls_per_minute", "calls_per_hour"),
        Source::Graph => ("graph_calls_per_minute", "graph_calls_per_hour"),
    };
    let per_minute = section.number(minute, 1..=1_000_000, source.calls_per_minute());
    let per_hour = match source.calls_per_hour() {
        Some(documented) => Some(section.number(hour, 1..=1_000_000, documented)),
        None => section.optional_number(hour, 1..=1_000_000),
    };
    let limits = [
        (minute, Some(per_minute), Some(source.calls_per_minute())),
        (hour, per_hour, source.calls_per_hour()),
    ];
    for (key, set, documented) in limits {
        if let (Some(set), Some(documented)) = (set, documented)
            && set > documented
        {
            let name = section.name_of(key);
            report.warnings.push(format!(
                "{name}: {set} is above the limit of {documented}; expect throttling"
            ));
        }
    }
    CallLimits { per_minute, per_hour }
}
