//! From Microsoft's words to our tables: keys, de-duplication, hashes. The only place where `entities` become evidence.

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use crate::error::{SyncError, shown};
use crate::incident::decode::{self, Alert, Comment, Device, Entity, Incident, IncidentKey};
use crate::tenant::TenantId;

/// 128 bits of SHA-256: enough that no two texts of one tenant meet, and half the index.
pub type Hash = [u8; 16];

/// One incident of a page before it is decoded.
#[derive(Debug)]
pub struct RawIncident<'a> {
    /// Its id and version, as far as they can be read.
    pub head: IncidentKey,
    /// Hash of the text as served.
    pub hash: Hash,
    /// The text, as Postgres can store it.
    pub text: Cow<'a, str>,
}

impl<'a> RawIncident<'a> {
    /// An element that was already looked at, from its text as served.
    pub fn with_key(raw: &'a str, head: IncidentKey, hash: Hash) -> Self {
        Self { head, hash, text: decode::storable(raw) }
    }
}

/// Looks at each incident of a page just enough to know which one and which version it is.
pub fn elements<'a>(incidents: impl Iterator<Item = &'a str>) -> Vec<RawIncident<'a>> {
    let element = |raw: &'a str| {
        let text = decode::storable(raw);
        RawIncident {
            head: decode::head(&text),
            hash: shorten(&Sha256::digest(raw.as_bytes())),
            text,
        }
    };
    incidents.map(element).collect()
}

/// An incident version that a page lists: all that a reading plan needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedVersion {
    /// The incident id, or a negative number made of the hash for an element without an id.
    pub id: i64,
    /// `lastUpdateTime`, if it could be read.
    pub updated: Option<DateTime<Utc>>,
}

impl From<&RawIncident<'_>> for ListedVersion {
    fn from(element: &RawIncident<'_>) -> Self {
        let hash_id = || i64::from_le_bytes(std::array::from_fn(|at| element.hash[at])) | i64::MIN;
        Self {
            id: element.head.incident_id.unwrap_or_else(hash_id),
            updated: element.head.last_update_time,
        }
    }
}

/// Leaves the newest version of each incident that a page shows twice; of equals the last one served.
pub fn newest_of_each<'a>(elements: Vec<RawIncident<'a>>) -> Vec<RawIncident<'a>> {
    let mut newest: HashMap<Result<i64, Hash>, RawIncident<'a>> =
        HashMap::with_capacity(elements.len());
    for element in elements {
        let key = element.head.incident_id.ok_or(element.hash);
        let is_older = newest
            .get(&key)
            .is_some_and(|held| held.head.last_update_time > element.head.last_update_time);
        if !is_older {
            newest.insert(key, element);
        }
    }
    newest.into_values().collect()
}

fn shorten(digest: &[u8]) -> Hash {
    std::array::from_fn(|at| digest[at])
}

/// The rows of one page, each table sorted by its key.
#[derive(Debug, Default)]
pub struct PageRows<'a> {
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
}

/// An incident version.
#[derive(Debug)]
pub struct IncidentRow<'a> {
    /// Its key.
    pub incident_id: i64,
    /// Which version it is.
    pub last_update_time: DateTime<Utc>,
    /// The other fields.
    pub incident: Incident<'a>,
    /// Hash of the text as served.
    pub content_hash: Hash,
    /// The text.
    pub payload: &'a str,
}

/// An alert and the incident version that listed it.
#[derive(Debug)]
pub struct AlertRow<'a> {
    /// Its key.
    pub alert_id: Cow<'a, str>,
    /// The incident that listed it.
    pub incident_id: i64,
    /// That incident's `lastUpdateTime`.
    pub last_seen: DateTime<Utc>,
    /// The other fields.
    pub alert: Alert<'a>,
}

/// A device's state and the incident version that carried it.
#[derive(Debug)]
pub struct DeviceRow<'a> {
    /// Its key.
    pub device_id: Cow<'a, str>,
    /// `lastUpdateTime` of the incident version.
    pub last_seen: DateTime<Utc>,
    /// The other fields.
    pub device: Device<'a>,
}

/// An entity of an alert.
#[derive(Debug)]
pub struct EvidenceRow<'a> {
    /// The alert.
    pub alert_id: Cow<'a, str>,
    /// Stands in for the id that the API does not give.
    pub evidence_hash: Hash,
    /// Its fields.
    pub entity: Entity<'a>,
    /// The keys that we do not know, as a JSON object.
    pub extra: Option<String>,
}

/// A comment of an incident.
#[derive(Debug)]
pub struct CommentRow<'a> {
    /// The incident.
    pub incident_id: i64,
    /// Stands in for an id.
    pub comment_hash: Hash,
    /// Its fields.
    pub comment: Comment<'a>,
}

/// An incident that could not be decoded.
#[derive(Debug)]
pub struct RejectedRow<'a> {
    /// Its id, if that much could be read.
    pub incident_id: Option<i64>,
    /// Why.
    pub reason: String,
    /// The text.
    pub payload: &'a str,
    /// Hash of the text as served.
    pub content_hash: Hash,
}

/// Decodes the given incidents of `tenant` into rows. An incident that names another tenant fails them all: the whole
/// answer is then suspect.
pub fn of_page<'a>(
    tenant: TenantId,
    elements: &'a [RawIncident<'_>],
) -> Result<PageRows<'a>, SyncError> {
    let mut rows = PageRows::default();
    for element in elements {
        match decode(element) {
            Ok(row) => {
                check_tenant(tenant, row.incident_id, row.incident.incident_uri.as_deref())?;
                rows.add(row);
            }
            Err(reason) => {
                // The quarantine is the tenant's as well.
                for uri in decode::incident_uris(&element.text) {
                    check_tenant(tenant, element.head.incident_id.unwrap_or_default(), Some(&uri))?;
                }
                rows.rejected.push(rejected(element, reason));
            }
        }
    }
    rows.settle_alerts();
    rows.order();
    Ok(rows)
}

/// The quarantine row of an element.
pub fn rejected<'a>(element: &'a RawIncident<'_>, reason: String) -> RejectedRow<'a> {
    RejectedRow {
        incident_id: element.head.incident_id,
        reason,
        payload: &element.text,
        content_hash: element.hash,
    }
}

fn decode<'a>(element: &'a RawIncident<'_>) -> Result<IncidentRow<'a>, String> {
    decode::check_growth(&element.text)?;
    let incident = decode::decode(&element.text)?;
    let incident_id = incident.incident_id.ok_or("incidentId is missing or no whole number")?;
    let last_update_time =
        incident.last_update_time.ok_or("lastUpdateTime is missing or no time")?;
    // A key that is repeated with another value: each run would look one incident up and store another one.
    if element.head
        != (IncidentKey {
            incident_id: Some(incident_id),
            last_update_time: Some(last_update_time),
        })
    {
        return Err("incidentId or lastUpdateTime is given twice".to_owned());
    }
    Ok(IncidentRow {
        incident_id,
        last_update_time,
        incident,
        content_hash: element.hash,
        payload: &element.text,
    })
}

/// `incidentUri` carries `?tid=<tenant>` in real payloads (Swimlane and Elastic fixtures). Each parameter that names a tenant is
/// looked at, in any case and wherever it stands: a link may be relative, or no URL at all.
fn check_tenant(tenant: TenantId, incident_id: i64, uri: Option<&str>) -> Result<(), SyncError> {
    let parameters = uri.unwrap_or_default().split(['?', '&', '#', ';']).skip(1);
    let named = parameters.flat_map(|parameter| form_urlencoded::parse(parameter.as_bytes())).find(
        |(key, value)| {
            let names_tenant =
                TENANT_PARAMETERS.iter().any(|name| key.trim().eq_ignore_ascii_case(name));
            names_tenant && !value.trim().eq_ignore_ascii_case(&tenant.to_string())
        },
    );
    named.map_or(Ok(()), |(_, tid)| {
        Err(SyncError::ForeignIncident { incident_id, uri_tid: shown(&tid) })
    })
}

/// Portals of Microsoft's name the tenant by one of these.
const TENANT_PARAMETERS: [&str; 3] = ["tid", "tenantId", "tenant_id"];

impl<'a> PageRows<'a> {
    fn add(&mut self, mut row: IncidentRow<'a>) {
        self.mistyped.append(&mut row.incident.mistyped);
        for comment in row.incident.comments.take().unwrap_or_default() {
            let comment_hash = comment_hash(&comment);
            self.comments.push(CommentRow { incident_id: row.incident_id, comment_hash, comment });
        }
        for mut alert in row.incident.alerts.take().unwrap_or_default() {
            self.mistyped.append(&mut alert.mistyped);
            let Some(alert_id) = alert.alert_id.take().filter(|id| is_key(id)) else {
                self.mistyped.push("alertId");
                continue;
            };
            let last_seen = row.last_update_time;
            self.alerts.push(AlertRow { alert_id, incident_id: row.incident_id, last_seen, alert });
        }
        self.incidents.push(row);
    }

    /// An alert that is being moved may stand in two incidents of one page: its newest state wins, then the incident
    /// that was updated last. Only then do its devices and entities become rows.
    fn settle_alerts(&mut self) {
        let version =
            |row: &AlertRow<'_>| (row.alert.last_updated_time, row.last_seen, row.incident_id);
        self.alerts
            .sort_by(|a, b| a.alert_id.cmp(&b.alert_id).then_with(|| version(b).cmp(&version(a))));
        self.alerts.dedup_by(|later, first| later.alert_id == first.alert_id);
        for row in &mut self.alerts {
            let (first_device, first_entity) = (self.alert_devices.len(), self.evidence.len());
            for mut device in row.alert.devices.take().unwrap_or_default() {
                self.mistyped.append(&mut device.mistyped);
                let Some(device_id) = device.device_id.take().filter(|id| is_key(id)) else {
                    self.mistyped.push("mdatpDeviceId");
                    continue;
                };
                self.alert_devices.push((row.alert_id.clone(), device_id.clone()));
                self.devices.push(DeviceRow { device_id, last_seen: row.last_seen, device });
            }
            for mut entity in row.alert.entities.take().unwrap_or_default() {
                self.mistyped.append(&mut entity.mistyped);
                let (extra, evidence_hash) = (extra(&entity), evidence_hash(&entity));
                self.evidence.push(EvidenceRow {
                    alert_id: row.alert_id.clone(),
                    evidence_hash,
                    entity,
                    extra,
                });
            }
            // The alerts are in order, so ordering the few rows of each is ordering them all, without moving a
            // thousand wide rows about.
            self.alert_devices[first_device..].sort_unstable();
            self.evidence[first_entity..].sort_by_key(|row| row.evidence_hash);
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
fn is_key(id: &str) -> bool {
    id.len() <= 1_000
}

fn extra(entity: &Entity<'_>) -> Option<String> {
    if entity.unknown.is_empty() {
        return None;
    }
    let object: HashMap<&str, &RawValue> =
        entity.unknown.iter().map(|(key, raw)| (key.as_ref(), *raw)).collect();
    serde_json::to_string(&object).ok()
}

/// Feeds what is present, each value with its name and length, so that no two contents read alike.
struct Fingerprint(Sha256);

impl Fingerprint {
    fn feed(&mut self, name: &str, value: &[u8]) {
        self.0.update(name.as_bytes());
        self.0.update(value.len().to_le_bytes());
        self.0.update(value);
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.feed(name, value.as_bytes());
        }
    }

    fn number(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value {
            self.feed(name, &value.to_le_bytes());
        }
    }

    fn time(&mut self, name: &str, value: Option<DateTime<Utc>>) {
        self.number(name, value.map(|time| time.timestamp_micros()));
    }

    fn finish(self) -> Hash {
        shorten(&self.0.finalize())
    }
}

fn comment_hash(comment: &Comment<'_>) -> Hash {
    let mut print = Fingerprint(Sha256::new());
    print.text("comment", comment.comment.as_deref());
    print.text("created_by", comment.created_by.as_deref());
    print.time("created_time", comment.created_time);
    print.finish()
}

/// The key of an entity. It is stored, so what goes in, its names and its order must never change. `verdict` and
/// `remediationStatus` stay out: they change while the entity stays the same.
fn evidence_hash(entity: &Entity<'_>) -> Hash {
    let mut print = Fingerprint(Sha256::new());
    macro_rules! feed {
        ($method:ident: $($field:ident)*) => { $(print.$method(stringify!($field), entity.$field.as_deref());)* };
        (copied $method:ident: $($field:ident)*) => { $(print.$method(stringify!($field), entity.$field);)* };
    }
    feed!(text: entity_type sha1 sha256 file_name file_path process_command_line ip_address url account_name domain_name
        user_sid aad_user_id user_principal_name mailbox_display_name mailbox_address cluster_by cluster_by_value sender
        recipient subject internet_message_id delivery_action security_group_id security_group_name registry_hive
        registry_key registry_value_type registry_value device_id);
    feed!(copied number: process_id parent_process_id email_count);
    feed!(copied time: evidence_creation_time process_creation_time parent_process_creation_time);
    let mut unknown: Vec<_> =
        entity.unknown.iter().map(|(key, raw)| (key.as_ref(), raw.get())).collect();
    unknown.sort_unstable();
    for (key, json) in unknown {
        print.text(key, Some(json));
    }
    print.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::{Json, Random, each_seed};

    const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(1));

    fn rows_of(text: &str, check: impl FnOnce(&PageRows<'_>)) {
        let page = decode::split(text).unwrap();
        let elements = newest_of_each(elements(page.incidents.iter().map(|raw| raw.get())));
        check(&of_page(TENANT, &elements).unwrap());
    }

    fn incident(id: i64, updated: &str, alerts: &str) -> String {
        format!(r#"{{"incidentId":{id},"lastUpdateTime":"{updated}","alerts":[{alerts}]}}"#)
    }

    #[test]
    fn duplicate_incident_keeps_newest_version() {
        let older = incident(1, "2026-01-01T00:00:00Z", r#"{"alertId":"old"}"#);
        let newer = incident(1, "2026-01-01T00:00:01Z", r#"{"alertId":"new"}"#);
        for text in
            [format!("{{\"value\":[{older},{newer}]}}"), format!("{{\"value\":[{newer},{older}]}}")]
        {
            rows_of(&text, |rows| {
                assert_eq!(rows.incidents.len(), 1);
                assert_eq!(rows.alerts[0].alert_id, "new");
            });
        }
    }

    #[test]
    fn moved_alert_stays_with_newest_incident() {
        let from = incident(
            1,
            "2026-01-01T00:00:05Z",
            r#"{"alertId":"a","lastUpdatedTime":"2026-01-01T00:00:00Z"}"#,
        );
        let to = incident(
            2,
            "2026-01-01T00:00:06Z",
            r#"{"alertId":"a","lastUpdatedTime":"2026-01-01T00:00:00Z"}"#,
        );
        rows_of(&format!("{{\"value\":[{to},{from}]}}"), |rows| {
            assert_eq!(rows.alerts.len(), 1);
            assert_eq!(rows.alerts[0].incident_id, 2);
        });
    }

    #[test]
    fn device_named_twice_in_an_alert_is_one_row() {
        let alert = r#"{"alertId":"a","devices":[{"mdatpDeviceId":"d","riskScore":"Low"},{"mdatpDeviceId":"d"},{"version":"1"}]}"#;
        rows_of(
            &format!("{{\"value\":[{}]}}", incident(1, "2026-01-01T00:00:00Z", alert)),
            |rows| {
                assert_eq!((rows.devices.len(), rows.alert_devices.len()), (1, 1));
                assert_eq!(rows.mistyped, ["mdatpDeviceId"]);
            },
        );
    }

    #[test]
    fn overlong_keys_are_left_out_of_their_incident() {
        let (fits, long) = ("d".repeat(1_000), "d".repeat(1_001));
        let alert = |id: &str| {
            format!(
                r#"{{"alertId":"{id}","devices":[{{"mdatpDeviceId":"{fits}"}},{{"mdatpDeviceId":"{long}"}}]}}"#
            )
        };
        let alerts = format!("{},{}", alert(&fits), alert(&long));
        rows_of(
            &format!("{{\"value\":[{}]}}", incident(1, "2026-01-01T00:00:00Z", &alerts)),
            |rows| {
                assert_eq!(
                    (rows.incidents.len(), rows.alerts.len(), rows.alert_devices.len()),
                    (1, 1, 1)
                );
                assert_eq!(rows.mistyped, ["alertId", "mdatpDeviceId"]);
            },
        );
    }

    #[test]
    fn null_filled_and_sparse_entities_are_one_evidence() {
        let entities = r#"{"entityType":"Ip","ipAddress":"::1","url":null,"verdict":"Suspicious"},{"entityType":"Ip","ipAddress":"::1"},
            {"entityType":"Ip","ipAddress":"::1","new":1}"#;
        let alert = format!(r#"{{"alertId":"a","entities":[{entities}]}}"#);
        rows_of(
            &format!("{{\"value\":[{}]}}", incident(1, "2026-01-01T00:00:00Z", &alert)),
            |rows| {
                assert_eq!(rows.evidence.len(), 2);
                let extra: Vec<_> =
                    rows.evidence.iter().filter_map(|row| row.extra.as_deref()).collect();
                assert_eq!(extra, [r#"{"new":1}"#]);
            },
        );
    }

    #[test]
    fn evidence_hash_of_stored_rows_never_changes() {
        let entity = Entity {
            entity_type: Some("Ip".into()),
            ip_address: Some("::1".into()),
            ..Entity::default()
        };
        let hex: String = evidence_hash(&entity).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "edf11c61e3070c467b1117fb2b288dc3");
    }

    #[test]
    fn incident_without_key_or_version_is_rejected() {
        let text = r#"{"value":[{"incidentId":9223372036854775808,"lastUpdateTime":"2026-01-01T00:00:00Z"},{"incidentId":3},7,
            {"incidentId":4,"lastUpdateTime":"2026-01-01T00:00:00Z"}]}"#;
        rows_of(text, |rows| {
            assert_eq!(rows.incidents.len(), 1);
            assert_eq!(rows.rejected.len(), 3);
        });
    }

    #[test]
    fn any_page_yields_one_row_or_rejection_each() {
        let document = Json::of(include_str!("../../tests/data/defender_docs_list_incidents.json"));
        let mut stored = 0;
        each_seed(400, |seed| {
            let mut random = Random::new(seed);
            let mut incidents = document.list("value").to_vec();
            for incident in &mut incidents[1..] {
                *incident = incident.mutated(&mut random);
            }
            incidents.push(incidents[1 + random.below(2)].mutated(&mut random));
            let at = random.below(incidents.len());
            incidents.swap(0, at);
            let texts: Vec<String> = incidents.iter().map(Json::to_string).collect();
            let elements = newest_of_each(elements(texts.iter().map(String::as_str)));
            let rows = match of_page(TENANT, &elements) {
                Err(SyncError::ForeignIncident { .. }) => return,
                rows => rows.expect("nothing else fails a page"),
            };
            stored += rows.incidents.len();
            assert_eq!(rows.incidents.len() + rows.rejected.len(), elements.len());
            assert!(
                rows.incidents.iter().any(|row| texts[at] == row.payload)
                    || shown_twice(&elements, &texts[at])
            );
            check_keys(&rows);
        });
        assert!(stored > 0, "nothing was ever stored");
    }

    /// Whether a newer text with the same id took this one's place.
    fn shown_twice(elements: &[RawIncident<'_>], text: &str) -> bool {
        let head = decode::head(text);
        elements
            .iter()
            .any(|element| element.text != text && element.head.incident_id == head.incident_id)
    }

    /// `ON CONFLICT DO UPDATE` demands one row a key, and rows in order keep writers from locking crosswise.
    fn check_keys(rows: &PageRows<'_>) {
        assert!(rows.incidents.is_sorted_by(|a, b| a.incident_id < b.incident_id));
        assert!(rows.alerts.is_sorted_by(|a, b| a.alert_id < b.alert_id));
        assert!(rows.devices.is_sorted_by(|a, b| a.device_id < b.device_id));
        assert!(rows.alert_devices.is_sorted_by(|a, b| a < b));
        let evidence = |row: &EvidenceRow<'_>| (row.alert_id.to_string(), row.evidence_hash);
        assert!(rows.evidence.is_sorted_by(|a, b| evidence(a) < evidence(b)));
        let comment = |row: &CommentRow<'_>| (row.incident_id, row.comment_hash);
        assert!(rows.comments.is_sorted_by(|a, b| comment(a) < comment(b)));
        for extra in rows.evidence.iter().filter_map(|row| row.extra.as_deref()) {
            assert!(
                serde_json::from_str::<HashMap<String, &RawValue>>(extra).is_ok(),
                "no object: {extra}"
            );
        }
    }

    #[test]
    fn incident_with_conflicting_ids_is_rejected() {
        let text = r#"{"value":[{"incidentId":1,"lastUpdateTime":"2026-01-01T00:00:00Z","incidentId":2}]}"#;
        rows_of(text, |rows| assert_eq!((rows.incidents.len(), rows.rejected.len()), (0, 1)));
    }

    #[test]
    fn incident_of_another_tenant_fails_the_page() {
        let (ours, foreign) = (TENANT.to_string(), "00000000-0000-0000-0000-000000000002");
        let result = |link: &str, tenant: &str| {
            let uri = link.replace("TENANT", tenant);
            let text = format!(
                r#"{{"value":[{{"incidentId":4,"lastUpdateTime":"2026-01-01T00:00:00Z","incidentUri":"{uri}"}}]}}"#
            );
            let page = decode::split(&text).unwrap();
            let elements = elements(page.incidents.iter().map(|raw| raw.get()));
            of_page(TENANT, &elements).map(|rows| rows.incidents.len())
        };
        for link in [
            "https://security.microsoft.com/incidents/4?tid=TENANT",
            "https://security.microsoft.com/incidents/4?Tid=TENANT",
            "https://security.microsoft.com/incidents/4?TID=TENANT",
            "https://security.microsoft.com/incidents/4?tenantId=TENANT",
            "https://security.microsoft.com/incidents/4?x=1&%74id=TENANT",
            "https://security.microsoft.com/#/incidents/4?tid=TENANT",
            "https://security.microsoft.com:99999/?tid=TENANT",
            "/incidents/4?tid=TENANT",
            "incidents/4?tid=TENANT",
            "//security.microsoft.com/incidents/4?tenantid=TENANT",
            "?tid=TENANT",
        ] {
            let refused = result(link, foreign);
            assert!(
                matches!(refused, Err(SyncError::ForeignIncident { incident_id: 4, .. })),
                "{link}"
            );
            assert_eq!(result(link, &ours).unwrap(), 1, "{link}");
            assert_eq!(result(link, &ours.to_uppercase()).unwrap(), 1, "{link}");
        }
        let both = format!("https://security.microsoft.com/incidents/4?tid={ours}&tid=TENANT");
        assert!(result(&both, foreign).is_err(), "a second name hides behind the first");
        assert_eq!(
            result("https://security.microsoft.com/incidents/4?x=TENANT", foreign).unwrap(),
            1
        );
    }
}
