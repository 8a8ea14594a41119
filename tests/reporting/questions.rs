//! The questions of a shift, each a short query that a reader of `reporting` can write.

use serde_json::{Value, json};

use crate::support::world::{World, id, spec};

const OVERDUE: &str = "
    SELECT string_agg(incident_id::text, ',' ORDER BY incident_id) FROM reporting.open_incidents
    WHERE age_seconds > CASE severity WHEN 'High' THEN 4 ELSE 48 END * 3600";
const UNASSIGNED: &str = "
    SELECT string_agg(incident_id::text, ',' ORDER BY incident_id) FROM reporting.open_incidents
    WHERE assigned_to IS NULL";
const UNCLASSIFIED: &str = "
    SELECT string_agg(incident_id::text, ',' ORDER BY incident_id) FROM reporting.incidents
    WHERE resolved_at IS NOT NULL AND coalesce(classification, 'Unknown') IN ('Unknown', 'NotAvailable')";

/// An incident of the Defender API; `age` in hours.
fn incident(world: &World, id: i64, age: i64, severity: &str, own: &Value) -> String {
    let created = world.service().now() - chrono::TimeDelta::hours(age);
    let mut incident = json!({
        "incidentId": id, "incidentName": format!("Example {id}"), "redirectIncidentId": null,
        "createdTime": created, "lastUpdateTime": created, "assignedTo": "jane@contoso.example",
        "classification": "TruePositive", "determination": "Malware", "status": "Active",
        "severity": severity, "tags": [], "comments": [], "alerts": [],
    });
    for (key, value) in own.as_object().unwrap() {
        incident[key] = value.clone();
    }
    incident.to_string()
}

#[tokio::test]
async fn overdue_unassigned_unclassified_are_short_queries() {
    let world = World::with(vec![spec(1, 0)]).await;
    let resolved =
        |classification: Value| json!({ "status": "Resolved", "classification": classification });
    // The database's clock is days ahead of the service's, so every open incident is old; none is resolved before its first sight.
    for (number, severity, own) in [
        (1, "High", json!({})),
        (2, "Medium", json!({ "assignedTo": null })),
        (3, "High", resolved(Value::Null)),
        (4, "High", resolved("Unknown".into())),
        (5, "High", resolved("NotAvailable".into())),
        (6, "High", resolved("FalsePositive".into())),
        (7, "Low", json!({ "status": "Redirected", "redirectIncidentId": 1, "assignedTo": null })),
    ] {
        let text = incident(&world, number, 72, severity, &own);
        world.service().add_raw(id(1), number, world.service().now(), &text);
    }
    world.later();
    world.successful_run().await;
    for (query, expected) in [(OVERDUE, "1,2"), (UNASSIGNED, "2"), (UNCLASSIFIED, "3,4,5")] {
        let found: Option<String> =
            sqlx::query_scalar(query).fetch_one(world.pool()).await.unwrap();
        assert_eq!(found.as_deref(), Some(expected), "{query}");
    }
}
