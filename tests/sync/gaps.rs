//! An incident that the API cannot serve: the rest of its tenant is read, and it is read once it can be served.

use std::time::Duration;

use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use incident_sync::sync::progress::Progress;
use incident_sync::sync::tenant_run::SyncMode;
use incident_sync::sync::tenant_state::State;
use incident_sync::sync::verify::{self, VerifyRange};
use serde_json::Value;
use simulator::{Endpoint, Order, ScriptedReply, TenantSpec};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::truth;
use crate::support::world::{World, id, spec};

/// The tables hold everything but this incident.
async fn assert_all_but(world: &World, tenant: Uuid, unservable: i64) {
    let mut served = world.service().truth(tenant);
    served.retain(|incident: &Value| incident["incidentId"] != unservable);
    let stored = truth::stored(world.pool(), tenant).await;
    truth::assert_same(
        &stored,
        &truth::expected(&served),
        &format!("{tenant} without {unservable}"),
    );
}

fn assert_good(results: &[TenantResult]) {
    for result in results {
        assert_eq!(
            result.outcome,
            Outcome::Ok,
            "{}: {:?}",
            result.tenant.name,
            result.report.failure
        );
    }
}

fn calls(result: &TenantResult) -> usize {
    result.report.counts.api_calls
}

async fn states(world: &World) -> Vec<(&'static str, i64)> {
    let tenants = world.store.tenant_status().await.unwrap();
    tenants
        .iter()
        .map(|tenant| (State::of(&tenant.standing).as_str(), tenant.standing.gaps))
        .collect()
}

async fn gaps(world: &World) -> i64 {
    world.number("SELECT count(*) FROM defender.sync_gaps").await
}

#[tokio::test]
async fn unservable_incident_in_backfill_leaves_one_gap() {
    let places = [1, 300, 200];
    let mut specs = vec![spec(1, 200), spec(2, 600), spec(3, 200)];
    specs[1].order = Order::ById;
    specs.push(spec(4, 20));
    let world = World::with(specs).await;
    for (tenant, place) in (1..).zip(places) {
        world.service().poison(id(tenant), place);
    }
    let first = world.run().await;
    assert_good(&first);
    for (tenant, place) in (1..).zip(places) {
        assert_all_but(&world, id(tenant), place).await;
    }
    assert!(
        first[..3].iter().all(|result| calls(result) < 110),
        "{:?}",
        first.iter().map(calls).collect::<Vec<_>>()
    );
    assert_eq!(
        states(&world).await,
        [("incomplete", 1), ("incomplete", 1), ("incomplete", 1), ("ok", 0)]
    );
    let precise = "SELECT count(*) FROM defender.sync_gaps WHERE window_to - window_from <= interval '1 second'
        AND error_class = 'upstream' AND error_message LIKE '%InternalServerError (tracking id 43f4cb08-%'";
    assert_eq!(world.number(precise).await, 3);
    let metrics = world.store.freshness().await.unwrap();
    assert_eq!(metrics.iter().map(|tenant| tenant.gaps).collect::<Vec<_>>(), [1, 1, 1, 0]);

    // A gap is tried again, not searched for again.
    world.later();
    let second = world.run().await;
    assert_good(&second);
    assert!(
        second.iter().all(|result| calls(result) <= 6),
        "{:?}",
        second.iter().map(calls).collect::<Vec<_>>()
    );
    assert_eq!(gaps(&world).await, 3);

    for tenant in 1..=3 {
        world.service().heal(id(tenant));
    }
    assert_good(&world.run().await);
    assert_eq!(states(&world).await, [("ok", 0); 4]);
    assert_eq!(world.number("SELECT sum(found_late)::bigint FROM defender.sync_state").await, 0);
    world.assert_settled().await;
}

#[tokio::test]
async fn unservable_incident_in_poll_leaves_one_gap() {
    let world = World::with((1..=3).map(|at| spec(at, 40)).collect()).await;
    world.successful_run().await;
    world.later();
    let places = [10, 11, 12];
    for incident in places {
        for tenant in 1..=3 {
            assert!(world.service().update(id(tenant), incident));
        }
        world.later();
    }
    for (tenant, place) in (1..).zip(places) {
        world.service().poison(id(tenant), place);
    }
    for _ in 0..2 {
        assert_good(&world.run().await);
        assert_eq!(states(&world).await, [("incomplete", 1); 3]);
        let stored = "SELECT count(*) FROM defender.incidents WHERE incident_id IN (10, 11, 12)
            AND last_update_time >= '2026-11-23T12:00:00Z'";
        assert_eq!(world.number(stored).await, 6, "of nine versions three cannot be served");
    }
    for tenant in 1..=3 {
        world.service().heal(id(tenant));
    }
    assert_good(&world.run().await);
    assert_eq!(gaps(&world).await, 0);
    world.assert_settled().await;
}

/// Lets the daemon's loop run until the only tenant has so many good runs of a kind.
async fn daemon_until(world: &World, query: &'static str) {
    let (_, engine) = world.other_instance("daemon", 1).await;
    let wake = Notify::new();
    let done = async {
        while world.number(query).await == 0 {
            wake.notify_one();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        engine.stop.cancel();
    };
    let both = async { tokio::join!(engine.run(&wake), done) };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("the run ends well")
        .0
        .unwrap();
}

#[tokio::test]
async fn open_run_finds_and_closes_a_gap() {
    let world = World::of(60).await;
    world.successful_run().await;
    let open = world
        .number("SELECT max(incident_id) FROM defender.incidents WHERE status = 'Active'")
        .await;
    world.service().poison(id(1), open);
    let make_due = async |kind: &str| {
        let due = "UPDATE defender.sync_state SET poll_due_at = now() + CASE WHEN $1 = 'poll' THEN '0 h' ELSE '1 h' END::interval,
            open_due_at = now() + CASE WHEN $1 = 'open' THEN '0 h' ELSE '1 h' END::interval,
            reconcile_due_at = now() + CASE WHEN $1 = 'reconcile' THEN '0 h' ELSE '1 h' END::interval";
        sqlx::query(due).bind(kind).execute(world.pool()).await.unwrap();
    };
    make_due("open").await;
    daemon_until(
        &world,
        "SELECT count(*) FROM defender.sync_runs WHERE kind = 'open' AND outcome = 'ok'",
    )
    .await;
    assert_eq!(gaps(&world).await, 1);

    // As if the watermark stood right behind the gap: each poll begins before it.
    let back =
        "UPDATE defender.sync_state SET watermark = (SELECT window_to FROM defender.sync_gaps)";
    sqlx::query(back).execute(world.pool()).await.unwrap();
    world.service().clear_calls(id(1));
    make_due("poll").await;
    daemon_until(
        &world,
        "SELECT count(*) FROM defender.sync_runs WHERE kind = 'poll' AND outcome = 'ok'",
    )
    .await;
    let asked = world.service().calls(id(1));
    let statuses: Vec<u16> = asked
        .iter()
        .filter(|call| call.endpoint == Endpoint::Incidents)
        .map(|call| call.status)
        .collect();
    assert_eq!(statuses, [200, 200], "one page before the gap, one behind it, none into it");
    assert_eq!(gaps(&world).await, 1);

    world.service().heal(id(1));
    make_due("reconcile").await;
    daemon_until(
        &world,
        "SELECT count(*) FROM defender.sync_runs WHERE kind = 'reconcile' AND outcome = 'ok'",
    )
    .await;
    assert_eq!(gaps(&world).await, 0);
    assert_eq!(world.number("SELECT sum(found_late)::bigint FROM defender.sync_state").await, 0);
    world.assert_truth().await;
}

#[tokio::test]
async fn api_outage_leaves_no_gap_and_few_calls() {
    let world = World::with((1..=4).map(|at| spec(at, 600)).collect()).await;
    for (tenant, pages) in (1..).zip([0, 1, 3, 7]) {
        let outage = std::iter::repeat_with(|| ScriptedReply::defender(502, "")).take(60);
        let script =
            std::iter::repeat_with(|| ScriptedReply::Pass).take(pages).chain(outage).collect();
        world.service().script(id(tenant), Endpoint::Incidents, script);
    }
    for (result, pages) in world.run().await.iter().zip([0, 1, 3, 7]) {
        let diagnosis = result.diagnosis.as_ref().expect("the run failed");
        assert_eq!((result.outcome, diagnosis.class.as_str()), (Outcome::Failed, "upstream"));
        assert_eq!(
            calls(result) - pages,
            7,
            "four tries, two smaller pages, one look whether anything is served"
        );
    }
    assert_eq!(gaps(&world).await, 0);
}

#[tokio::test]
async fn unservable_incident_in_random_order_hides_no_other() {
    let world = World::with(vec![TenantSpec { order: Order::Random, ..spec(1, 250) }]).await;
    world.service().poison(id(1), 120);
    assert_good(&world.run().await);
    assert_all_but(&world, id(1), 120).await;
    assert_eq!(states(&world).await, [("incomplete", 1)]);
}

#[tokio::test]
async fn verify_distinguishes_a_gap_from_drift() {
    let world = World::of(60).await;
    world.successful_run().await;
    let stop = CancellationToken::new();
    let span = VerifyRange {
        since: None,
        lookback: Duration::from_secs(180 * 86_400),
        overlap: Duration::from_secs(600),
    };
    let compare = async || {
        verify::all(world.engine.services(), world.tenants(), span, 1, &stop, &Progress::hidden())
            .await
            .remove(0)
    };
    world.later();
    world.service().poison(id(1), 30);
    // Stored long ago, and now the API cannot list it: neither extra nor missing, but that cannot be verified.
    for known in [0, 1] {
        assert_eq!(gaps(&world).await, known);
        let drift = compare().await;
        assert_eq!((drift.gaps, drift.failure.as_deref(), drift.is_clean()), (1, None, false));
        assert!(
            drift.missing.is_empty() && drift.older.is_empty() && drift.extra.is_empty(),
            "{drift:?}"
        );
        for result in world.run_in_mode(SyncMode::Full).await {
            assert_eq!(result.outcome, Outcome::Ok);
        }
    }
    world.service().heal(id(1));
    world.successful_run().await;
    assert!(compare().await.is_clean());
}

#[tokio::test]
async fn oversized_pages_are_read_in_smaller_ones() {
    let world = World::of(30).await;
    for number in 1..=6 {
        let time = format!("2026-11-{:02}T08:00:00Z", 10 + number);
        let padding = "x".repeat(12 * 1024 * 1024);
        let raw = format!(
            r#"{{"incidentId":{},"createdTime":"{time}","lastUpdateTime":"{time}","alerts":[],"padding":"{padding}"}}"#,
            1_000 + number
        );
        world.service().add_raw(id(1), 1_000 + number, time.parse().unwrap(), &raw);
    }
    assert_good(&world.run().await);
    let whole = "SELECT count(*) FROM defender.incident_payloads WHERE length(payload->>'padding') = 12 * 1024 * 1024";
    assert_eq!(world.number(whole).await, 6);
    assert_eq!(
        (world.number("SELECT count(*) FROM defender.incidents").await, gaps(&world).await),
        (36, 0)
    );
}
