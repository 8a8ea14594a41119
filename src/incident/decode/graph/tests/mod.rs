use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::super::{alert_rows, page_rows};
use crate::error::SyncError;
use crate::incident::columns::{Columns, Value};
use crate::incident::hash;
use crate::incident::raw::{RawIncident, elements, newest_of_each};
use crate::incident::rows::PageRows;
use crate::incident::text::page::split;
use crate::mutate::{Json as Broken, each_seed};
use crate::tenant::{Source, TenantId};

mod keys;
mod samples;
mod types;

const DOCUMENTED: &str =
    include_str!("../../../../../tests/data/graph_docs_list_incidents_expand_alerts.json");
const DOCUMENTED_PLAIN: &str =
    include_str!("../../../../../tests/data/graph_docs_list_incidents.json");
const WIRE: &str = include_str!("../../../../../tests/data/graph_wire_shape_expand_alerts.json");
const TYPES: &str = include_str!("../../../../../tests/data/graph_evidence_types.json");

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const DOCUMENTED_TENANT: &str = "b3c1b5fc-828c-45fa-a1e1-10d74f6d6e9c";

fn tenant(id: &str) -> TenantId {
    TenantId(id.parse().unwrap())
}

fn raw_elements(source: Source, page: &str) -> Vec<RawIncident<'_>> {
    let incidents = split(page).unwrap().incidents;
    newest_of_each(elements(source, incidents.into_iter().map(|raw| raw.get())))
}

fn rows_of(page: &str, of: &str, check: impl FnOnce(&PageRows<'_>)) {
    check(&page_rows(tenant(of), Source::Graph, &raw_elements(Source::Graph, page)).unwrap());
}

/// The columns that have a value.
fn shown<C: Columns>(columns: &C) -> Vec<String> {
    let line = |(name, value): (&&str, Value<'_>)| {
        let value = match value {
            Value::Text(text) => text?.to_owned(),
            Value::Texts(texts) => texts?.join("|"),
            Value::Number(number) => number?.to_string(),
            Value::Time(time) => time?.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        };
        Some(format!("{name}={value}"))
    };
    C::NAMES.iter().zip(columns.values()).filter_map(line).collect()
}

fn page_of_evidence(evidence: &str) -> String {
    page_of_alert(&format!(r##"{{"id":"a","evidence":[{evidence}]}}"##))
}

fn page_of_alert(alert: &str) -> String {
    format!(
        r##"{{"value":[{{"id":"1","lastUpdateDateTime":"2026-01-01T00:00:00Z","alerts":[{alert}]}}]}}"##
    )
}

/// The evidence of the page by type, each with its columns and what is left.
fn evidence_by_type(rows: &PageRows<'_>) -> BTreeMap<String, (Vec<String>, Json)> {
    let row = |row: &crate::incident::rows::EvidenceRow<'_>| {
        let mut columns = shown(&row.columns);
        let entity_type = columns.remove(0).replace("entity_type=", "");
        let extra =
            row.extra.as_deref().map_or(Json::Null, |text| serde_json::from_str(text).unwrap());
        (entity_type, (columns, extra))
    };
    rows.evidence.iter().map(row).collect()
}

#[test]
fn second_value_of_filled_column_stays_in_extra() {
    let mailbox = r##"{"@odata.type":"#microsoft.graph.security.mailboxEvidence","upn":"a@b.example",
        "userAccount":{"userPrincipalName":"c@d.example","userSid":"s"}}"##;
    rows_of(&page_of_evidence(mailbox), TENANT, |rows| {
        let row = &rows.evidence[0];
        assert_eq!(row.columns.user_principal_name.as_deref(), Some("a@b.example"));
        assert_eq!(row.columns.user_sid.as_deref(), Some("s"));
        assert_eq!(
            row.extra.as_deref(),
            Some(r##"{"userAccount":{"userPrincipalName":"c@d.example"}}"##)
        );
    });
}

#[test]
fn wrong_types_become_none_and_are_named() {
    let alert = r##"{"id":"a","status":"unknownFutureValue","categories":["First","Second"],"mitreTechniques":7,
        "evidence":[7,{"@odata.type":"#microsoft.graph.security.ipEvidence","ipAddress":{"a":1},"verdict":"unknownFutureValue",
            "roles":["source","unknownFutureValue"]},
        {"@odata.type":"#microsoft.graph.security.userEvidence","userAccount":"nobody"},
        {"@odata.type":"#microsoft.graph.security.deviceEvidence","mdeDeviceId":"d","osBuild":"x","riskScore":"unknownFutureValue"}]}"##;
    rows_of(&page_of_alert(alert), TENANT, |rows| {
        let mut mistyped = rows.mistyped.clone();
        mistyped.sort_unstable();
        assert_eq!(
            mistyped,
            [
                "evidence",
                "ipAddress",
                "mitreTechniques",
                "osBuild",
                "riskScore",
                "roles",
                "status",
                "userAccount",
                "verdict"
            ]
        );
        assert_eq!(rows.alerts[0].columns.category.as_deref(), Some("First"));
        let evidence = evidence_by_type(rows);
        assert_eq!(evidence["Ip"].0, ["roles=Source"]);
        assert_eq!(evidence["Ip"].1["ipAddress"]["a"], 1);
        assert_eq!(evidence["User"].1["userAccount"], "nobody");
    });
    let incident = r##"{"value":[{"id":7,"lastUpdateDateTime":"2026-01-01T00:00:00Z","priorityScore":2147483648,
        "customTags":["b"],"tags":["a"],"severity":null}]}"##;
    rows_of(incident, TENANT, |rows| {
        assert_eq!(rows.mistyped, ["priorityScore"]);
        assert_eq!(shown(&rows.incidents[0].columns), ["tags=b"]);
    });
}

#[test]
fn incident_without_key_or_version_is_rejected() {
    let page = r##"{"value":[{"id":"x","lastUpdateDateTime":"2026-01-01T00:00:00Z"},{"id":"3"},7,
        {"id":"5","lastUpdateDateTime":"2026-01-01T00:00:00Z","id":"6"},
        {"incidentId":4,"lastUpdateTime":"2026-01-01T00:00:00Z"},
        {"@odata.type":"x","id":"4","lastUpdateDateTime":"2026-01-01T00:00:00Z"}]}"##;
    rows_of(page, TENANT, |rows| {
        assert_eq!((rows.incidents.len(), rows.rejected.len()), (1, 5));
        assert_eq!(rows.incidents[0].incident_id, 4);
    });
}

#[test]
fn incident_of_another_tenant_fails_the_page() {
    let other = "00000000-0000-0000-0000-000000000002";
    let result = |members: &str| {
        let page =
            format!(r##"{{"value":[{{"lastUpdateDateTime":"2026-01-01T00:00:00Z",{members}}}]}}"##);
        page_rows(tenant(TENANT), Source::Graph, &raw_elements(Source::Graph, &page)).map(drop)
    };
    for name in [
        r##""tenantId":"TENANT""##,
        r##""tenantId":"{TENANT}""##,
        r##""incidentWebUrl":"https://security.microsoft.com/incident2/4/overview?tid=TENANT""##,
        r##""alerts":[{"id":"a","tenantId":"TENANT"}]"##,
        r##""alerts":[{"id":"a","incidentWebUrl":"https://security.microsoft.com/incidents/4?tid=TENANT"}]"##,
    ] {
        let foreign = name.replace("TENANT", other);
        let refused = result(&format!(r##""id":"4",{foreign}"##));
        assert!(
            matches!(refused, Err(SyncError::ForeignIncident { incident_id: 4, .. })),
            "{name}"
        );
        let own = name.replace("TENANT", &TENANT.to_uppercase());
        assert!(result(&format!(r##""id":"4",{own}"##)).is_ok(), "{name}");
    }
    assert!(
        result(&format!(r##""id":"x","tenantId":"{other}""##)).is_err(),
        "the quarantine is ours too"
    );
    assert!(result(r##""id":"4","tenantId":"contoso""##).is_ok(), "no GUID");
}

fn alert_elements(alerts: &str) -> Vec<RawIncident<'_>> {
    raw_elements(Source::Graph, alerts)
}

#[test]
fn listed_alert_becomes_rows_of_its_incident() {
    let wire: Json = serde_json::from_str(WIRE).unwrap();
    let alerts: Vec<Json> = wire["value"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|incident| incident["alerts"].as_array().unwrap().clone())
        .collect();
    let mut lone = alerts[0].clone();
    lone["id"] = "lone".into();
    lone["incidentId"] = Json::Null;
    let alerts = [alerts, vec![lone, 7.into()]].concat();
    let page = serde_json::json!({ "value": alerts }).to_string();
    let elements = alert_elements(&page);
    let mut listed = alert_rows(tenant(TENANT), &elements).unwrap();
    assert_eq!((listed.alerts.len(), listed.waiting_alerts), (3, 1));
    assert_eq!(listed.mistyped, ["alert"]);
    let version: chrono::DateTime<chrono::Utc> = "2026-07-22T18:37:58.91Z".parse().unwrap();
    listed.tie_to_incidents(|id| (id == 23).then_some(version));
    assert_eq!((listed.alerts.len(), listed.waiting_alerts), (2, 2));
    assert!(listed.alerts.iter().all(|row| row.incident_id == 23 && row.last_seen == version));
    assert_eq!((listed.devices.len(), listed.devices[0].last_seen), (1, version));
    rows_of(WIRE, TENANT, |whole| {
        let of_23 = |rows: &PageRows<'_>| {
            let evidence = rows.evidence.iter().filter(|row| !row.alert_id.starts_with("fa"));
            evidence.map(|row| (row.evidence_hash, shown(&row.columns))).collect::<Vec<_>>()
        };
        assert_eq!(of_23(&listed), of_23(whole));
        let columns = |rows: &PageRows<'_>| {
            let alert = rows.alerts.iter().find(|row| row.alert_id.starts_with("da")).unwrap();
            shown(&alert.columns)
        };
        assert_eq!(columns(&listed), columns(whole));
    });
}

#[test]
fn listed_alert_of_another_tenant_fails_the_page() {
    for incident in [r##""1""##, "null"] {
        let page = format!(
            r##"{{"value":[{{"id":"a","incidentId":{incident},"lastUpdateDateTime":"2026-01-01T00:00:00Z","tenantId":"{DOCUMENTED_TENANT}"}}]}}"##
        );
        let elements = alert_elements(&page);
        let refused = alert_rows(tenant(TENANT), &elements);
        assert!(matches!(refused, Err(SyncError::ForeignIncident { .. })));
    }
}

#[test]
fn any_broken_incident_leaves_others_unchanged() {
    let document = Broken::of(WIRE);
    let types: Json = serde_json::from_str(TYPES).unwrap();
    let evidence = types["evidence"].to_string();
    let all_types = format!(
        r##"{{"id":"7","lastUpdateDateTime":"2026-01-01T00:00:00Z","alerts":[{{"id":"all","evidence":{evidence}}}]}}"##
    );
    let mut stored = 0;
    each_seed(100, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut incidents = document.list("value").to_vec();
        incidents.push(Broken::of(&all_types));
        for incident in &mut incidents[1..] {
            *incident = incident.mutated(&mut random);
        }
        let texts: Vec<String> = incidents.iter().map(Broken::to_string).collect();
        let elements = newest_of_each(elements(Source::Graph, texts.iter().map(String::as_str)));
        let rows = match page_rows(tenant(TENANT), Source::Graph, &elements) {
            Err(SyncError::ForeignIncident { .. }) => return,
            rows => rows.expect("nothing else fails a page"),
        };
        stored += rows.incidents.len();
        assert_eq!(rows.incidents.len() + rows.rejected.len(), elements.len());
        let key = |row: &crate::incident::rows::EvidenceRow<'_>| {
            (row.alert_id.to_string(), row.evidence_hash)
        };
        assert!(rows.evidence.is_sorted_by(|a, b| key(a) < key(b)));
        for extra in rows.evidence.iter().filter_map(|row| row.extra.as_deref()) {
            assert!(
                serde_json::from_str::<BTreeMap<String, &serde_json::value::RawValue>>(extra)
                    .is_ok(),
                "no object: {extra}"
            );
        }
        let _ = alert_rows(tenant(TENANT), &elements);
    });
    assert!(stored > 0, "nothing was ever stored");
}
