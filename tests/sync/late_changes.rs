//! Changes that the API lists late, or fills in later under an unchanged time: the hourly run finds them, and polls learn from it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use simulator::TenantSpec;
use tokio::sync::Notify;

use crate::support::world::{World, id, spec};

const MINUTE: Duration = Duration::from_secs(60);

/// Makes only this kind of run due, and lets the daemon do it.
async fn run_kind(world: &World, kind: &str) {
    let due = "UPDATE defender.sync_state SET
        poll_due_at = now() + CASE WHEN $1 = 'poll' THEN '0 h' ELSE '1 h' END::interval,
        open_due_at = now() + CASE WHEN $1 = 'open' THEN '0 h' ELSE '1 h' END::interval,
        reconcile_due_at = now() + interval '1 h'";
    sqlx::query(due).bind(kind).execute(world.pool()).await.unwrap();
    let count = async || -> i64 {
        let ended = "SELECT count(*) FROM defender.sync_runs WHERE kind = $1 AND outcome = 'ok'";
        sqlx::query_scalar(ended).bind(kind).fetch_one(world.pool()).await.unwrap()
    };
    let before = count().await;
    let (_, engine) = world.other_instance("daemon", 1).await;
    let wake = Notify::new();
    let is_done = async {
        while count().await == before {
            wake.notify_one();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.stop.cancel();
    };
    let both = async { tokio::join!(engine.run(&wake), is_done).0.unwrap() };
    tokio::time::timeout(60 * Duration::from_secs(1), both).await.expect("the run ends well");
}

async fn stored(world: &World, incident: i64) -> Option<DateTime<Utc>> {
    let query = "SELECT last_update_time FROM defender.incidents WHERE incident_id = $1";
    sqlx::query_scalar(query).bind(incident).fetch_optional(world.pool()).await.unwrap()
}

async fn is_current(world: &World, incident: i64) -> bool {
    let served = world.service().versions(id(1))[&incident];
    stored(world, incident).await.is_some_and(|stored| (served - stored).num_milliseconds() == 0)
}

/// Five minutes in which something changes that is listed in time, and a poll.
async fn tick(world: &World) {
    let service = world.service();
    service.advance(2 * MINUTE);
    service.create(id(1));
    service.advance(3 * MINUTE);
    run_kind(world, "poll").await;
}

/// An incident that is closed now and listed so much later.
fn close_late(world: &World, by: Duration) -> i64 {
    let incident = world.service().create(id(1));
    assert!(world.service().resolve(id(1), incident));
    world.service().list_late(id(1), incident, by);
    incident
}

async fn lateness(world: &World) -> i32 {
    let status = world.store.tenant_status().await.unwrap().remove(0).standing;
    let freshness = world.store.freshness().await.unwrap().remove(0);
    assert_eq!(status.lateness_seconds, Some(freshness.lateness_seconds));
    freshness.lateness_seconds
}

#[tokio::test]
async fn late_versions_lengthen_the_overlap() {
    let world = World::of(20).await;
    world.successful_run().await;
    tick(&world).await;
    // A quarter of an hour late, and an hour: closed incidents, which no reading of open ones shows.
    let late = close_late(&world, 18 * MINUTE);
    let very_late = close_late(&world, 60 * MINUTE);
    for _ in 0..5 {
        tick(&world).await;
    }
    assert!(!is_current(&world, late).await, "the overlap of ten minutes sees it");
    assert_eq!(lateness(&world).await, 0);
    run_kind(&world, "open").await;
    assert!(is_current(&world, late).await, "not stored within the hour");
    assert_eq!(world.state(id(1), "found_late").await.unwrap(), "1");
    let learned = lateness(&world).await;
    assert!((15 * 60..30 * 60).contains(&learned), "{learned} s");

    // Polls find the next one of this kind, without another hourly run.
    let next = close_late(&world, 18 * MINUTE);
    for _ in 0..4 {
        tick(&world).await;
    }
    assert!(is_current(&world, next).await, "polls learned nothing");
    assert_eq!(world.state(id(1), "found_late").await.unwrap(), "1", "a poll missed it");

    for _ in 0..4 {
        tick(&world).await;
    }
    assert!(!is_current(&world, very_late).await);
    run_kind(&world, "open").await;
    assert!(is_current(&world, very_late).await);
    world.later();
    world.assert_settled().await;
}

#[tokio::test]
async fn measured_lateness_is_forgotten_after_days() {
    let world = World::of(20).await;
    world.successful_run().await;
    let at = async |at: &str, seconds: i32| {
        let set =
            format!("UPDATE defender.sync_state SET lateness_s = {seconds}, lateness_at = {at}");
        sqlx::query(sqlx::AssertSqlSafe(set)).execute(world.pool()).await.unwrap();
    };
    at("now() - interval '3 days'", 5_000).await;
    assert_eq!(lateness(&world).await, 0);
    at("now()", 5_000).await;
    assert_eq!(lateness(&world).await, 5_000);
    // However late: a poll reaches back two hours at most.
    at("now()", 500_000).await;
    world.service().clear_calls(id(1));
    run_kind(&world, "poll").await;
    let watermark: DateTime<Utc> = sqlx::query_scalar("SELECT watermark FROM defender.sync_state")
        .fetch_one(world.pool())
        .await
        .unwrap();
    let from = (watermark - chrono::TimeDelta::hours(2)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let calls = world.service().calls(id(1));
    assert!(calls.iter().any(|call| call.query.contains(&from)), "{from}: {calls:?}");
}

/// Adds an entity to the first alert of a closed incident, under unchanged times.
fn fill_in(world: &World, incident: i64) {
    let text = &world.service().truth_raw(id(1))[&incident];
    let mut document: Value = serde_json::from_str(text).unwrap();
    let entities = document["alerts"][0]["entities"].as_array_mut().unwrap();
    entities.push(json!({"entityType": "Ip", "ipAddress": "192.0.2.21"}));
    let updated = world.service().versions(id(1))[&incident];
    world.service().add_raw(id(1), incident, updated, &document.to_string());
}

#[tokio::test]
async fn entities_filled_in_later_are_stored_hourly() {
    for is_graph in [false, true] {
        let spec = TenantSpec { spread_days: 8, ..spec(1, 30) };
        let world = match is_graph {
            false => World::with(vec![spec]).await,
            true => World::of_graph(vec![spec]).await,
        };
        world.successful_run().await;
        let incident = world.service().create(id(1));
        assert!(world.service().resolve(id(1), incident));
        world.later();
        world.successful_run().await;
        for _ in 0..5 {
            tick(&world).await;
        }
        fill_in(&world, incident);
        let ip = "SELECT count(*) FROM defender.evidence WHERE ip_address = '192.0.2.21'";
        tick(&world).await;
        assert_eq!(world.number(ip).await, 0, "no poll reads what did not change");
        run_kind(&world, "open").await;
        assert_eq!(world.number(ip).await, 1, "graph: {is_graph}");
        assert_eq!(world.state(id(1), "found_late").await.unwrap(), "0");
        world.assert_truth().await;
    }
}
