//! The announced end of an API, and a notice about the tenants that still use it: for `check`, `status`, the status page and
//! the log.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};

use crate::entra::Tenant;
use crate::error::Peer;
use crate::tenant::Source;

/// The API that ends. Source: Message Center post MC1220762, "MDE and XDR APIs retiring", of 22 January 2026. The documentation
/// of `/api/incidents` announces no end.
const SOURCE: Source = Source::Defender;
const END: NaiveDate = NaiveDate::from_ymd_opt(2027, 2, 1).expect("a valid date");
const REFERENCE: &str = "MC1220762";
const CAVEAT: &str = "announced by Microsoft; scope of /api/incidents not confirmed";

/// How near the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// At most 90 days ahead.
    Planned,
    /// At most 30 days ahead.
    Near,
    /// At most 7 days ahead.
    Imminent,
    /// The day has come.
    Over,
}

impl Urgency {
    fn of(days_left: i64) -> Option<Self> {
        match days_left {
            91.. => None,
            31..=90 => Some(Self::Planned),
            8..=30 => Some(Self::Near),
            1..=7 => Some(Self::Imminent),
            ..=0 => Some(Self::Over),
        }
    }
}

/// What operators read about the tenants on the API that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetirementNotice {
    /// The enabled tenants that are read from it.
    pub tenants: usize,
    /// Negative after the end.
    pub days_left: i64,
    pub urgency: Urgency,
}

impl RetirementNotice {
    /// `None` long before the end, and where no tenant is read from this API.
    pub fn of<'a>(
        tenants: impl IntoIterator<Item = &'a Arc<Tenant>>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let tenants = tenants.into_iter().filter(|tenant| is_affected(tenant)).count();
        Self::about(tenants, now)
    }

    fn about(tenants: usize, now: DateTime<Utc>) -> Option<Self> {
        let days_left = END.signed_duration_since(now.date_naive()).num_days();
        let urgency = Urgency::of(days_left).filter(|_| tenants > 0)?;
        Some(Self { tenants, days_left, urgency })
    }

    /// One line for the whole fleet.
    pub fn describe(&self) -> String {
        let Self { tenants, days_left, urgency } = self;
        let use_api = if *tenants == 1 { "tenant uses" } else { "tenants use" };
        let api = Peer::from(SOURCE);
        let when = match days_left {
            0 => "today".to_owned(),
            1 => "in 1 day".to_owned(),
            -1 => "1 day ago".to_owned(),
            1.. => format!("in {days_left} days"),
            _ => format!("{} days ago", -days_left),
        };
        let end = if *urgency == Urgency::Over { "was to end" } else { "ends" };
        let advice = match urgency {
            Urgency::Planned => "Plan the move to Microsoft Graph: docs/setup/which-source.md",
            Urgency::Near => "Move them: incident-sync tenant move --all --to graph",
            Urgency::Imminent | Urgency::Over => {
                "Move them now: incident-sync tenant move --all --to graph"
            }
        };
        format!(
            "{tenants} {use_api} {api}, which {end} on {END}, {when} ({CAVEAT}; {REFERENCE}). {advice}"
        )
    }

    /// The announcement that concerns one tenant, for `status --json`; null where none does.
    pub fn of_tenant(tenant: Option<&Arc<Tenant>>, now: DateTime<Utc>) -> Value {
        match Self::of(tenant, now) {
            None => Value::Null,
            Some(notice) => json!({
                "source": SOURCE.as_str(),
                "announced_end": END,
                "days_left": notice.days_left,
                "reference": REFERENCE,
                "note": CAVEAT,
            }),
        }
    }
}

/// The API that ends, for fields of the log.
pub fn source() -> Source {
    SOURCE
}

fn is_affected(tenant: &Tenant) -> bool {
    tenant.enabled && tenant.source() == SOURCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(tenants: usize, at: &str) -> Option<RetirementNotice> {
        RetirementNotice::about(tenants, at.parse().unwrap())
    }

    #[test]
    fn urgency_grows_at_90_30_7_and_0_days() {
        for (at, expected) in [
            ("2026-11-02T23:59:59Z", None),
            ("2026-11-03T00:00:00Z", Some((90, Urgency::Planned))),
            ("2026-11-30T21:00:00Z", Some((63, Urgency::Planned))),
            ("2027-01-01T23:59:59Z", Some((31, Urgency::Planned))),
            ("2027-01-02T00:00:00Z", Some((30, Urgency::Near))),
            ("2027-01-24T12:00:00Z", Some((8, Urgency::Near))),
            ("2027-01-25T00:00:00Z", Some((7, Urgency::Imminent))),
            ("2027-01-31T23:59:59Z", Some((1, Urgency::Imminent))),
            ("2027-02-01T00:00:00Z", Some((0, Urgency::Over))),
            ("2028-02-01T00:00:00Z", Some((-365, Urgency::Over))),
        ] {
            let found = about(2, at).map(|notice| (notice.days_left, notice.urgency));
            assert_eq!(found, expected, "{at}");
        }
    }

    #[test]
    fn notice_is_one_line_for_each_threshold() {
        let caveat = "announced by Microsoft; scope of /api/incidents not confirmed; MC1220762";
        for (tenants, at, begin, end) in [
            (
                41,
                "2026-11-30T21:00:00Z",
                "41 tenants use the Defender API, which ends on 2027-02-01, in 63 days",
                "Plan the move to Microsoft Graph: docs/setup/which-source.md",
            ),
            (
                41,
                "2027-01-10T00:00:00Z",
                "41 tenants use the Defender API, which ends on 2027-02-01, in 22 days",
                "Move them: incident-sync tenant move --all --to graph",
            ),
            (
                1,
                "2027-01-31T00:00:00Z",
                "1 tenant uses the Defender API, which ends on 2027-02-01, in 1 day",
                "Move them now: incident-sync tenant move --all --to graph",
            ),
            (
                1,
                "2027-02-01T09:00:00Z",
                "1 tenant uses the Defender API, which was to end on 2027-02-01, today",
                "Move them now: incident-sync tenant move --all --to graph",
            ),
            (
                300,
                "2027-02-03T00:00:00Z",
                "300 tenants use the Defender API, which was to end on 2027-02-01, 2 days ago",
                "Move them now: incident-sync tenant move --all --to graph",
            ),
        ] {
            let line = about(tenants, at).unwrap().describe();
            assert_eq!(line, format!("{begin} ({caveat}). {end}"));
        }
    }

    #[test]
    fn nothing_is_said_without_affected_tenant() {
        assert_eq!(about(0, "2027-01-31T00:00:00Z"), None);
        assert_eq!(RetirementNotice::of_tenant(None, DateTime::UNIX_EPOCH), Value::Null);
    }
}
