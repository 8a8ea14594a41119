use std::collections::HashMap;

use fastrand::Rng;
use serde_json::value::RawValue;

use super::{key, page_rows};
use crate::error::SyncError;
use crate::incident::raw::{RawIncident, elements, newest_of_each};
use crate::incident::rows::{CommentRow, EvidenceRow, PageRows};
use crate::incident::text::page::split;
use crate::mutate::{Json, each_seed};
use crate::tenant::{Source, TenantId};

const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(1));

fn rows_of(text: &str, check: impl FnOnce(&PageRows<'_>)) {
    let page = split(text).unwrap();
    let elements =
        newest_of_each(elements(Source::Defender, page.incidents.iter().map(|raw| raw.get())));
    check(&page_rows(TENANT, Source::Defender, &elements).unwrap());
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
fn device_listed_twice_in_alert_is_one_row() {
    let alert = r#"{"alertId":"a","devices":[{"mdatpDeviceId":"d","riskScore":"Low"},{"mdatpDeviceId":"d"},{"version":"1"}]}"#;
    rows_of(&format!("{{\"value\":[{}]}}", incident(1, "2026-01-01T00:00:00Z", alert)), |rows| {
        assert_eq!((rows.devices.len(), rows.alert_devices.len()), (1, 1));
        assert_eq!(rows.mistyped, ["mdatpDeviceId"]);
    });
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
    rows_of(&format!("{{\"value\":[{}]}}", incident(1, "2026-01-01T00:00:00Z", &alerts)), |rows| {
        assert_eq!((rows.incidents.len(), rows.alerts.len(), rows.alert_devices.len()), (1, 1, 1));
        assert_eq!(rows.mistyped, ["mdatpDeviceId", "alertId"]);
    });
}

#[test]
fn null_filled_and_sparse_entities_are_one_evidence() {
    let entities = r#"{"entityType":"Ip","ipAddress":"::1","url":null,"verdict":"Suspicious"},{"entityType":"Ip","ipAddress":"::1"},
        {"entityType":"Ip","ipAddress":"::1","new":1}"#;
    let alert = format!(r#"{{"alertId":"a","entities":[{entities}]}}"#);
    rows_of(&format!("{{\"value\":[{}]}}", incident(1, "2026-01-01T00:00:00Z", &alert)), |rows| {
        assert_eq!(rows.evidence.len(), 2);
        let extra: Vec<_> = rows.evidence.iter().filter_map(|row| row.extra.as_deref()).collect();
        assert_eq!(extra, [r#"{"new":1}"#]);
    });
}

/// Every column is in it, and keys without a column. A new column must leave its hash as it is.
const FULL_ENTITY: &str = r#"{"entityType":"entityType","evidenceCreationTime":"2026-01-01T00:00:01Z","verdict":"verdict",
        "remediationStatus":"remediationStatus","sha1":"sha1","sha256":"sha256","fileName":"fileName",
        "filePath":"filePath","processId":8,"processCommandLine":"processCommandLine",
        "processCreationTime":"2026-01-01T00:00:10Z","parentProcessId":11,
        "parentProcessCreationTime":"2026-01-01T00:00:12Z","ipAddress":"ipAddress","url":"url",
        "accountName":"accountName","domainName":"domainName","userSid":"userSid","aadUserId":"aadUserId",
        "userPrincipalName":"userPrincipalName","mailboxDisplayName":"mailboxDisplayName",
        "mailboxAddress":"mailboxAddress","clusterBy":"clusterBy","clusterByValue":"clusterByValue",
        "emailCount":24,"sender":"sender","recipient":"recipient","subject":"subject",
        "internetMessageId":"internetMessageId","deliveryAction":"deliveryAction",
        "securityGroupId":"securityGroupId","securityGroupName":"securityGroupName","registryHive":"registryHive",
        "registryKey":"registryKey","registryValueType":"registryValueType","registryValue":"registryValue",
        "deviceId":"deviceId","z":[1],"a":"A"}"#;

#[test]
fn evidence_hash_with_every_column_never_changes() {
    let alert = format!(r#"{{"alertId":"a","entities":[{FULL_ENTITY}]}}"#);
    let text = format!(r#"{{"value":[{}]}}"#, incident(1, "2026-01-01T00:00:00Z", &alert));
    rows_of(&text, |rows| {
        let hash = rows.evidence[0].evidence_hash;
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "aea017ed3c2d96567403f8bd770672e9");
    });
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
    let document = Json::of(include_str!("../../../tests/data/defender_docs_list_incidents.json"));
    let mut stored = 0;
    each_seed(400, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut incidents = document.list("value").to_vec();
        for incident in &mut incidents[1..] {
            *incident = incident.mutated(&mut random);
        }
        incidents.push(incidents[1 + random.usize(..2)].mutated(&mut random));
        let at = random.usize(..incidents.len());
        incidents.swap(0, at);
        let texts: Vec<String> = incidents.iter().map(Json::to_string).collect();
        let elements = newest_of_each(elements(Source::Defender, texts.iter().map(String::as_str)));
        let rows = match page_rows(TENANT, Source::Defender, &elements) {
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
    let head = key::head(Source::Defender, text);
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
    let text =
        r#"{"value":[{"incidentId":1,"lastUpdateTime":"2026-01-01T00:00:00Z","incidentId":2}]}"#;
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
        let page = split(&text).unwrap();
        let elements = elements(Source::Defender, page.incidents.iter().map(|raw| raw.get()));
        page_rows(TENANT, Source::Defender, &elements).map(|rows| rows.incidents.len())
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
    assert_eq!(result("https://security.microsoft.com/incidents/4?x=TENANT", foreign).unwrap(), 1);
}
