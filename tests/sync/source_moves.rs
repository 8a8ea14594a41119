//! Moving a tenant to another source and back: ids are proven first, and no row is lost, doubled or changed.

use chrono::{DateTime, TimeDelta, Utc};
use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use incident_sync::sync::progress::Progress;
use incident_sync::sync::tenant_run::SyncMode;
use incident_sync::sync::verify::{self, Drift, VerifyRange};
use incident_sync::tenant::Source;
use simulator::{Behaviour, Endpoint, GraphBehaviour, TenantSpec};
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;

use crate::support::tenants::PLENTY;
use crate::support::truth::shared_rows;
use crate::support::world::{World, id, spec};

const RECONCILED: &str = "SELECT count(*) FROM defender.sync_runs WHERE kind = 'reconcile'";
const FOUND_LATE: &str = "SELECT sum(found_late)::bigint FROM defender.sync_state";

fn spec_of(number: u128, incidents: usize, graph: GraphBehaviour) -> TenantSpec {
    TenantSpec { graph, spread_days: 20, graph_calls_per_minute: PLENTY, ..spec(number, incidents) }
}

/// A tenant that was read from the Defender API.
async fn stored_world(incidents: usize, graph: GraphBehaviour) -> World {
    let world = World::with(vec![spec_of(1, incidents, graph)]).await;
    world.successful_run().await;
    world.later();
    world.successful_run().await;
    world
}

async fn source(world: &World) -> String {
    world.state(id(1), "source").await.unwrap()
}

/// The tenant may be moved again.
async fn settle(world: &World) {
    let query =
        "UPDATE defender.sync_state SET source_since = source_since - interval '61 minutes'";
    sqlx::query(query).execute(world.pool()).await.unwrap();
}

/// The next claim is a reconciliation; it reads everything that is stored.
async fn reconcile(world: &mut World, source: Source) {
    // The engine of an earlier reconciliation has stopped.
    world.configure_source(source);
    let query = "UPDATE defender.sync_state SET poll_due_at = now() + interval '1 day',
        open_due_at = now() + interval '1 day', reconcile_due_at = now() - interval '1 day', next_attempt_at = now()";
    sqlx::query(query).execute(world.pool()).await.unwrap();
    sqlx::query("DELETE FROM defender.sync_runs").execute(world.pool()).await.unwrap();
    world.run_until(RECONCILED).await;
}

fn assert_equal(held: &[String], expected: &[String], when: &str) {
    let missing: Vec<_> = expected.iter().filter(|row| !held.contains(row)).take(2).collect();
    let extra: Vec<_> = held.iter().filter(|row| !expected.contains(row)).take(2).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{when}: missing {missing:#?}, extra {extra:#?}"
    );
    assert_eq!(held.len(), expected.len(), "{when}");
}

#[tokio::test]
async fn move_to_graph_and_back_changes_no_row() {
    let mut world = stored_world(150, GraphBehaviour::default()).await;
    let before = shared_rows(world.pool()).await;
    for to in [Source::Graph, Source::Defender] {
        world.configure_source(to);
        world.successful_run().await;
        assert_eq!(source(&world).await, to.as_str());
        reconcile(&mut world, to).await;
        world.configure_source(to);
        let everything = world.run_in_mode(SyncMode::Full).await;
        assert_eq!(everything[0].outcome, Outcome::Ok, "{:?}", everything[0].report.failure);
        assert_equal(&shared_rows(world.pool()).await, &before, to.as_str());
        let other = "SELECT count(*) FROM defender.incident_payloads p
            JOIN defender.sync_state s USING (tenant_id) WHERE p.source <> s.source";
        assert_eq!(world.number(other).await, 0, "{}", to.as_str());
        assert_eq!(world.number(FOUND_LATE).await, 0, "{}", to.as_str());
        settle(&world).await;
    }
    let before = world.tuples().await;
    world.later();
    world.successful_run().await;
    assert_eq!(world.tuples().await, before, "a pass without news wrote something");
}

#[tokio::test]
async fn move_with_other_spellings_records_no_change() {
    let graph =
        GraphBehaviour { differs: true, new_evidence_percent: 30, ..GraphBehaviour::default() };
    let mut world = stored_world(120, graph).await;
    let counts = "SELECT concat_ws(' ', (SELECT count(*) FROM defender.incidents), (SELECT count(*) FROM defender.alerts),
        (SELECT count(*) FROM defender.devices), (SELECT count(*) FROM defender.incident_changes),
        (SELECT count(os_processor) FROM defender.devices))";
    let read = async |world: &World| -> String {
        sqlx::query_scalar(counts).fetch_one(world.pool()).await.unwrap()
    };
    let before = read(&world).await;
    assert!(!before.split(' ').any(|count| count == "0"), "{before}");
    for to in [Source::Graph, Source::Defender, Source::Graph] {
        world.configure_source(to);
        world.successful_run().await;
        world.run_in_mode(SyncMode::Full).await;
        assert_eq!(
            (source(&world).await.as_str(), read(&world).await),
            (to.as_str(), before.clone())
        );
        settle(&world).await;
    }
}

#[tokio::test]
async fn values_that_graph_lacks_survive_the_move() {
    let mut world = stored_world(30, GraphBehaviour::default()).await;
    for query in [
        "UPDATE defender.incidents SET detection_source = 'EDR'",
        "UPDATE defender.alerts SET investigation_id = 7",
        "UPDATE defender.devices SET os_processor = 'x64'",
    ] {
        sqlx::query(query).execute(world.pool()).await.unwrap();
    }
    let before = shared_rows(world.pool()).await;
    world.configure_source(Source::Graph);
    world.successful_run().await;
    world.run_in_mode(SyncMode::Full).await;
    let of_graph = "SELECT count(*) FROM defender.incident_payloads WHERE source = 'graph'";
    assert_eq!(world.number(of_graph).await, 30);
    assert_equal(&shared_rows(world.pool()).await, &before, "after the move");
}

#[tokio::test]
async fn news_after_the_move_come_from_the_new_source() {
    let mut world = stored_world(60, GraphBehaviour::default()).await;
    world.configure_source(Source::Graph);
    world.service().create(id(1));
    world.service().live(id(1), 20);
    world.later();
    world.successful_run().await;
    let expected = world.service().versions(id(1));
    let stored: Vec<i64> =
        sqlx::query_scalar("SELECT incident_id FROM defender.incidents ORDER BY incident_id")
            .fetch_all(world.pool())
            .await
            .unwrap();
    assert_eq!(stored, expected.keys().copied().collect::<Vec<_>>());
    let runs = "SELECT count(*) FROM defender.sync_runs WHERE source = 'graph'";
    assert_eq!(world.number(runs).await, 1);
}

#[tokio::test]
async fn watermarks_go_back_a_day_with_the_move() {
    let mut world = stored_world(30, GraphBehaviour::default()).await;
    let query = "UPDATE defender.sync_state SET alerts_watermark = watermark";
    sqlx::query(query).execute(world.pool()).await.unwrap();
    let watermark = "SELECT watermark FROM defender.sync_state";
    let before: DateTime<Utc> =
        sqlx::query_scalar(watermark).fetch_one(world.pool()).await.unwrap();
    world.configure_source(Source::Graph);
    let result = world.run().await.remove(0);
    let from = result.report.window_from.unwrap();
    let moved_back = before - from;
    assert!(moved_back > TimeDelta::days(1), "{moved_back}");
    // The alerts' own watermark of an earlier stay on Graph is not believed.
    let calls = world.service().calls(id(1));
    let alerts = calls.iter().find(|call| call.endpoint == Endpoint::GraphAlerts).unwrap();
    let edge = alerts.query.split("ge ").nth(1).unwrap().split(['&', ' ']).next().unwrap();
    let alerts_back = before - edge.parse::<DateTime<Utc>>().unwrap();
    assert!(alerts_back > TimeDelta::days(1), "{alerts_back}");
    let due = "SELECT count(*) FROM defender.sync_state WHERE reconcile_due_at <= now() AND source_since <= now()";
    assert_eq!(world.number(due).await, 1);
}

#[tokio::test]
async fn found_late_counts_only_changes_after_the_move() {
    let mut world = stored_world(40, GraphBehaviour::default()).await;
    world.configure_source(Source::Graph);
    world.successful_run().await;
    for (since, expected) in [("now()", 0), ("'2026-01-01 00:00Z'", 1)] {
        // What an earlier poll should have seen, before and after the move.
        let forget = "DELETE FROM defender.incidents WHERE incident_id =
            (SELECT incident_id FROM defender.incidents ORDER BY last_update_time DESC OFFSET 5 LIMIT 1)";
        sqlx::query(forget).execute(world.pool()).await.unwrap();
        let query =
            format!("UPDATE defender.sync_state SET source_since = {since}, found_late = 0");
        sqlx::query(AssertSqlSafe(query)).execute(world.pool()).await.unwrap();
        reconcile(&mut world, Source::Graph).await;
        assert_eq!(world.number(FOUND_LATE).await, expected, "{since}");
    }
}

/// The run is refused, parked, and has written nothing.
async fn assert_refused(world: &World, before: &[Option<String>], class: &str) -> TenantResult {
    let result = world.run().await.remove(0);
    let diagnosis = result.diagnosis.clone().unwrap();
    assert_eq!((result.outcome, diagnosis.class.as_str()), (Outcome::Parked, class));
    assert_eq!(world.tuples().await, before, "a refused move wrote something");
    assert_eq!(source(world).await, "defender");
    assert_eq!(world.state(id(1), "source_since").await, None);
    assert!(result.report.counts.api_calls <= 3);
    let run =
        "SELECT count(*) FROM defender.sync_runs WHERE source = 'graph' AND outcome = 'parked'";
    assert!(world.number(run).await > 0);
    result
}

#[tokio::test]
async fn source_with_other_ids_is_refused_and_parked() {
    let behaviours = [
        GraphBehaviour { uppercase_alert_ids: true, ..GraphBehaviour::default() },
        GraphBehaviour { created_later_s: 1, ..GraphBehaviour::default() },
        GraphBehaviour { created_later_s: -3_600, ..GraphBehaviour::default() },
    ];
    for behaviour in behaviours {
        let mut world = stored_world(40, behaviour).await;
        let before = world.tuples().await;
        world.configure_source(Source::Graph);
        let result = assert_refused(&world, &before, "source_mismatch").await;
        let shown = format!("{:?}", result.report.failure);
        assert!(result.diagnosis.unwrap().advice.contains("source = \"defender\""), "{shown}");

        // The old configuration is good at the next reload.
        world.configure_source(Source::Defender);
        world.clear_parking().await;
        world.successful_run().await;
        world.assert_truth().await;
    }
}

#[tokio::test]
async fn source_without_stored_incident_is_refused() {
    let mut world = stored_world(10, GraphBehaviour::default()).await;
    // The other source knows none of them.
    let query = "UPDATE defender.incidents SET incident_id = incident_id + 1000000";
    let payloads = "UPDATE defender.incident_payloads SET incident_id = incident_id + 1000000";
    let alerts = "UPDATE defender.alerts SET incident_id = incident_id + 1000000";
    let mut connection = world.pool().begin().await.unwrap();
    for query in [
        "SET CONSTRAINTS ALL DEFERRED",
        "SET LOCAL session_replication_role = replica",
        query,
        payloads,
        alerts,
    ] {
        sqlx::query(query).execute(&mut *connection).await.unwrap();
    }
    connection.commit().await.unwrap();
    let before = world.tuples().await;
    world.configure_source(Source::Graph);
    assert_refused(&world, &before, "source_mismatch").await;
}

#[tokio::test]
async fn missing_role_of_new_source_writes_nothing() {
    let mut world = stored_world(20, GraphBehaviour::default()).await;
    let before = world.tuples().await;
    world.configure_source(Source::Graph);
    world.service().set_behaviour(id(1), Behaviour { no_roles: true, ..Behaviour::default() });
    assert_refused(&world, &before, "missing_role").await;
    world.service().set_behaviour(id(1), Behaviour::default());
    world.clear_parking().await;
    world.successful_run().await;
    assert_eq!(source(&world).await, "graph");
}

#[tokio::test]
async fn new_tenant_takes_its_source_without_proof() {
    // Its ids would be refused if there were any to compare with.
    let graph = GraphBehaviour { uppercase_alert_ids: true, ..GraphBehaviour::default() };
    let mut world = World::with(vec![spec_of(1, 20, graph)]).await;
    world.configure_source(Source::Graph);
    world.successful_run().await;
    assert_eq!(source(&world).await, "graph");
    assert_eq!(world.state(id(1), "source_since").await, None);
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 20);
}

#[tokio::test]
async fn tenant_without_incidents_may_be_moved() {
    let mut world = stored_world(0, GraphBehaviour::default()).await;
    world.configure_source(Source::Graph);
    world.successful_run().await;
    assert_eq!(source(&world).await, "graph");
}

#[tokio::test]
async fn differing_instances_do_not_move_a_tenant_to_and_fro() {
    let mut world = stored_world(40, GraphBehaviour::default()).await;
    let (_, of_defender) = world.other_instance("defender", 1).await;
    world.configure_source(Source::Graph);
    world.successful_run().await;
    for _ in 0..2 {
        world.service().update_random(id(1));
        world.later();
        let result = of_defender.run_once(&[id(1)], SyncMode::Incremental).await.unwrap().remove(0);
        assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
        assert!(result.report.counts.incidents_written > 0, "it reads from where the tenant is");
        assert_eq!(source(&world).await, "graph");
        world.successful_run().await;
    }
    let of_graph = "SELECT count(*) FROM defender.sync_runs WHERE source = 'graph'";
    assert_eq!(world.number(of_graph).await, 5);
    settle(&world).await;
    let result = of_defender.run_once(&[id(1)], SyncMode::Incremental).await.unwrap().remove(0);
    assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    assert_eq!(source(&world).await, "defender", "an hour later the move is possible");
}

async fn verify_against(world: &World, source: Source) -> Vec<Drift> {
    let tenants: Vec<_> =
        world.tenants().iter().map(|each| std::sync::Arc::new(each.read_from(source))).collect();
    let range = VerifyRange {
        since: None,
        lookback: std::time::Duration::from_secs(180 * 86_400),
        overlap: std::time::Duration::ZERO,
    };
    let services = world.engine.services();
    verify::all(services, &tenants, range, 2, &CancellationToken::new(), &Progress::hidden()).await
}

#[tokio::test]
async fn verify_of_other_source_finds_only_real_drift() {
    let graph =
        GraphBehaviour { differs: true, new_evidence_percent: 40, ..GraphBehaviour::default() };
    let mut world = stored_world(60, graph).await;
    for stored in [Source::Defender, Source::Graph] {
        world.configure_source(stored);
        world.successful_run().await;
        world.run_in_mode(SyncMode::Full).await;
        for other in [Source::Defender, Source::Graph] {
            let before = world.tuples().await;
            let drift = verify_against(&world, other).await.remove(0);
            assert!(drift.is_clean() && drift.compared > 50, "{stored:?} {other:?}: {drift:?}");
            assert_eq!(world.tuples().await, before);
        }
    }
    let shared = "DELETE FROM defender.evidence WHERE ctid =
        (SELECT ctid FROM defender.evidence WHERE entity_type = 'User' LIMIT 1)";
    sqlx::query(shared).execute(world.pool()).await.unwrap();
    for other in [Source::Defender, Source::Graph] {
        let drift = verify_against(&world, other).await.remove(0);
        assert_eq!(drift.alerts.len(), 1, "{other:?}: {drift:?}");
    }
}
