//! Alerts that change without their incident, and the reconciliation of versions: what Graph lists beside its incidents.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use serde_json::{Value, json};
use simulator::{Endpoint, GraphBehaviour, ScriptedReply, TenantSpec};
use tokio::sync::Notify;

use crate::support::world::{World, id, spec};

/// An alert in the tables and in the service: incident, time of change, status, devices and evidence.
type State = (i64, Option<DateTime<Utc>>, String, i64, i64);

type Row = (String, i64, Option<DateTime<Utc>>, String, i64, i64);

async fn stored(world: &World) -> BTreeMap<String, State> {
    let query =
        "SELECT a.alert_id, a.incident_id, a.last_updated_time, lower(coalesce(a.status, '')),
            (SELECT count(*) FROM defender.alert_devices d WHERE d.alert_id = a.alert_id),
            (SELECT count(*) FROM defender.evidence e WHERE e.alert_id = a.alert_id)
        FROM defender.alerts a";
    let rows: Vec<Row> = sqlx::query_as(query).fetch_all(world.pool()).await.unwrap();
    let state = |(alert, incident, updated, status, devices, evidence)| {
        (alert, (incident, updated, status, devices, evidence))
    };
    rows.into_iter().map(state).collect()
}

/// From the documents of the service, without the product's decoder.
fn served(world: &World) -> BTreeMap<String, State> {
    let incidents = world.service().graph_truth(id(1));
    let alerts = incidents.iter().flat_map(|incident| incident["alerts"].as_array().unwrap());
    alerts.map(|alert| (alert["id"].as_str().unwrap().to_owned(), state(alert))).collect()
}

fn state(alert: &Value) -> State {
    let updated: DateTime<Utc> = alert["lastUpdateDateTime"].as_str().unwrap().parse().unwrap();
    let evidence = alert["evidence"].as_array().unwrap();
    let is_device = |entity: &&Value| entity["mdeDeviceId"].is_string() && kind(entity) == "device";
    let devices: std::collections::BTreeSet<&str> = evidence
        .iter()
        .filter(is_device)
        .map(|entity| entity["mdeDeviceId"].as_str().unwrap())
        .collect();
    let others: std::collections::BTreeSet<String> =
        evidence.iter().filter(|entity| !is_device(entity)).map(lasting).collect();
    (
        alert["incidentId"].as_str().unwrap().parse().unwrap(),
        Some(updated.trunc_subsecs(6)),
        alert["status"].as_str().unwrap_or_default().to_lowercase(),
        devices.len() as i64,
        others.len() as i64,
    )
}

fn kind(entity: &Value) -> &str {
    let kind = entity["@odata.type"].as_str().unwrap();
    kind.trim_start_matches("#microsoft.graph.security.").trim_end_matches("Evidence")
}

/// What tells an entity from the others of its alert.
fn lasting(entity: &Value) -> String {
    let mut entity = entity.clone();
    for changing in ["verdict", "remediationStatus", "remediationStatusDetails", "roles", "tags"] {
        entity.as_object_mut().unwrap().remove(changing);
    }
    entity.to_string()
}

async fn assert_alerts_current(world: &World) {
    let (stored, served) = (stored(world).await, served(world));
    assert_eq!(stored.keys().collect::<Vec<_>>(), served.keys().collect::<Vec<_>>());
    for (alert, state) in &served {
        assert_eq!(&stored[alert], state, "{alert}");
    }
}

/// The queries of the tenant since the last look.
fn calls(world: &World, endpoint: Endpoint) -> Vec<String> {
    let calls = world.service().calls(id(1)).into_iter();
    calls.filter(|call| call.endpoint == endpoint).map(|call| call.query).collect()
}

fn clear_calls(world: &World) {
    world.service().clear_calls(id(1));
}

/// A tenant that was read, some time ago.
async fn settled(incidents: usize) -> World {
    let world = World::of_graph(vec![TenantSpec { spread_days: 8, ..spec(1, incidents) }]).await;
    world.successful_run().await;
    world.service().advance(Duration::from_secs(3_600));
    world.successful_run().await;
    clear_calls(&world);
    world
}

async fn one_pass(world: &World) -> TenantResult {
    world.run().await.remove(0)
}

/// Makes only the kind of run due that is named, and lets the daemon do it.
async fn run_kind(world: &World, kind: &'static str) {
    let due = |name: &str| if kind == name { "now()" } else { "now() + interval '1 hour'" };
    let make_due = format!(
        "UPDATE defender.sync_state SET poll_due_at = {}, open_due_at = {}, reconcile_due_at = {}",
        due("poll"),
        due("open"),
        due("reconcile")
    );
    sqlx::query(sqlx::AssertSqlSafe(make_due)).execute(world.pool()).await.unwrap();
    let done =
        format!("SELECT count(*) FROM defender.sync_runs WHERE kind = '{kind}' AND outcome = 'ok'");
    let (_, engine) = world.other_instance("daemon", 1).await;
    let wake = Notify::new();
    let is_done = async {
        let count = || sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(done.clone()));
        while count().fetch_one(world.pool()).await.unwrap() == 0 {
            wake.notify_one();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.stop.cancel();
    };
    let both = async { tokio::join!(engine.run(&wake), is_done).0.unwrap() };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("the run ends well");
}

#[tokio::test]
async fn alert_changed_without_incident_is_stored() {
    let world = settled(60).await;
    let before = stored(&world).await;
    // The newest incident is in the overlap of its own list.
    for incident in [3, 20, 30] {
        assert!(world.service().touch_alert_only(id(1), incident));
    }
    world.later();
    let result = one_pass(&world).await;
    assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    assert_eq!(result.report.counts.alerts_written, 3);
    assert_alerts_current(&world).await;
    let after = stored(&world).await;
    let changed: Vec<_> = after.iter().filter(|(alert, state)| before[*alert] != **state).collect();
    assert_eq!(changed.len(), 3);
    let listed = "SELECT count(*) FROM reporting.alerts WHERE NOT is_listed";
    assert_eq!(world.number(listed).await, 0, "an alert is tied to the stored incident version");
}

#[tokio::test]
async fn new_alert_brings_devices_and_evidence() {
    let world = World::of_graph(vec![spec(1, 5)]).await;
    let incident = |alerts: Value| {
        json!({"id": "900", "createdDateTime": "2026-11-01T00:00:00Z",
            "lastUpdateDateTime": "2026-11-01T00:00:00Z", "alerts": alerts})
        .to_string()
    };
    let alert = |name: &str, time: &str| {
        json!({"id": name, "incidentId": "900", "status": "new", "lastUpdateDateTime": time, "evidence": [
            {"@odata.type": "#microsoft.graph.security.deviceEvidence", "mdeDeviceId": format!("device-{name}")},
            {"@odata.type": "#microsoft.graph.security.urlEvidence", "url": format!("https://{name}.example")}]})
    };
    let updated = "2026-11-01T00:00:00Z".parse().unwrap();
    let first = alert("da1", "2026-11-01T00:00:00Z");
    world.service().add_graph_raw(id(1), 900, updated, &incident(json!([first])));
    world.successful_run().await;
    world.service().advance(Duration::from_secs(3_600));
    // The incident keeps its time, and the poll does not look that far back.
    let second = alert("da2", "2026-11-23T12:59:00Z");
    world.service().add_graph_raw(id(1), 900, updated, &incident(json!([first, second])));
    world.later();
    world.successful_run().await;
    let rows = "SELECT count(*) FROM defender.alerts a JOIN defender.alert_devices d USING (tenant_id, alert_id)
        JOIN defender.devices v USING (tenant_id, device_id) JOIN defender.evidence e USING (tenant_id, alert_id)
        WHERE a.alert_id = 'da2' AND a.incident_id = 900 AND d.device_id = 'device-da2' AND e.url = 'https://da2.example'
        AND v.last_seen = '2026-11-01T00:00:00Z'";
    assert_eq!(world.number(rows).await, 1);
}

#[tokio::test]
async fn unchanged_poll_writes_nothing_with_two_calls() {
    let world = settled(120).await;
    world.service().touch_alert_only(id(1), 7);
    world.later();
    world.successful_run().await;
    let watermark = world.state(id(1), "alerts_watermark").await;
    // The alert is in the overlap: it is listed again.
    for _ in 0..2 {
        clear_calls(&world);
        let before = world.tuples().await;
        world.later();
        let result = one_pass(&world).await;
        assert_eq!(result.report.counts.alerts_written, 0);
        assert_eq!(world.tuples().await, before);
        assert_eq!(result.report.counts.api_calls, 2);
        let (incidents, alerts) =
            (calls(&world, Endpoint::GraphIncidents), calls(&world, Endpoint::GraphAlerts));
        assert_eq!((incidents.len(), alerts.len()), (1, 1), "{incidents:?} {alerts:?}");
        assert!(alerts[0].contains("$top=200") && alerts[0].contains("$orderby"), "{alerts:?}");
    }
    assert_eq!(world.state(id(1), "alerts_watermark").await, watermark);
}

#[tokio::test]
async fn moved_alert_stands_in_its_new_incident() {
    let world = settled(40).await;
    let alert = served(&world).into_iter().find(|(_, state)| state.0 == 10).unwrap().0;
    assert!(world.service().move_alert(id(1), &alert, 10, 11));
    world.service().touch_alert_only(id(1), 11);
    world.later();
    world.successful_run().await;
    assert_alerts_current(&world).await;
    assert_eq!(stored(&world).await[&alert].0, 11);
    let before = world.tuples().await;
    world.later();
    world.successful_run().await;
    assert_eq!(world.tuples().await, before);
}

#[tokio::test]
async fn alert_of_unknown_incident_waits_for_it() {
    let world = settled(10).await;
    // The incident is in its list only later, but its alert has passed the watermark of alerts.
    let alert = json!({"id": "da-waits", "incidentId": "7000", "lastUpdateDateTime": "2026-11-23T13:01:00Z", "evidence": []});
    let body = json!({"value": [alert]}).to_string();
    world.service().script(id(1), Endpoint::GraphAlerts, vec![ScriptedReply::Body(body)]);
    let result = one_pass(&world).await;
    assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    assert!(!stored(&world).await.contains_key("da-waits"), "an alert without its incident");
    let incident = json!({"id": "7000", "createdDateTime": "2026-11-23T13:00:00Z",
        "lastUpdateDateTime": "2026-11-23T13:01:00Z", "alerts": [alert]});
    let updated = "2026-11-23T13:01:00Z".parse().unwrap();
    world.service().add_graph_raw(id(1), 7_000, updated, &incident.to_string());
    world.later();
    world.successful_run().await;
    assert_eq!(stored(&world).await["da-waits"].0, 7_000);
}

#[tokio::test]
async fn alerts_changed_during_first_sync_are_read() {
    let mut alerts_during = Vec::new();
    let world = World::of_graph(vec![spec(1, 200)]).await;
    // The opening page and the first one of the window are served; then their alerts change before the next one is.
    let delay = ScriptedReply::Delay(Duration::from_millis(1_500));
    let slowly = vec![ScriptedReply::Pass, ScriptedReply::Pass, delay];
    world.service().script(id(1), Endpoint::GraphIncidents, slowly);
    let change = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        for incident in 1..=40 {
            alerts_during.push(world.service().touch_alert_only(id(1), incident));
        }
    };
    tokio::join!(world.successful_run(), change);
    world.later();
    world.successful_run().await;
    assert!(alerts_during.into_iter().all(|changed| changed));
    assert_alerts_current(&world).await;
    let alerts = calls(&world, Endpoint::GraphAlerts);
    // One overlap before the first page, not further.
    assert!(alerts.iter().all(|query| query.contains("ge 2026-11-23T11:")), "{alerts:?}");
    let until =
        "SELECT count(*) FROM defender.sync_state WHERE alerts_watermark <= '2026-11-23T12:01:00Z'";
    assert_eq!(world.number(until).await, 1, "the watermark is not beyond the server's clock");
}

/// One incident with alerts at crowded instants: pages of 200 end within 300 of one time.
#[tokio::test]
async fn equal_times_across_page_edges_are_read() {
    let world = World::of_graph(vec![spec(1, 0)]).await;
    let updated = "2026-11-01T00:00:00Z".parse().unwrap();
    let incident = |alerts: Vec<Value>| {
        json!({"id": "1", "createdDateTime": "2026-11-01T00:00:00Z",
            "lastUpdateDateTime": "2026-11-01T00:00:00Z", "alerts": alerts})
        .to_string()
    };
    world.service().add_graph_raw(id(1), 1, updated, &incident(Vec::new()));
    world.successful_run().await;
    world.service().advance(Duration::from_secs(3_600));
    let alert = |number: usize| {
        let time = format!("2026-11-23T12:{:02}:00.{:07}Z", 30 + number / 300, 1_234_567);
        json!({"id": format!("da{number}"), "incidentId": "1", "lastUpdateDateTime": time, "evidence": []})
    };
    world.service().add_graph_raw(id(1), 1, updated, &incident((0..1_500).map(alert).collect()));
    world.later();
    clear_calls(&world);
    world.successful_run().await;
    assert_eq!(world.number("SELECT count(*) FROM defender.alerts").await, 1_500);
    let pages = calls(&world, Endpoint::GraphAlerts).len();
    assert!(pages <= 25, "{pages} pages");
    let watermark = world.state(id(1), "alerts_watermark").await.unwrap();
    assert!(watermark.starts_with("2026-11-23 12:34:00.12345"), "{watermark}");
}

#[tokio::test]
async fn failure_of_alerts_fails_run_after_incidents() {
    let world = settled(30).await;
    world.service().update(id(1), 5);
    world.service().touch_alert_only(id(1), 9);
    let failures =
        std::iter::repeat_with(|| ScriptedReply::graph(503, "ServiceUnavailable")).take(60);
    world.service().script(id(1), Endpoint::GraphAlerts, failures.collect());
    world.later();
    let watermark = world.state(id(1), "alerts_watermark").await;
    let result = one_pass(&world).await;
    let class = result.diagnosis.as_ref().map(|diagnosis| diagnosis.class.as_str());
    assert_eq!((result.outcome, class), (Outcome::Failed, Some("upstream")));
    assert_eq!(result.report.counts.incidents_written, 1);
    assert!(result.report.counts.api_calls < 12, "{}", result.report.counts.api_calls);
    assert_eq!(world.state(id(1), "alerts_watermark").await, watermark);
    assert_eq!(world.number("SELECT count(*) FROM defender.sync_gaps").await, 0);
    world.service().script(id(1), Endpoint::GraphAlerts, Vec::new());
    for _ in 0..8 {
        world.run().await;
    }
    world.successful_run().await;
    assert_alerts_current(&world).await;
}

#[tokio::test]
async fn lost_lease_between_alert_pages_loses_nothing() {
    let world = settled(100).await;
    for incident in 1..=100 {
        world.service().touch_alert_only(id(1), incident);
    }
    world.later();
    let slow = vec![ScriptedReply::Delay(Duration::from_millis(1_500))];
    world.service().script(id(1), Endpoint::GraphAlerts, slow);
    let watermark = world.state(id(1), "alerts_watermark").await;
    let take = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        let (other, _) = world.other_instance("other", 1).await;
        other.take_lease(world.tenants()[0].id).await.unwrap();
    };
    let (result, ()) = tokio::join!(one_pass(&world), take);
    assert_eq!(result.outcome, Outcome::Stopped, "{:?}", result.report.failure);
    assert_eq!(world.state(id(1), "alerts_watermark").await, watermark);
    let free = "UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL";
    sqlx::query(free).execute(world.pool()).await.unwrap();
    world.successful_run().await;
    assert_alerts_current(&world).await;
}

#[tokio::test]
async fn open_run_of_graph_reads_recent_incidents() {
    let world = settled(20).await;
    run_kind(&world, "open").await;
    assert_eq!(calls(&world, Endpoint::GraphIncidents).len(), 1);
    assert!(calls(&world, Endpoint::GraphAlerts).is_empty());
    let due = "SELECT count(*) FROM defender.sync_state WHERE open_due_at > now() + interval '1 s'";
    assert_eq!(world.number(due).await, 1);
}

/// Removes incidents as if polls had missed them.
async fn lose(world: &World, condition: &str) -> i64 {
    let lost = format!(
        "WITH lost AS (DELETE FROM defender.incidents WHERE {condition} RETURNING incident_id),
            payloads AS (DELETE FROM defender.incident_payloads p USING lost WHERE p.incident_id = lost.incident_id),
            alerts AS (DELETE FROM defender.alerts a USING lost WHERE a.incident_id = lost.incident_id)
         SELECT count(*) FROM lost"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(lost)).fetch_one(world.pool()).await.unwrap()
}

const RECENT: &str =
    "last_update_time BETWEEN timestamptz '2026-11-17' AND timestamptz '2026-11-23 11:00Z'";

async fn recent(world: &World) -> usize {
    let query = "SELECT count(*) FROM defender.incidents
        WHERE last_update_time >= (SELECT date_trunc('second', watermark - interval '7 days') FROM defender.sync_state)";
    usize::try_from(world.number(query).await).unwrap()
}

#[tokio::test]
async fn reconcile_lists_versions_and_reads_what_is_missing() {
    let world = settled(300).await;
    let listed = recent(&world).await;
    assert!(listed > 60, "{listed}");
    let lost = lose(&world, &format!("{RECENT} AND incident_id % 20 = 0")).await;
    assert!(lost > 0);
    run_kind(&world, "reconcile").await;
    let queries = calls(&world, Endpoint::GraphIncidents);
    let (lists, whole): (Vec<_>, Vec<_>) =
        queries.into_iter().partition(|query| query.contains("$select=id,lastUpdateDateTime"));
    assert!(whole.iter().all(|query| query.ends_with("?$expand=alerts")), "{whole:?}");
    assert_eq!(whole.len(), usize::try_from(lost).unwrap());
    // A page for fifty, one row of each read twice.
    assert!(lists.len() <= listed / 49 + 2, "{} lists for {listed}", lists.len());
    assert!(calls(&world, Endpoint::GraphAlerts).is_empty());
    assert_eq!(world.state(id(1), "found_late").await.unwrap(), lost.to_string());
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 300);
    assert_alerts_current(&world).await;
}

#[tokio::test]
async fn reconcile_without_changes_only_lists() {
    let world = settled(200).await;
    let before = world.tuples().await;
    run_kind(&world, "reconcile").await;
    let queries = calls(&world, Endpoint::GraphIncidents);
    assert!(queries.iter().all(|query| query.contains("$select=id,lastUpdateDateTime")));
    assert_eq!(world.tuples().await, before);
    assert_eq!(world.state(id(1), "found_late").await.unwrap(), "0");
}

#[tokio::test]
async fn reconcile_reads_unexpandable_incident_alone() {
    let world = settled(300).await;
    let lost = lose(&world, RECENT).await;
    assert!(lost > 5, "{lost}");
    let newest = world.service().versions(id(1)).into_iter();
    let recent: Vec<i64> = newest
        .filter(|(_, updated)| *updated > "2026-11-18T00:00:00Z".parse::<DateTime<Utc>>().unwrap())
        .map(|(incident, _)| incident)
        .collect();
    world.service().poison_expansion(id(1), recent[0]);
    run_kind(&world, "reconcile").await;
    // The list of its alerts fails as well: the incident is stored, and a gap is noted.
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 300);
    assert_eq!(world.number("SELECT count(*) FROM defender.sync_gaps").await, 1);
    world.service().heal(id(1));
    world.run().await;
    assert_eq!(world.number("SELECT count(*) FROM defender.sync_gaps").await, 0);
    assert_alerts_current(&world).await;
}

fn embedding(alerts_max: usize) -> GraphBehaviour {
    GraphBehaviour { embedded_alerts_max: Some(alerts_max), ..GraphBehaviour::default() }
}

#[tokio::test]
async fn alerts_behind_a_link_are_not_lost() {
    let world = World::of_graph(vec![TenantSpec { graph: embedding(2), ..spec(1, 40) }]).await;
    world.successful_run().await;
    assert!(served(&world).len() > 80, "too few alerts for a link");
    assert_alerts_current(&world).await;
    // A reconciliation does not lose them either.
    let lost = lose(&world, RECENT).await;
    assert!(lost > 0);
    run_kind(&world, "reconcile").await;
    assert_alerts_current(&world).await;
}

/// One incident that no page can show with its alerts: how often a page fails before it is read alone.
const TRIES: usize = 4;

/// What the service answers after that: a list of versions and the incident are served, then the pages of its alerts.
async fn read_alone(alert_pages: Vec<ScriptedReply>) -> World {
    let world = World::of_graph(vec![spec(1, 0)]).await;
    let alert = json!({"id": "da-1", "incidentId": "7", "lastUpdateDateTime": "2026-11-01T00:00:00Z", "evidence": []});
    let incident = json!({"id": "7", "createdDateTime": "2026-11-01T00:00:00Z",
        "lastUpdateDateTime": "2026-11-01T00:00:00Z", "alerts": [alert]});
    let updated = "2026-11-01T00:00:00Z".parse().unwrap();
    world.service().add_graph_raw(id(1), 7, updated, &incident.to_string());
    let fails = || ScriptedReply::graph(500, "InternalServerError");
    let mut script: Vec<_> = std::iter::repeat_with(fails).take(TRIES).collect();
    script.extend([ScriptedReply::Pass, ScriptedReply::Pass]);
    script.extend(alert_pages);
    world.service().script(id(1), Endpoint::GraphIncidents, script);
    world.successful_run().await;
    world
}

fn alert_page(name: &str, link: &str) -> ScriptedReply {
    let alert = json!({"id": name, "incidentId": "7", "lastUpdateDateTime": "2026-11-01T00:00:00Z", "evidence": []});
    ScriptedReply::Body(json!({"value": [alert], "@odata.nextLink": link}).to_string())
}

/// The pages of alerts that were asked for.
fn alert_pages(world: &World) -> usize {
    let queries = calls(world, Endpoint::GraphIncidents);
    queries.iter().filter(|query| query.contains("/incidents/7/alerts")).count()
}

async fn gaps(world: &World) -> i64 {
    world.number("SELECT count(*) FROM defender.sync_gaps").await
}

#[tokio::test]
async fn alerts_that_link_in_a_circle_leave_a_gap() {
    let link = "/v1.0/security/incidents/7/alerts?$skip=1";
    let world = read_alone(vec![alert_page("da-1", link), alert_page("da-2", link)]).await;
    assert_eq!((alert_pages(&world), gaps(&world).await), (2, 1));
    assert_eq!(stored(&world).await.len(), 2, "the alerts before the circle are stored");
    world.later();
    world.successful_run().await;
    assert_eq!(gaps(&world).await, 0);
}

#[tokio::test]
async fn alerts_that_fail_half_way_leave_a_gap() {
    let link = "/v1.0/security/incidents/7/alerts?$skip=1";
    let fails = ScriptedReply::graph(502, "");
    let world = read_alone(vec![alert_page("da-1", link), fails]).await;
    assert_eq!((alert_pages(&world), gaps(&world).await), (2, 1));
    assert_eq!(stored(&world).await.len(), 1, "the alerts before the failure are stored");
    world.later();
    world.successful_run().await;
    assert_eq!(gaps(&world).await, 0);
    assert_alerts_current(&world).await;
}

#[tokio::test]
async fn alerts_on_several_pages_become_one_incident() {
    let link = "/v1.0/security/incidents/7/alerts?$skip=1";
    let last =
        ScriptedReply::Body(json!({"value": [{"id": "da-2", "incidentId": "7"}]}).to_string());
    let world = read_alone(vec![alert_page("da-1", link), last]).await;
    assert_eq!((alert_pages(&world), gaps(&world).await), (2, 0));
    assert_eq!(stored(&world).await.len(), 2);
    let payload =
        "SELECT json_array_length(payload->'alerts')::bigint FROM defender.incident_payloads";
    assert_eq!(world.number(payload).await, 2);
}
