//! Graph documents in the tables: the same rows as from the Defender API, and no trace of a change of source. The documents
//! are written by hand.

use chrono::{DateTime, Utc};
use incident_sync::error::SyncError;
use incident_sync::incident::decode;
use incident_sync::incident::raw::{RawIncident, elements, newest_of_each};
use incident_sync::incident::text::page::split;
use incident_sync::store::Lease;
use incident_sync::store::tenant_data::purge::RowCounts;
use incident_sync::store::write_page::PagePosition;
use incident_sync::tenant::{Source, TenantId};
use serde_json::{Value, json};

use crate::mutate::{Json, each_seed};
use crate::support::world::{World, id, spec};

const DOCUMENTED: &str = include_str!("../data/graph_docs_list_incidents_expand_alerts.json");
const WIRE: &str = include_str!("../data/graph_wire_shape_expand_alerts.json");
const TYPES: &str = include_str!("../data/graph_evidence_types.json");

struct Writer {
    world: World,
    lease: Lease,
}

fn raw_elements(source: Source, page: &str) -> Vec<RawIncident<'_>> {
    let incidents = split(page).unwrap().incidents;
    newest_of_each(elements(source, incidents.into_iter().map(|raw| raw.get())))
}

impl Writer {
    async fn new() -> Self {
        let world = World::of(0).await;
        let lease = world.store.claim_named(&[id(1)], 1).await.unwrap().remove(0).lease;
        Self { world, lease }
    }

    async fn write(&self, source: Source, page: &Value) {
        self.write_text(source, &page.to_string()).await;
    }

    async fn write_text(&self, source: Source, page: &str) {
        let elements = raw_elements(source, page);
        let rows = decode::page_rows(TenantId(id(1)), source, &elements).unwrap();
        let store = &self.world.store;
        store.write_page(&self.lease, &rows, PagePosition::MidWindow, None).await.unwrap();
    }

    async fn lines(&self, query: &'static str) -> Vec<String> {
        sqlx::query_scalar(query).fetch_all(self.world.pool()).await.unwrap()
    }

    async fn line(&self, query: &'static str) -> String {
        let mut lines = self.lines(query).await;
        assert_eq!(lines.len(), 1, "{query}: {lines:?}");
        lines.remove(0)
    }

    /// Every row but for times of writing, and what one source alone has.
    async fn shared_rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for query in [
            "SELECT (to_jsonb(t) - ARRAY['changed_at', 'row_version', 'first_synced_at', 'incident_uri', 'description', 'summary',
                'resolving_comment', 'last_modified_by', 'priority_score', 'system_tags', 'extra'])::text
                FROM defender.incidents t ORDER BY incident_id",
            "SELECT (to_jsonb(t) - ARRAY['changed_at', 'row_version', 'alert_web_url', 'recommended_actions', 'product_name',
                'alert_policy_id', 'categories', 'system_tags', 'extra'])::text FROM defender.alerts t ORDER BY alert_id",
            "SELECT (to_jsonb(t) - ARRAY['changed_at', 'row_version'])::text FROM defender.devices t ORDER BY device_id",
            "SELECT (to_jsonb(t) - 'row_version')::text FROM defender.alert_devices t ORDER BY alert_id, device_id",
            "SELECT (to_jsonb(t) - ARRAY['roles', 'extra', 'row_version'])::text FROM defender.evidence t ORDER BY evidence_hash",
            "SELECT (to_jsonb(t) - 'row_version')::text FROM defender.incident_comments t ORDER BY comment_hash",
            "SELECT to_jsonb(t)::text FROM defender.incident_changes t ORDER BY change_id",
        ] {
            rows.extend(self.lines(query).await);
        }
        rows
    }

    /// What Graph alone has.
    async fn graph_values(&self) -> String {
        self.line(
            "SELECT concat_ws(' ', i.description, i.summary, i.resolving_comment, i.last_modified_by, i.priority_score,
                i.system_tags, a.alert_web_url, a.recommended_actions, a.product_name, a.alert_policy_id, a.categories,
                a.system_tags, e.roles, e.extra)
            FROM defender.incidents i JOIN defender.alerts a USING (incident_id) JOIN defender.evidence e USING (alert_id)
            WHERE e.entity_type = 'File'",
        )
        .await
    }
}

const UPDATED: &str = "2026-11-01T10:00:00.1234567Z";

/// A document of the tenant.
fn document(text: &str) -> Value {
    serde_json::from_str(&text.replace("TENANT", &id(1).to_string())).unwrap()
}

/// One incident as the Defender API serves it.
fn of_defender() -> Value {
    document(include_str!("../data/same_incident_defender.json"))
}

/// The same incident as Graph serves it.
fn of_graph() -> Value {
    document(include_str!("../data/same_incident_graph.json"))
}

const GRAPH_VALUES: &str = r#"de su re la 18 {s} al ra pn po {Execution,Impact} {as} {Source} {"fileDetails": {"md5": "5"}}"#;

/// Tags as a set: their order is a matter of spelling.
fn with_sorted_tags(rows: Vec<String>) -> Vec<String> {
    rows.into_iter().map(|row| row.replace(r#"["b", "a"]"#, r#"["a", "b"]"#)).collect()
}

#[tokio::test]
async fn change_of_source_changes_and_erases_nothing() {
    let writer = Writer::new().await;
    writer.write(Source::Defender, &of_defender()).await;
    let before = writer.shared_rows().await;
    assert_eq!(before.len(), 8, "{before:#?}");

    writer.write(Source::Graph, &of_graph()).await;
    assert_eq!(with_sorted_tags(writer.shared_rows().await), before, "to Graph");
    assert_eq!(writer.graph_values().await, GRAPH_VALUES);
    let source = "SELECT source FROM defender.incident_payloads";
    assert_eq!(writer.line(source).await, "graph");

    writer.write(Source::Defender, &of_defender()).await;
    assert_eq!(writer.shared_rows().await, before, "and back");
    assert_eq!(writer.graph_values().await, GRAPH_VALUES, "after the move back");
    assert_eq!(writer.line(source).await, "defender");
}

#[tokio::test]
async fn new_tenant_has_same_rows_from_either_source() {
    let (defender, graph) = (Writer::new().await, Writer::new().await);
    defender.write(Source::Defender, &of_defender()).await;
    graph.write(Source::Graph, &of_graph()).await;
    // Of these the other source alone knows the value; ids of changes belong to the database.
    let comparable = |rows: Vec<String>| {
        let without = |row: String| {
            let mut row: Value = serde_json::from_str(&row).unwrap();
            for key in ["os_processor", "investigation_id", "change_id", "observed_at"] {
                row.as_object_mut().unwrap().remove(key);
            }
            if row.get("priority_score").is_none() && row.get("incident_name").is_some() {
                row.as_object_mut().unwrap().remove("detection_source");
            }
            row.to_string().replace(r#"["b","a"]"#, r#"["a","b"]"#)
        };
        rows.into_iter().map(without).collect::<Vec<_>>()
    };
    assert_eq!(comparable(graph.shared_rows().await), comparable(defender.shared_rows().await));
}

#[tokio::test]
async fn unknown_keys_of_graph_are_kept_without_annotations() {
    let writer = Writer::new().await;
    let mut page = with(
        of_graph(),
        &[
            ("newKey", json!({ "a": 1 })),
            ("other", Value::Null),
            ("alerts@odata.context", json!("c")),
        ],
    );
    page["value"][0]["alerts"][0]["hostStates"] = json!(["h"]);
    page["value"][0]["alerts"][0]["@odata.type"] = json!("t");
    writer.write(Source::Graph, &page).await;
    let extra = "SELECT concat_ws(' ', i.extra, a.extra) FROM defender.incidents i
        JOIN defender.alerts a USING (tenant_id, incident_id)";
    assert_eq!(writer.line(extra).await, r#"{"newKey": {"a": 1}} {"hostStates": ["h"]}"#);
}

const CHANGES: &str =
    "SELECT concat_ws(' ', field, old_value, new_value) FROM defender.incident_changes
    WHERE field <> 'created' ORDER BY change_id";

fn with(mut page: Value, changes: &[(&str, Value)]) -> Value {
    for (key, value) in changes {
        page["value"][0][*key] = value.clone();
    }
    page
}

#[tokio::test]
async fn spelling_change_is_recorded_within_one_source() {
    let pairs = [
        ("determination", "CompromisedUser", "compromisedAccount"),
        ("determination", "Clean", "notMalicious"),
        ("determination", "InsufficientData", "notEnoughDataToValidate"),
        ("determination", "ConfirmedUserActivity", "confirmedActivity"),
        ("determination", "NotAvailable", "unknown"),
        ("classification", "Unknown", "unknown"),
        ("severity", "UnSpecified", "unknown"),
    ];
    for (field, ours, graph) in pairs {
        for graph in [json!(graph), Value::Null] {
            let is_nothing = ["NotAvailable", "Unknown", "UnSpecified"].contains(&ours);
            if graph.is_null() && !is_nothing {
                continue;
            }
            let writer = Writer::new().await;
            writer.write(Source::Defender, &with(of_defender(), &[(field, json!(ours))])).await;
            writer.write(Source::Graph, &with(of_graph(), &[(field, graph.clone())])).await;
            assert_eq!(writer.lines(CHANGES).await, Vec::<String>::new(), "{field} {ours} {graph}");
            writer.write(Source::Defender, &with(of_defender(), &[(field, json!(ours))])).await;
            assert_eq!(writer.lines(CHANGES).await, Vec::<String>::new(), "{field} {graph} {ours}");
        }
    }
    let writer = Writer::new().await;
    for determination in ["Clean", "NotMalicious"] {
        let page = with(of_defender(), &[("determination", json!(determination))]);
        writer.write(Source::Defender, &page).await;
    }
    assert_eq!(writer.lines(CHANGES).await, ["determination Clean NotMalicious"]);
}

#[tokio::test]
async fn real_change_with_the_source_is_recorded() {
    let writer = Writer::new().await;
    writer.write(Source::Defender, &of_defender()).await;
    let changed = [
        ("lastUpdateDateTime", json!("2026-11-01T11:00:00Z")),
        ("status", json!("resolved")),
        ("severity", json!("high")),
        ("assignedTo", json!("soc@partner.example")),
        ("classification", json!("truePositive")),
        ("determination", json!("malware")),
        ("displayName", json!("Another name")),
        ("customTags", json!(["b"])),
    ];
    writer.write(Source::Graph, &with(of_graph(), &changed)).await;
    assert_eq!(
        writer.lines(CHANGES).await,
        [
            "status Active Resolved",
            "severity UnSpecified High",
            "assigned_to soc@partner.example",
            "classification Unknown TruePositive",
            "determination NotAvailable Malware",
            "incident_name A name Another name",
            "tags {a,b} {b}",
        ]
    );
    let milestones =
        "SELECT concat_ws(' ', acknowledged_at AT TIME ZONE 'UTC', acknowledged_at_is_exact,
        resolved_at AT TIME ZONE 'UTC', resolved_at_is_exact) FROM defender.incidents";
    assert_eq!(writer.line(milestones).await, "2026-11-01 11:00:00 t 2026-11-01 11:00:00 t");
}

#[tokio::test]
async fn open_incident_is_not_acknowledged_by_graph() {
    let writer = Writer::new().await;
    writer.write(Source::Graph, &of_graph()).await;
    let open =
        "SELECT concat_ws(' ', status, is_open, acknowledged_at IS NULL) FROM reporting.incidents";
    assert_eq!(writer.line(open).await, "Active t t");
}

#[tokio::test]
async fn samples_are_shown_by_the_views() {
    let writer = Writer::new().await;
    let own = id(1).to_string();
    let types: Value = serde_json::from_str(TYPES).unwrap();
    let all = json!({"value": [{"id": "1", "lastUpdateDateTime": UPDATED,
        "alerts": [{"id": "all", "evidence": types["evidence"]}]}]});
    writer.write(Source::Graph, &all).await;
    for sample in [DOCUMENTED, WIRE] {
        let sample = sample.replace("b3c1b5fc-828c-45fa-a1e1-10d74f6d6e9c", &own);
        let sample = sample.replace("11111111-2222-3333-4444-555555555555", &own);
        writer.write_text(Source::Graph, &sample).await;
    }
    let count = "SELECT concat_ws(' ', (SELECT count(*) FROM defender.incidents), (SELECT count(*) FROM defender.alerts),
        (SELECT count(*) FROM defender.devices),
        (SELECT count(*) FROM reporting.evidence WHERE alert_id = 'all'),
        (SELECT string_agg(entity_type, ' ') FROM reporting.evidence WHERE alert_id = 'all' AND subject IS NULL))";
    assert_eq!(writer.line(count).await, "5 5 1 47");
    let shown = "SELECT concat_ws('|', i.priority_score, i.system_tags, i.last_modified_by, a.product_name, a.categories)
        FROM reporting.incidents i JOIN reporting.alerts a USING (incident_id) WHERE incident_id = 81";
    assert_eq!(
        writer.line(shown).await,
        "18|{\"Credential Phish\"}|Microsoft 365 Defender-IncidentCreation|Microsoft Defender for Office 365|{PreAttack,InitialAccess,Probing}"
    );
}

#[tokio::test]
async fn alert_listed_alone_is_stored_with_its_incident() {
    let writer = Writer::new().await;
    writer.write(Source::Graph, &with(of_graph(), &[("alerts", json!([]))])).await;
    let mut alert = of_graph()["value"][0]["alerts"][0].clone();
    alert["lastUpdateDateTime"] = "2026-11-01T12:00:00Z".into();
    let mut waiting = alert.clone();
    waiting["id"] = "other".into();
    waiting["incidentId"] = "8".into();
    let page = json!({"value": [alert, waiting]}).to_string();
    let listed = raw_elements(Source::Graph, &page);
    let version: DateTime<Utc> = "2026-11-01T10:00:00.123456Z".parse().unwrap();
    for _ in 0..2 {
        let mut rows = decode::alert_rows(TenantId(id(1)), &listed).unwrap();
        rows.tie_to_incidents(|id| (id == 7).then_some(version));
        assert_eq!(rows.waiting_alerts, 1);
        let store = &writer.world.store;
        store.write_page(&writer.lease, &rows, PagePosition::MidWindow, None).await.unwrap();
        let stored =
            "SELECT concat_ws(' ', alert_id, incident_id, is_listed, device_count, evidence_count)
            FROM reporting.alerts";
        assert_eq!(writer.line(stored).await, "da1 7 t 1 2");
    }
}

#[tokio::test]
async fn quarantine_keeps_the_sources_apart() {
    let writer = Writer::new().await;
    writer
        .write(Source::Graph, &json!({"value": [{"id": "9", "lastUpdateDateTime": "never"}]}))
        .await;
    writer
        .write(Source::Defender, &json!({"value": [{"incidentId": 9, "lastUpdateTime": "never"}]}))
        .await;
    for (source, text) in [(Source::Graph, "\"id\""), (Source::Defender, "\"incidentId\"")] {
        let held = writer.world.store.rejected(&writer.lease, source, 0, 9).await.unwrap();
        assert_eq!(held.len(), 1);
        assert!(held[0].1.text.contains(text));
        assert_eq!(held[0].1.head.incident_id, Some(9));
    }
}

#[tokio::test]
async fn import_restores_the_source() {
    let writer = Writer::new().await;
    let watermark = "2026-11-01T10:00:00+00:00";
    for (state, restored) in [
        (json!({"source": "graph", "alerts_watermark": watermark}), "graph 2026-11-01 10:00:00"),
        (json!({"source": "other", "alerts_watermark": "infinity"}), "defender"),
        (json!({}), "defender"),
    ] {
        sqlx::query("DELETE FROM defender.sync_state").execute(writer.world.pool()).await.unwrap();
        let mut state = state;
        state["tenant_id"] = id(1).to_string().into();
        let mut rows = writer.world.store.locked_rows(TenantId(id(1))).await.unwrap();
        let taken_at = rows.began_at;
        assert_eq!(rows.insert_state(&json!([state]).to_string(), taken_at).await.unwrap(), 1);
        rows.finish("restored", "test", &RowCounts::new(), None).await.unwrap();
        let state = "SELECT concat_ws(' ', source, alerts_watermark AT TIME ZONE 'UTC') FROM defender.sync_state";
        assert_eq!(writer.line(state).await, restored);
    }
}

#[tokio::test]
async fn run_record_names_the_source_that_was_read() {
    let specs = [Source::Defender, Source::Graph].into_iter().zip([spec(1, 1), spec(2, 1)]);
    let world = World::with_sources(specs.collect()).await;
    world.successful_run().await;
    let sources: Vec<String> =
        sqlx::query_scalar("SELECT source FROM defender.sync_runs ORDER BY tenant_id")
            .fetch_all(world.pool())
            .await
            .unwrap();
    assert_eq!(sources, ["defender", "graph"]);
}

/// Broken incidents, each alone on its page: decode refuses it, or Postgres takes its rows.
async fn broken_incidents_are_stored(seed: u64) {
    let writer = Writer::new().await;
    let types: Value = serde_json::from_str(TYPES).unwrap();
    let all = json!({"id": "1", "lastUpdateDateTime": UPDATED,
        "alerts": [{"id": "all", "lastUpdateDateTime": UPDATED, "evidence": types["evidence"]}]});
    let own = WIRE.replace("11111111-2222-3333-4444-555555555555", &id(1).to_string());
    let wire: Value = serde_json::from_str(&own).unwrap();
    let mut good = wire["value"].as_array().unwrap().clone();
    good.push(of_graph()["value"][0].clone());
    good.push(all);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stored = 0;
    for at in 0..80 {
        let text = Json::from(&good[at % good.len()]).mutated(&mut random).to_string();
        let elements = elements(Source::Graph, std::iter::once(text.as_str()));
        let rows = match decode::page_rows(TenantId(id(1)), Source::Graph, &elements) {
            Err(SyncError::ForeignIncident { .. }) => continue,
            rows => rows.unwrap(),
        };
        stored += rows.incidents.len();
        let store = &writer.world.store;
        let written = store.write_page(&writer.lease, &rows, PagePosition::MidWindow, None).await;
        assert!(written.is_ok(), "Postgres refused what decode accepted: {written:?}\n{text}");
    }
    assert!(stored > 20, "only {stored} were stored");
}

#[test]
fn decoded_graph_documents_are_accepted_by_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    each_seed(2, |seed| runtime.block_on(broken_incidents_are_stored(seed)));
}
