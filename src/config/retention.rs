//! `[retention]`: how long data is kept.

use std::time::Duration;

use super::section::{Report, Section};
use super::{DAY, Sync};
use crate::tenant::Retention;

const RETENTION_MAX: Duration = DAY.saturating_mul(100 * 365);

/// The retention of tenants without a setting of their own.
pub(super) struct RetentionDefaults {
    common: Retention,
    /// The API would return incidents again that are deleted earlier.
    minimum: Duration,
}

pub(super) fn read(mut section: Section, sync: &Sync, report: &mut Report) -> RetentionDefaults {
    let minimum = sync.lookback.max(DAY * sync.reconcile_days);
    let common = Retention {
        incidents: section.span("incidents", minimum..=RETENTION_MAX),
        runs: section.duration("runs", DAY..=RETENTION_MAX, Retention::default().runs),
    };
    report.close(section);
    RetentionDefaults { common, minimum }
}

impl RetentionDefaults {
    /// The retention of a tenant, whose own key overrides that of incidents.
    pub(super) fn of_tenant(&self, section: &mut Section) -> Retention {
        let own = section.span("retention", self.minimum..=RETENTION_MAX);
        Retention { incidents: own.or(self.common.incidents), ..self.common }
    }
}
