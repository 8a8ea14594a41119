//! What did not change is not written: counted by the versions of the rows.

use serde_json::{Value, json};
use simulator::{Endpoint, ScriptedReply};

use crate::support::world::{World, id};

fn version(incident: i64, second: u32, content: &Value) -> Value {
    let mut version = json!({ "incidentId": incident, "incidentName": "n", "status": "Active",
        "lastUpdateTime": format!("2026-11-20T10:00:{second:02}Z") });
    version.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
    version
}

/// Reads a page with these versions of incidents.
async fn read_page(world: &World, versions: &[Value]) {
    let reply = ScriptedReply::Body(json!({ "value": versions }).to_string());
    world.service().script(id(1), Endpoint::Incidents, vec![reply]);
    world.successful_run().await;
}

async fn read(world: &World, incident: i64, second: u32, content: Value) {
    read_page(world, &[version(incident, second, &content)]).await;
}

fn alert(name: &str) -> Value {
    json!({ "alertId": name, "title": "t", "lastUpdatedTime": "2026-11-20T09:00:00Z", "mitreTechniques": ["T1059"],
        "devices": [{ "mdatpDeviceId": "d1" }], "entities": [{ "url": name, "verdict": "Unknown" }] })
}

/// Each row of what belongs to alerts, with its version.
async fn versions(world: &World) -> Vec<String> {
    let versions = "SELECT 'alert ' || alert_id || ctid || xmin FROM defender.alerts
        UNION ALL SELECT 'device ' || alert_id || ctid || xmin FROM defender.alert_devices
        UNION ALL SELECT 'evidence ' || alert_id || ctid || xmin FROM defender.evidence ORDER BY 1";
    sqlx::query_scalar(versions).fetch_all(world.pool()).await.unwrap()
}

/// The rows that were written since.
async fn written(world: &World, before: &[String]) -> Vec<String> {
    let after = versions(world).await;
    let new = after.into_iter().filter(|row| !before.contains(row));
    new.map(|row| row.split('(').next().unwrap().to_owned()).collect()
}

async fn rows(world: &World, query: &'static str) -> Vec<String> {
    sqlx::query_scalar(query).fetch_all(world.pool()).await.unwrap()
}

#[tokio::test]
async fn comment_on_incident_writes_no_row_of_its_alerts() {
    let world = World::of(0).await;
    let alerts: Vec<Value> = (0..2_000).map(|at| alert(&format!("a{at}"))).collect();
    read(&world, 1, 1, json!({ "alerts": alerts })).await;
    let before = versions(&world).await;
    assert_eq!(before.len(), 6_000);
    let comment =
        json!([{ "comment": "c", "createdBy": "b", "createdTime": "2026-11-20T10:00:02Z" }]);
    read(&world, 1, 2, json!({ "alerts": alerts, "comments": comment })).await;
    assert_eq!(written(&world, &before).await, [""; 0]);
    let counts =
        "SELECT concat_ws(' ', alert_count, device_count, user_count) FROM reporting.incidents";
    assert_eq!(rows(&world, counts).await, ["2000 1 0"]);
    assert_eq!(world.number("SELECT count(*) FROM defender.incident_comments").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM reporting.alerts WHERE is_listed").await, 2_000);
}

#[tokio::test]
async fn change_of_one_alert_writes_its_rows_only() {
    let world = World::of(0).await;
    read(&world, 1, 1, json!({ "alerts": [alert("a"), alert("b"), alert("c")] })).await;
    let mut before = versions(&world).await;
    let mut judged = alert("b");
    judged["entities"][0]["verdict"] = "Malicious".into();
    let mut closed = judged.clone();
    closed["status"] = "Resolved".into();
    let mut more = closed.clone();
    more["sensor"] = "s".into();
    let steps: [(Vec<Value>, &[&str]); 6] = [
        (vec![alert("a"), judged.clone(), alert("c")], &["evidence b"]),
        (vec![alert("a"), closed.clone(), alert("c")], &["alert b"]),
        (vec![alert("a"), more.clone(), alert("c")], &["alert b"]),
        (vec![alert("a"), more.clone()], &["alert c"]),
        (vec![alert("a"), more.clone(), alert("c")], &["alert c"]),
        (vec![alert("a"), more, alert("c")], &[]),
    ];
    for (at, (alerts, expected)) in steps.into_iter().enumerate() {
        let second = u32::try_from(at).unwrap() + 2;
        read(&world, 1, second, json!({ "alerts": alerts })).await;
        assert_eq!(written(&world, &before).await, expected, "step {at}");
        before = versions(&world).await;
    }
}

/// The alert's row is from the first version of its incident; an older version of another one lists it too.
#[tokio::test]
async fn unchanged_alert_stays_with_its_newest_incident() {
    let world = World::of(0).await;
    read(&world, 1, 1, json!({ "alerts": [alert("a")] })).await;
    read(&world, 1, 7, json!({ "alerts": [alert("a")] })).await;
    read(&world, 2, 5, json!({ "alerts": [alert("a")] })).await;
    let held = "SELECT concat_ws(' ', alert_id, incident_id, is_listed) FROM defender.alerts";
    assert_eq!(rows(&world, held).await, ["a 1 t"]);
    read(&world, 2, 9, json!({ "alerts": [alert("a")] })).await;
    assert_eq!(rows(&world, held).await, ["a 2 t"]);
    // One page with a newer version of the incident that it left.
    let moved = json!({ "alerts": [alert("a")] });
    read_page(&world, &[version(1, 10, &moved), version(2, 11, &json!({ "alerts": [] }))]).await;
    assert_eq!(rows(&world, held).await, ["a 1 t"]);
}

#[tokio::test]
async fn alerts_follow_the_merge_of_their_incident() {
    let world = World::of(0).await;
    read(&world, 1, 1, json!({ "alerts": [alert("a"), alert("b")] })).await;
    let merged = json!({ "alerts": [alert("a")], "status": "Redirected", "redirectIncidentId": 2 });
    read(&world, 1, 2, merged).await;
    let held = "SELECT concat_ws(' ', alert_id, is_listed, incident_is_merged) FROM defender.alerts ORDER BY 1";
    assert_eq!(rows(&world, held).await, ["a t t", "b f t"]);
    let shown = "SELECT alert_id FROM reporting.alerts ORDER BY 1";
    assert_eq!(rows(&world, shown).await, [""; 0]);
    read(&world, 2, 3, json!({ "alerts": [alert("b")] })).await;
    assert_eq!(rows(&world, held).await, ["a t t", "b t f"]);
    assert_eq!(rows(&world, shown).await, ["b"]);
    // By hand as well.
    let split = "UPDATE defender.incidents SET status = 'Active', redirect_incident_id = NULL WHERE incident_id = 1";
    sqlx::query(split).execute(world.pool()).await.unwrap();
    assert_eq!(rows(&world, shown).await, ["a", "b"]);
}
