//! Whether another source names incidents and alerts as the stored ones are named. Otherwise its first page would store them
//! a second time.

use chrono::{DateTime, Utc};

use crate::error::SyncError;
use crate::incident::rows::PageRows;
use crate::store::source::{StoredExtent, StoredIdentity};
use crate::tenant::Source;

/// How an incident of the new source is identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServedIdentity {
    pub(crate) incident_id: i64,
    pub(crate) created_time: Option<DateTime<Utc>>,
    pub(crate) last_update_time: DateTime<Utc>,
    pub(crate) alerts: Vec<String>,
}

/// How much was found to agree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Agreement {
    incidents: usize,
    alerts: usize,
}

impl Agreement {
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { incidents: self.incidents + other.incidents, alerts: self.alerts + other.alerts }
    }

    /// Whether ids of every stored kind were compared.
    pub(crate) fn is_proof(self, stored: StoredExtent) -> bool {
        let are_incidents_proven = stored.newest.is_none() || self.incidents > 0;
        are_incidents_proven && (!stored.has_alerts || self.alerts > 0)
    }
}

/// The identities on a page.
pub(crate) fn served_identities(rows: &PageRows<'_>) -> Vec<ServedIdentity> {
    let identity = |row: &crate::incident::rows::IncidentRow<'_>| {
        let own = rows.alerts.iter().filter(|alert| alert.incident_id == row.incident_id);
        ServedIdentity {
            incident_id: row.incident_id,
            created_time: row.columns.created_time,
            last_update_time: row.last_update_time,
            alerts: own.map(|alert| alert.alert_id.clone().into_owned()).collect(),
        }
    };
    rows.incidents.iter().map(identity).collect()
}

/// Compares each served incident with the stored one of the same id. The first difference is the error.
pub(crate) fn compare(
    api: Source,
    served: &[ServedIdentity],
    stored: &[StoredIdentity],
) -> Result<Agreement, SyncError> {
    let mut agreement = Agreement::default();
    for served in served {
        let id = served.incident_id;
        let Some(stored) = stored.iter().find(|stored| stored.incident_id == id) else { continue };
        let compared = compare_incident(served, stored)
            .map_err(|what| SyncError::SourceMismatch { api, incident_id: Some(id), what })?;
        agreement = agreement.plus(compared);
    }
    Ok(agreement)
}

fn compare_incident(
    served: &ServedIdentity,
    stored: &StoredIdentity,
) -> Result<Agreement, &'static str> {
    // An incident whose time of creation is unknown proves nothing.
    let (Some(served_created), Some(stored_created)) = (served.created_time, stored.created_time)
    else {
        return Ok(Agreement::default());
    };
    if served_created != stored_created {
        return Err("an incident has the id of a stored one and another time of creation");
    }
    let is_served = |id: &String| served.alerts.contains(id);
    let has_other_case = |id: &String| {
        !stored.alerts.contains(id)
            && stored.alerts.iter().any(|stored| stored.to_lowercase() == id.to_lowercase())
    };
    if served.alerts.iter().any(has_other_case) {
        return Err("an alert id differs from the stored one in upper and lower case");
    }
    let met = stored.alerts.iter().filter(|id| is_served(id)).count();
    if met == 0 && !served.alerts.is_empty() && !stored.alerts.is_empty() {
        return Err("none of the alerts of an incident is stored");
    }
    let is_same_version = served.last_update_time == stored.last_update_time;
    if is_same_version && !stored.current_alerts.iter().all(is_served) {
        return Err("the same version of an incident lacks a stored alert");
    }
    Ok(Agreement { incidents: 1, alerts: met })
}

/// The error if no page held enough to compare.
pub(crate) fn nothing_compared(api: Source, agreement: Agreement) -> SyncError {
    let what = if agreement.incidents == 0 {
        "none of the incidents that it lists is stored"
    } else {
        "none of the alerts that it lists is stored"
    };
    SyncError::SourceMismatch { api, incident_id: None, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
    }

    fn ids(alerts: &[&str]) -> Vec<String> {
        alerts.iter().map(|id| (*id).to_owned()).collect()
    }

    fn served(updated: i64, alerts: &[&str]) -> ServedIdentity {
        ServedIdentity {
            incident_id: 7,
            created_time: Some(at(0)),
            last_update_time: at(updated),
            alerts: ids(alerts),
        }
    }

    fn stored(updated: i64, alerts: &[&str], current: &[&str]) -> StoredIdentity {
        StoredIdentity {
            incident_id: 7,
            created_time: Some(at(0)),
            last_update_time: at(updated),
            alerts: ids(alerts),
            current_alerts: ids(current),
        }
    }

    fn agree(served: &ServedIdentity, stored: &StoredIdentity) -> Option<(usize, usize)> {
        let compared =
            compare(Source::Graph, std::slice::from_ref(served), std::slice::from_ref(stored));
        compared.ok().map(|agreement| (agreement.incidents, agreement.alerts))
    }

    #[test]
    fn equal_ids_and_times_agree() {
        let held = stored(9, &["a1", "a2"], &["a1", "a2"]);
        assert_eq!(agree(&served(9, &["a2", "a1"]), &held), Some((1, 2)));
        assert_eq!(agree(&served(9, &["a2", "a1", "a3"]), &held), Some((1, 2)));
    }

    #[test]
    fn other_time_of_creation_is_refused() {
        let later = ServedIdentity { created_time: Some(at(1)), ..served(9, &["a1"]) };
        assert_eq!(agree(&later, &stored(9, &["a1"], &["a1"])), None);
    }

    #[test]
    fn alert_id_in_other_case_is_refused() {
        let held = stored(5, &["a1", "a2"], &["a1", "a2"]);
        assert_eq!(agree(&served(9, &["a2", "A1"]), &held), None);
        assert_eq!(agree(&served(9, &["A1"]), &held), None);
    }

    #[test]
    fn alerts_without_intersection_are_refused() {
        assert_eq!(agree(&served(9, &["b1"]), &stored(5, &["a1"], &[])), None);
        // Merged into another incident, or not yet with an alert.
        assert_eq!(agree(&served(9, &[]), &stored(5, &["a1"], &["a1"])), Some((1, 0)));
        assert_eq!(agree(&served(9, &["a1"]), &stored(5, &[], &[])), Some((1, 0)));
    }

    #[test]
    fn same_version_must_list_each_stored_alert() {
        let held = stored(9, &["a0", "a1", "a2"], &["a1", "a2"]);
        assert_eq!(agree(&served(9, &["a1"]), &held), None);
        assert_eq!(agree(&served(9, &["a1", "a2"]), &held), Some((1, 2)), "a0 has left it");
        assert_eq!(agree(&served(10, &["a1"]), &held), Some((1, 1)), "a later version");
    }

    #[test]
    fn incident_without_time_of_creation_proves_nothing() {
        let unknown = ServedIdentity { created_time: None, ..served(9, &["a1"]) };
        assert_eq!(agree(&unknown, &stored(9, &["a1"], &["a1"])), Some((0, 0)));
    }

    #[test]
    fn proof_needs_each_kind_that_is_stored() {
        let extent = |incidents: bool, has_alerts| StoredExtent {
            newest: incidents.then(|| at(0)),
            has_alerts,
        };
        let agreement = |incidents, alerts| Agreement { incidents, alerts };
        assert!(agreement(0, 0).is_proof(extent(false, false)));
        assert!(!agreement(0, 0).is_proof(extent(true, false)));
        assert!(agreement(1, 0).is_proof(extent(true, false)));
        assert!(!agreement(1, 0).is_proof(extent(true, true)));
        assert!(agreement(1, 1).is_proof(extent(true, true)));
    }
}
