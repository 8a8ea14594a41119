//! Rows of a page for each table: keys, order, one row a key. They know no source; a decoder makes them from its JSON.

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use crate::incident::columns::{
    AlertColumns, CommentColumns, DeviceColumns, EvidenceColumns, IncidentColumns,
};
use crate::incident::hash::{self, Hash};
use crate::incident::raw::RawIncident;
use crate::incident::tenant_check::NamedTenants;
use crate::tenant::Source;

/// The rows of one page, each table sorted by its key.
#[derive(Debug, Default)]
pub struct PageRows<'a> {
    /// The API that served them. What the other one has in addition stays as it is stored.
    pub source: Source,
    /// `incidents` and `incident_payloads`.
    pub incidents: Vec<IncidentRow<'a>>,
    /// `alerts`.
    pub alerts: Vec<AlertRow<'a>>,
    /// `devices`.
    pub devices: Vec<DeviceRow<'a>>,
    /// `alert_devices`: alert id and device id.
    pub alert_devices: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// `evidence`.
    pub evidence: Vec<EvidenceRow<'a>>,
    /// `incident_comments`.
    pub comments: Vec<CommentRow<'a>>,
    /// `rejected_payloads`.
    pub rejected: Vec<RejectedRow<'a>>,
    /// Known keys whose value had another type and was left out.
    pub mistyped: Vec<&'static str>,
    /// Alerts of a list of alerts that belong to no stored incident: they come with their incident.
    pub waiting_alerts: usize,
}

#[derive(Debug)]
pub struct IncidentRow<'a> {
    pub incident_id: i64,
    /// Identifies the version; the API has no version number.
    pub last_update_time: DateTime<Utc>,
    pub columns: IncidentColumns<'a>,
    /// Its keys without a column, as a JSON object.
    pub extra: Option<String>,
    /// Hash of the text as served.
    pub content_hash: Hash,
    pub payload: &'a str,
}

/// An alert and the incident version that listed it.
#[derive(Debug)]
pub struct AlertRow<'a> {
    pub alert_id: Cow<'a, str>,
    /// The incident that listed it.
    pub incident_id: i64,
    /// That incident's `lastUpdateTime`.
    pub last_seen: DateTime<Utc>,
    pub columns: AlertColumns<'a>,
    /// Devices that it names without an id, which have no row.
    pub devices_without_id: i32,
    /// Its keys without a column, as a JSON object.
    pub extra: Option<String>,
}

/// A device's state and the incident version that carried it.
#[derive(Debug)]
pub struct DeviceRow<'a> {
    pub device_id: Cow<'a, str>,
    /// `lastUpdateTime` of the incident version.
    pub last_seen: DateTime<Utc>,
    pub columns: DeviceColumns<'a>,
}

/// An entity of an alert.
#[derive(Debug)]
pub struct EvidenceRow<'a> {
    pub alert_id: Cow<'a, str>,
    /// Stands in for the id that the API does not give.
    pub evidence_hash: Hash,
    pub columns: EvidenceColumns<'a>,
    /// The keys that we do not know, as a JSON object.
    pub extra: Option<String>,
}

/// A comment of an incident.
#[derive(Debug)]
pub struct CommentRow<'a> {
    pub incident_id: i64,
    /// Stands in for an id.
    pub comment_hash: Hash,
    pub columns: CommentColumns<'a>,
}

/// An incident that could not be decoded.
#[derive(Debug)]
pub struct RejectedRow<'a> {
    /// Its id, if that much could be read.
    pub incident_id: Option<i64>,
    pub reason: String,
    pub payload: &'a str,
    /// Hash of the text as served.
    pub content_hash: Hash,
}

/// An incident with all that stands in it.
#[derive(Debug)]
pub struct DecodedIncident<'a> {
    pub row: IncidentRow<'a>,
    pub comments: Vec<CommentRow<'a>>,
    pub alerts: Vec<DecodedAlert<'a>>,
    /// To be checked before a row is used.
    pub named: NamedTenants<'a>,
    /// Known keys whose value had another type and was left out.
    pub mistyped: Vec<&'static str>,
}

/// An alert with all that stands in it.
#[derive(Debug)]
pub struct DecodedAlert<'a> {
    pub row: AlertRow<'a>,
    pub devices: Vec<DeviceRow<'a>>,
    pub evidence: Vec<EvidenceRow<'a>>,
}

impl<'a> CommentRow<'a> {
    pub fn new(incident_id: i64, columns: CommentColumns<'a>) -> Self {
        Self { incident_id, comment_hash: hash::comment_hash(&columns), columns }
    }
}

impl<'a> EvidenceRow<'a> {
    /// `unknown` are the entity's keys without a column, with their JSON.
    pub fn new(
        alert_id: Cow<'a, str>,
        columns: EvidenceColumns<'a>,
        unknown: &[(Cow<'a, str>, &'a RawValue)],
    ) -> Self {
        let evidence_hash = hash::evidence_hash(&columns, unknown);
        Self { alert_id, evidence_hash, columns, extra: extra(unknown) }
    }
}

impl<'a> RejectedRow<'a> {
    pub fn new(element: &'a RawIncident<'_>, reason: String) -> Self {
        Self {
            incident_id: element.head.incident_id,
            reason,
            payload: &element.text,
            content_hash: element.hash,
        }
    }
}

impl<'a> PageRows<'a> {
    pub fn new(
        source: Source,
        incidents: Vec<DecodedIncident<'a>>,
        rejected: Vec<RejectedRow<'a>>,
    ) -> Self {
        let mut rows = Self { source, rejected, ..Self::default() };
        let mut alerts = Vec::new();
        for mut incident in incidents {
            rows.incidents.push(incident.row);
            rows.comments.append(&mut incident.comments);
            rows.mistyped.append(&mut incident.mistyped);
            alerts.append(&mut incident.alerts);
        }
        rows.settle_alerts(alerts);
        rows.order();
        rows
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.incidents.is_empty() && self.alerts.is_empty() && self.rejected.is_empty()
    }

    /// The rows of alerts that were listed without their incidents.
    pub fn of_alerts(
        alerts: Vec<DecodedAlert<'a>>,
        mistyped: Vec<&'static str>,
        waiting_alerts: usize,
    ) -> Self {
        let mut rows = Self { source: Source::Graph, mistyped, waiting_alerts, ..Self::default() };
        rows.settle_alerts(alerts);
        rows.order();
        rows
    }

    /// Ties alerts that were listed without their incidents to the stored version of each incident, and leaves out those
    /// whose incident is not stored.
    pub fn tie_to_incidents(&mut self, version: impl Fn(i64) -> Option<DateTime<Utc>>) {
        let before = self.alerts.len();
        self.alerts.retain_mut(|row| {
            let stored = version(row.incident_id);
            row.last_seen = stored.unwrap_or(row.last_seen);
            stored.is_some()
        });
        self.waiting_alerts += before - self.alerts.len();
        let kept: HashMap<&str, DateTime<Utc>> =
            self.alerts.iter().map(|row| (row.alert_id.as_ref(), row.last_seen)).collect();
        self.alert_devices.retain(|(alert_id, _)| kept.contains_key(alert_id.as_ref()));
        self.evidence.retain(|row| kept.contains_key(row.alert_id.as_ref()));
        let mut seen: HashMap<&str, DateTime<Utc>> = HashMap::new();
        for (alert_id, device_id) in &self.alert_devices {
            let newest = seen.entry(device_id.as_ref()).or_insert(kept[alert_id.as_ref()]);
            *newest = kept[alert_id.as_ref()].max(*newest);
        }
        self.devices.retain_mut(|row| {
            let last_seen = seen.get(row.device_id.as_ref());
            row.last_seen = last_seen.copied().unwrap_or(row.last_seen);
            last_seen.is_some()
        });
    }

    /// An alert that is being moved may stand in two incidents of one page: its newest state wins, then the incident
    /// that was updated last. The devices and entities of the other one are left out.
    fn settle_alerts(&mut self, mut alerts: Vec<DecodedAlert<'a>>) {
        let version =
            |row: &AlertRow<'_>| (row.columns.last_updated_time, row.last_seen, row.incident_id);
        alerts.sort_by(|DecodedAlert { row: a, .. }, DecodedAlert { row: b, .. }| {
            a.alert_id.cmp(&b.alert_id).then_with(|| version(b).cmp(&version(a)))
        });
        alerts.dedup_by(|later, first| later.row.alert_id == first.row.alert_id);
        for mut alert in alerts {
            // The alerts are in order, so ordering the few rows of each is ordering them all, without moving a
            // thousand wide rows about.
            alert.evidence.sort_by_key(|row| row.evidence_hash);
            self.evidence.append(&mut alert.evidence);
            let first = self.alert_devices.len();
            for device in &alert.devices {
                self.alert_devices.push((alert.row.alert_id.clone(), device.device_id.clone()));
            }
            self.alert_devices[first..].sort_unstable();
            self.devices.append(&mut alert.devices);
            self.alerts.push(alert.row);
        }
    }

    /// Sorts every table by its key, so that two writers never lock in opposite order, and leaves one row a key, which
    /// `ON CONFLICT DO UPDATE` demands.
    fn order(&mut self) {
        self.incidents.sort_unstable_by_key(|row| row.incident_id);
        self.devices.sort_by(|a, b| {
            a.device_id.cmp(&b.device_id).then_with(|| b.last_seen.cmp(&a.last_seen))
        });
        self.devices.dedup_by(|later, first| later.device_id == first.device_id);
        self.alert_devices.dedup();
        self.evidence.dedup_by(|later, first| {
            (&later.alert_id, later.evidence_hash) == (&first.alert_id, first.evidence_hash)
        });
        self.comments.sort_by_key(|row| (row.incident_id, row.comment_hash));
        self.comments.dedup_by_key(|row| (row.incident_id, row.comment_hash));
    }
}

/// Two keys and a tenant's id must fit an index entry of Postgres, which takes 2,704 bytes; real ids have about forty.
pub fn is_key(id: &str) -> bool {
    id.len() <= 1_000
}

/// The keys of an incident or alert without a column, as a JSON object; without nulls and annotations of OData.
pub fn stated_extra(mut unknown: Vec<(Cow<'_, str>, &RawValue)>) -> Option<String> {
    unknown.retain(|(key, raw)| raw.get() != "null" && !key.contains("@odata."));
    extra(&unknown)
}

fn extra(unknown: &[(Cow<'_, str>, &RawValue)]) -> Option<String> {
    if unknown.is_empty() {
        return None;
    }
    let object: HashMap<&str, &RawValue> =
        unknown.iter().map(|(key, raw)| (key.as_ref(), *raw)).collect();
    serde_json::to_string(&object).ok()
}
