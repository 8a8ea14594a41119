//! Pages and incidents that are larger than what is taken of one answer.

use chrono::{DateTime, TimeDelta, Utc};
use incident_sync::store::runs::Outcome;
use serde_json::json;
use simulator::{Endpoint, Order, TenantSpec};

use crate::support::world::{World, id, spec};

const LIMIT: usize = 6 * 1024 * 1024;
const ALERT_BYTES: usize = 15_000;

/// An incident that changes an hour after the one before it, with so many alerts.
fn add(world: &World, incident: i64, alerts: usize) {
    let begin: DateTime<Utc> = "2026-11-10T00:00:00Z".parse().unwrap();
    let updated = begin + TimeDelta::hours(incident);
    let alert = |number| json!({"alertId": format!("{incident}-{number}"), "title": "t", "description": "d".repeat(ALERT_BYTES)});
    let document = json!({
        "incidentId": incident,
        "lastUpdateTime": updated,
        "incidentName": format!("Incident {incident}"),
        "status": "Active",
        "severity": "High",
        "zAlerts": null,
    });
    let alerts: Vec<_> = (0..alerts).map(alert).collect();
    // The list of alerts comes last, as in the documentation.
    let document = document.to_string();
    let head = document.strip_suffix('}').unwrap();
    let text = format!("{head},\"alerts\":{}}}", serde_json::Value::from(alerts));
    world.service().add_raw(id(1), incident, updated, &text);
}

fn calls(world: &World) -> usize {
    let calls = world.service().calls(id(1));
    calls.iter().filter(|call| call.endpoint == Endpoint::Incidents).count()
}

async fn world(order: Order) -> World {
    let mut world = World::with(vec![TenantSpec { order, ..spec(1, 0) }]).await;
    world.limit_bodies(LIMIT);
    world
}

#[tokio::test]
async fn large_pages_cost_few_calls() {
    for order in [Order::NewestFirst, Order::ById, Order::Hashed] {
        let world = world(order).await;
        (1..=100).for_each(|incident| add(&world, incident, 16));
        world.successful_run().await;
        assert_eq!(world.number("SELECT count(*) FROM defender.alerts").await, 1_600);
        assert_eq!(world.number("SELECT count(*) FROM defender.sync_gaps").await, 0);
        // 24 MB in answers of at most 6 MiB.
        assert!(calls(&world) <= 12, "{order:?}: {} calls", calls(&world));
    }
}

#[tokio::test]
async fn head_of_too_large_incident_is_stored() {
    for order in [Order::NewestFirst, Order::ById, Order::Hashed] {
        let world = world(order).await;
        (1..=100).for_each(|incident| add(&world, incident, 1));
        add(&world, 57, 600);
        let result = world.run().await.remove(0);
        assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
        assert!(calls(&world) <= 15, "{order:?}: {} calls", calls(&world));
        let head = "SELECT count(*) FROM defender.incidents
            WHERE incident_id = 57 AND status = 'Active' AND severity = 'High' AND incident_name = 'Incident 57'";
        assert_eq!(world.number(head).await, 1);
        assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 100);
        let others = "SELECT count(*) FROM defender.alerts WHERE incident_id <> 57";
        assert_eq!(world.number(others).await, 99);
        let gap = "SELECT count(*) FROM defender.sync_gaps
            WHERE error_class = 'too_large' AND error_message LIKE 'incident 57 %'";
        assert_eq!(world.number(gap).await, 1);

        // It is read again, and whole once it fits.
        add(&world, 57, 2);
        world.successful_run().await;
        assert_eq!(world.number("SELECT count(*) FROM defender.sync_gaps").await, 0);
        let hers = "SELECT count(*) FROM defender.alerts WHERE incident_id = 57 AND alert_id IN ('57-0', '57-1')";
        assert_eq!(world.number(hers).await, 2);
    }
}
