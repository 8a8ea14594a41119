//! The expected rows, computed from the simulator's incidents without the product's decoder and mapper.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::{Map, Value};
use sqlx::PgPool;
use uuid::Uuid;

use super::graph_truth::as_defender;

type Row = BTreeMap<String, Value>;

/// The rows of one tenant, by table; nulls are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) incidents: BTreeMap<i64, Row>,
    pub(crate) alerts: BTreeMap<String, Row>,
    pub(crate) alert_devices: BTreeSet<(String, String)>,
    /// By alert, as JSON text.
    pub(crate) evidence: BTreeSet<(String, String)>,
    pub(crate) comments: BTreeSet<(i64, String)>,
    pub(crate) payloads: BTreeMap<i64, Value>,
}

/// From the incidents that the Defender API would serve now.
pub(crate) fn expected(incidents: &[Value]) -> Tables {
    tables(incidents.iter().map(|incident| (incident.clone(), incident.clone())))
}

/// From the incidents that Graph would serve now, with all their alerts.
pub(crate) fn expected_of_graph(incidents: &[Value]) -> Tables {
    tables(incidents.iter().map(|incident| (as_defender(incident), payload(incident.clone()))))
}

/// Graph's remarks about the answer depend on how the incident and its alerts were read.
fn payload(mut incident: Value) -> Value {
    if let Some(fields) = incident.as_object_mut() {
        fields.retain(|key, _| !key.starts_with("alerts@odata.") && key != "@odata.context");
    }
    incident
}

/// From incidents under the Defender API's names, each with its payload.
fn tables(incidents: impl Iterator<Item = (Value, Value)>) -> Tables {
    let mut tables = Tables::default();
    for (incident, payload) in incidents {
        let id = incident["incidentId"].as_i64().unwrap();
        let fields = incident.as_object().unwrap();
        let mut columns = row(fields, &["alerts", "comments"]);
        let redirect = incident["redirectIncidentId"].as_i64().filter(|target| *target != 0);
        if redirect.is_none() {
            columns.remove("redirect_incident_id");
        }
        tables.incidents.insert(id, columns);
        tables.payloads.insert(id, payload);
        for comment in list(&incident, "comments") {
            tables.comments.insert((id, text_of(&row(comment.as_object().unwrap(), &[]))));
        }
        let is_merged =
            redirect.is_some_and(|other| other != id) || incident["status"] == "Redirected";
        for alert in list(&incident, "alerts") {
            add_alert(&mut tables, id, alert, is_merged);
        }
    }
    tables
}

fn add_alert(tables: &mut Tables, incident: i64, alert: &Value, is_merged: bool) {
    let id = alert["alertId"].as_str().unwrap().to_owned();
    let mut fields = row(alert.as_object().unwrap(), &["devices", "entities"]);
    fields.insert("incident_id".to_owned(), incident.into());
    fields.insert("incident_is_merged".to_owned(), is_merged.into());
    fields.insert("is_listed".to_owned(), true.into());
    tables.alerts.insert(id.clone(), fields);
    for device in list(alert, "devices") {
        tables
            .alert_devices
            .insert((id.clone(), device["mdatpDeviceId"].as_str().unwrap().to_owned()));
    }
    let mut seen = BTreeSet::new();
    for entity in list(alert, "entities") {
        let fields = row(entity.as_object().unwrap(), &[]);
        let mut lasting = fields.clone();
        lasting.remove("verdict");
        lasting.remove("remediation_status");
        if seen.insert(text_of(&lasting)) {
            tables.evidence.insert((id.clone(), text_of(&fields)));
        }
    }
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

fn row(fields: &Map<String, Value>, without: &[&str]) -> Row {
    let known =
        fields.iter().filter(|(key, value)| !without.contains(&key.as_str()) && !value.is_null());
    known.map(|(key, value)| (snake_case(key), normal(key, value))).collect()
}

fn snake_case(key: &str) -> String {
    let key = if key == "mdatpDeviceId" { "deviceId" } else { key };
    let split = |letter: char| {
        if letter.is_uppercase() {
            format!("_{}", letter.to_lowercase())
        } else {
            letter.to_string()
        }
    };
    key.chars().map(split).collect()
}

/// Times become microseconds, truncated down; all else stays.
fn normal(key: &str, value: &Value) -> Value {
    let is_time = [
        "Time",
        "_time",
        "irstActivity",
        "astActivity",
        "first_activity",
        "last_activity",
        "firstSeen",
        "first_seen",
    ];
    match value.as_str().filter(|_| is_time.iter().any(|end| key.ends_with(end))) {
        Some(text) => {
            text.parse::<DateTime<Utc>>().unwrap().trunc_subsecs(6).timestamp_micros().into()
        }
        None => value.clone(),
    }
}

fn text_of(row: &Row) -> String {
    serde_json::to_string(row).unwrap()
}

/// What the database holds of a tenant.
pub(crate) async fn stored(pool: &PgPool, tenant: Uuid) -> Tables {
    let rows = async |table: &str, without: &str| -> Vec<Row> {
        let query = format!(
            "SELECT to_jsonb(t) - 'tenant_id' - 'row_version' {without} FROM defender.{table} t WHERE tenant_id = $1"
        );
        let rows = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(
            query.replacen("to_jsonb(t)", "(to_jsonb(t)", 1).replacen(" FROM", ")::text FROM", 1),
        ));
        let rows = rows.bind(tenant).fetch_all(pool).await.unwrap();
        rows.iter()
            .map(|text| row(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap(), &[]))
            .collect()
    };
    let text = |row: &Row, key: &str| row[key].as_str().unwrap().to_owned();
    let mut tables = Tables::default();
    // What we derive from the API, some of it a while later, is for the tests of `reporting`.
    let ours = "- '{first_synced_at,changed_at,acknowledged_at,acknowledged_at_is_exact,resolved_at,resolved_at_is_exact,\
        reopened_count,is_merged,alert_count,device_count,user_count,extra}'::text[]";
    for row in rows("incidents", ours).await {
        tables.incidents.insert(row["incident_id"].as_i64().unwrap(), row);
    }
    for row in rows("alerts", "- '{last_seen,changed_at,devices_without_id,extra}'::text[]").await {
        tables.alerts.insert(text(&row, "alert_id"), row);
    }
    for row in rows("alert_devices", "").await {
        tables.alert_devices.insert((text(&row, "alert_id"), text(&row, "device_id")));
    }
    for mut row in rows("evidence", "- 'evidence_hash'").await {
        let alert = row.remove("alert_id").unwrap().as_str().unwrap().to_owned();
        if let Some(Value::Object(extra)) = row.remove("extra") {
            row.extend(extra.iter().map(|(key, value)| (snake_case(key), normal(key, value))));
        }
        tables.evidence.insert((alert, text_of(&row)));
    }
    for mut row in rows("incident_comments", "- 'comment_hash'").await {
        let incident = row.remove("incident_id").unwrap().as_i64().unwrap();
        tables.comments.insert((incident, text_of(&row)));
    }
    for row in rows("incident_payloads", "- 'content_hash'").await {
        tables
            .payloads
            .insert(row["incident_id"].as_i64().unwrap(), payload(row["payload"].clone()));
    }
    tables
}

/// Every row of all tenants, but for times of writing and what Graph alone has.
pub(crate) async fn shared_rows(pool: &PgPool) -> Vec<String> {
    let mut all = Vec::new();
    for (table, left_out) in [
        (
            "incidents",
            "first_synced_at,changed_at,incident_uri,description,summary,resolving_comment,last_modified_by,\
             priority_score,system_tags,extra",
        ),
        (
            "alerts",
            "changed_at,alert_web_url,recommended_actions,product_name,alert_policy_id,categories,system_tags,extra",
        ),
        ("devices", "changed_at"),
        ("alert_devices", ""),
        ("evidence", "roles,extra"),
        ("incident_comments", ""),
        ("incident_changes", "observed_at"),
    ] {
        let query = format!(
            "SELECT '{table} ' || (to_jsonb(t) - 'row_version' - '{{{left_out}}}'::text[])::text AS held FROM defender.{table} t ORDER BY held"
        );
        let held: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(pool).await.unwrap();
        all.extend(held);
    }
    all
}

/// Fails with the first difference, which is easier to read than two dumps.
pub(crate) fn assert_same(stored: &Tables, expected: &Tables, tenant: &str) {
    let (held, known): (BTreeSet<_>, BTreeSet<_>) =
        (stored.incidents.keys().collect(), expected.incidents.keys().collect());
    let (missing, extra): (Vec<_>, Vec<_>) =
        (known.difference(&held).collect(), held.difference(&known).collect());
    assert!(
        missing.is_empty() && extra.is_empty(),
        "incidents of {tenant}: missing {missing:?}, extra {extra:?}"
    );
    for (id, row) in &expected.incidents {
        assert_eq!(&stored.incidents[id], row, "incident {id} of {tenant}");
        assert!(stored.payloads[id] == expected.payloads[id], "payload {id} of {tenant} differs");
    }
    for (id, row) in &expected.alerts {
        assert_eq!(stored.alerts.get(id), Some(row), "alert {id} of {tenant}");
    }
    assert_eq!(stored.alerts.len(), expected.alerts.len(), "alerts of {tenant}");
    let missing: Vec<_> = expected.evidence.difference(&stored.evidence).take(2).collect();
    let extra: Vec<_> = stored.evidence.difference(&expected.evidence).take(2).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "evidence of {tenant}: missing {missing:?}, extra {extra:?}"
    );
    assert_eq!(stored.alert_devices, expected.alert_devices, "alert_devices of {tenant}");
    assert_eq!(stored.comments, expected.comments, "comments of {tenant}");
}
