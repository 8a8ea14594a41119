//! How a database differs from the API.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use uuid::Uuid;

use crate::entra::Tenant;
use crate::incident::decode::SHARED_ENTITY_TYPES;
use crate::incident::rows::{AlertRow, EvidenceRow, PageRows};
use crate::store::compare::StoredAlert;

/// How one tenant's database differs from its API.
#[derive(Debug, Serialize)]
pub struct Drift {
    pub tenant_id: Uuid,
    /// The operator's name for it.
    pub name: String,
    /// The API that was read.
    pub source: &'static str,
    pub compared: usize,
    /// Incidents that changed too recently to be compared.
    pub too_recent: usize,
    /// Listed by the API, not stored.
    pub missing: Vec<i64>,
    /// Stored in an older version.
    pub older: Vec<i64>,
    /// Stored, not listed by the API.
    pub extra: Vec<i64>,
    /// Alerts that are missing, older, or without some of their devices or evidence, of incidents that are current.
    pub alerts: Vec<String>,
    /// In quarantine instead of stored.
    pub rejected: usize,
    /// Ranges that the API fails to serve and that cannot be compared.
    pub gaps: usize,
    /// Why the comparison is not complete.
    pub failure: Option<String>,
    /// The owner of that failure.
    pub who_must_act: Option<&'static str>,
}

impl Drift {
    pub(super) fn none(tenant: &Tenant) -> Self {
        Self {
            tenant_id: tenant.id.0,
            name: tenant.name.clone(),
            source: tenant.source().as_str(),
            compared: 0,
            too_recent: 0,
            missing: Vec::new(),
            older: Vec::new(),
            extra: Vec::new(),
            alerts: Vec::new(),
            rejected: 0,
            gaps: 0,
            failure: None,
            who_must_act: None,
        }
    }

    /// Whether everything was compared and database and API agree.
    pub fn is_clean(&self) -> bool {
        let Self { missing, older, extra, alerts, rejected, gaps, failure, .. } = self;
        let lists_are_empty =
            missing.is_empty() && older.is_empty() && extra.is_empty() && alerts.is_empty();
        lists_are_empty && *rejected == 0 && *gaps == 0 && failure.is_none()
    }
}

fn is_shared(row: &EvidenceRow<'_>) -> bool {
    let entity_type = row.columns.entity_type.as_deref().unwrap_or_default();
    SHARED_ENTITY_TYPES.iter().any(|shared| shared.eq_ignore_ascii_case(entity_type))
}

/// The alerts of the page that are missing, older, or incomplete in the database. Of alerts that the other source served, only
/// evidence of types that both sources have is compared.
pub(super) fn differing_alerts(rows: &PageRows<'_>, stored: &[StoredAlert]) -> Vec<String> {
    let stored: HashMap<&str, &StoredAlert> =
        stored.iter().map(|alert| (alert.alert_id.as_str(), alert)).collect();
    let (mut evidence, mut shared): (HashMap<&str, i64>, HashMap<&str, i64>) = Default::default();
    for row in &rows.evidence {
        *evidence.entry(row.alert_id.as_ref()).or_default() += 1;
        *shared.entry(row.alert_id.as_ref()).or_default() += i64::from(is_shared(row));
    }
    let mut devices: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (alert, device) in &rows.alert_devices {
        devices.entry(alert.as_ref()).or_default().insert(device.as_ref());
    }
    let differs = |row: &&AlertRow<'_>| {
        let id = row.alert_id.as_ref();
        let Some(stored) = stored.get(id) else { return true };
        let served = (row.columns.last_updated_time, row.last_seen);
        let held = (stored.last_updated_time, stored.last_seen);
        let is_incomplete = || {
            let (held, served) = match stored.source.as_deref() == Some(rows.source.as_str()) {
                true => (stored.evidence, &evidence),
                false => (stored.shared_evidence, &shared),
            };
            held != served.get(id).copied().unwrap_or(0)
                || usize::try_from(stored.devices).ok()
                    != Some(devices.get(id).map_or(0, HashSet::len))
        };
        held < served || held == served && stored.incident_id == row.incident_id && is_incomplete()
    };
    rows.alerts.iter().filter(differs).map(|row| row.alert_id.clone().into_owned()).collect()
}
