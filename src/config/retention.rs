//! `[retention]`: how long data is kept.

use std::time::Duration;

use super::section::{Report, Section};
use super::{DAY, Sync};
use crate::tenant::Retention;

const LONGEST: Duration = DAY.saturating_mul(100 * 365);

/// What holds for tenants that say nothing of their own.
pub(super) struct RetentionDefaults {
    common: Retention,
    /// What is deleted earlier would be read again.
    shortest: Duration,
}

pub(super) fn read(mut section: Section, sync: &Sync, report: &mut Report) -> RetentionDefaults {
    let shortest = sync.lookback.max(DAY * sync.reconcile_days);
    let common = Retention {
        incidents: section.span("incidents", shortest..=LONGEST),
        runs: section.duration("runs", DAY..=LONGEST, Retention::default().runs),
    };
    report.close(section);
    RetentionDefaults { common, shortest }
}

impl RetentionDefaults {
    /// A tenant's own word on incidents wins.
    pub(super) fn of_tenant(&self, section: &mut Section) -> Retention {
        let own = section.span("retention", self.shortest..=LONGEST);
        Retention { incidents: own.or(self.common.incidents), ..self.common }
    }
}
