//! Lost incidents are found by `verify`, by the reconciliation, and in quarantine.

use std::time::Duration;

use incident_sync::store::runs::Outcome;
use incident_sync::sync::progress::Progress;
use incident_sync::sync::tenant_run::SyncMode;
use incident_sync::sync::verify::{self, Drift, VerifyRange};
use simulator::{Order, TenantSpec};
use tokio_util::sync::CancellationToken;

use crate::support::world::{World, id, spec};

const DAY: Duration = Duration::from_secs(86_400);

async fn verify(world: &World) -> Vec<Drift> {
    let span = VerifyRange { since: None, lookback: DAY * 180, overlap: DAY / 144 };
    let (stop, progress) = (CancellationToken::new(), Progress::hidden());
    verify::all(world.engine.services(), world.tenants(), span, 4, &stop, &progress).await
}

/// Changes stored rows behind the product's back, as an accident would.
async fn tamper(world: &World, statement: &'static str) {
    let touched = sqlx::query(statement).execute(world.pool()).await.unwrap().rows_affected();
    assert!(touched > 0, "{statement}");
}

#[tokio::test]
async fn verify_reports_each_drift_and_writes_nothing() {
    let world = World::of(250).await;
    world.successful_run().await;
    let clean = verify(&world).await.remove(0);
    assert!(clean.is_clean(), "{clean:?}");
    assert!(clean.compared > 200, "{clean:?}");

    tamper(&world, "DELETE FROM defender.incidents WHERE incident_id IN (10, 20)").await;
    tamper(&world, "DELETE FROM defender.incident_payloads WHERE incident_id IN (10, 20)").await;
    tamper(
        &world,
        "UPDATE defender.incidents SET last_update_time = last_update_time - interval '1 s' WHERE incident_id = 30",
    )
    .await;
    tamper(
        &world,
        "INSERT INTO defender.incidents (tenant_id, incident_id, last_update_time)
            SELECT tenant_id, 99999, last_update_time FROM defender.incidents WHERE incident_id = 40",
    )
    .await;
    let alert = "SELECT min(alert_id) FROM defender.alerts WHERE incident_id = ";
    let alert = async |incident: u32| -> String {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{alert}{incident}")));
        query.fetch_one(world.pool()).await.unwrap()
    };
    let (gone, bare) = (alert(50).await, alert(60).await);
    for (statement, alert) in [
        ("DELETE FROM defender.alerts WHERE alert_id = $1", &gone),
        ("DELETE FROM defender.evidence WHERE alert_id = $1", &bare),
    ] {
        assert!(
            sqlx::query(statement).bind(alert).execute(world.pool()).await.unwrap().rows_affected()
                > 0
        );
    }

    let before = world.tuples().await;
    let drift = verify(&world).await.remove(0);
    assert_eq!(world.tuples().await, before, "verify writes nothing");
    let sorted = |mut ids: Vec<i64>| {
        ids.sort_unstable();
        ids
    };
    assert_eq!(
        (sorted(drift.missing), drift.older, drift.extra),
        (vec![10, 20], vec![30], vec![99_999])
    );
    let mut alerts = drift.alerts;
    alerts.sort_unstable();
    let mut expected = vec![gone, bare];
    expected.sort_unstable();
    assert_eq!(alerts, expected);

    // The repair of docs/operations/runbooks/incidents-missing.md.
    tamper(&world, "DELETE FROM defender.incident_payloads WHERE incident_id IN (50, 60)").await;
    tamper(&world, "DELETE FROM defender.incidents WHERE incident_id = 99999").await;
    for result in world.run_in_mode(SyncMode::Full).await {
        assert_eq!(result.outcome, Outcome::Ok);
    }
    let repaired = verify(&world).await.remove(0);
    assert!(repaired.is_clean(), "{repaired:?}");
    world.assert_truth().await;
}

#[tokio::test]
async fn verify_raises_no_alarm_while_incidents_live() {
    let orders = [Order::NewestFirst, Order::OldestFirst, Order::ById, Order::Random];
    let specs = (1..).zip(orders).map(|(at, order)| TenantSpec { order, ..spec(at, 450) });
    let world = World::with(specs.collect()).await;
    world.successful_run().await;
    for tenant in world.tenants() {
        world.service().churn(tenant.id.0, 3);
    }
    for drift in verify(&world).await {
        assert!(drift.is_clean(), "{drift:?}");
        assert!(drift.compared > 300, "{drift:?}");
    }
}

#[tokio::test]
async fn reconciliation_counts_late_incidents() {
    let world = World::of(80).await;
    world.successful_run().await;
    world.later();
    world.successful_run().await;
    assert_eq!(world.state(id(1), "found_late").await.unwrap(), "0");
    // As if the API had listed it only after the polls had passed by.
    let recent = "last_update_time BETWEEN timestamptz '2026-11-17'
        AND (SELECT watermark - interval '11 min' FROM defender.sync_state)";
    let lost: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "WITH lost AS (DELETE FROM defender.incidents WHERE {recent} RETURNING incident_id),
            payloads AS (DELETE FROM defender.incident_payloads p USING lost WHERE p.incident_id = lost.incident_id)
         SELECT count(*) FROM lost"
    )))
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert!(lost > 0);
    tamper(&world, "UPDATE defender.sync_state SET poll_due_at = now() + interval '1 hour', reconcile_due_at = now()")
        .await;
    world
        .run_until(
            "SELECT count(*) FROM defender.sync_runs WHERE kind = 'reconcile' AND outcome = 'ok'",
        )
        .await;
    assert_eq!(world.state(id(1), "found_late").await.unwrap(), lost.to_string());
    assert_eq!(world.number("SELECT sum(found_late)::bigint FROM defender.sync_runs").await, lost);
    assert_eq!(world.store.tenant_status().await.unwrap()[0].standing.found_late, Some(lost));
    assert_eq!(world.store.freshness().await.unwrap()[0].found_late, lost);
    world.assert_truth().await;
}

#[tokio::test]
async fn decodable_payloads_leave_the_quarantine() {
    let world = World::of(30).await;
    let raw = r#"{"incidentId":"no number","lastUpdateTime":"2026-11-20T00:00:00Z"}"#;
    world.service().add_raw(id(1), 5_000, "2026-11-20T00:00:00Z".parse().unwrap(), raw);
    world.successful_run().await;
    assert_eq!(world.number("SELECT count(*) FROM defender.rejected_payloads").await, 1);
    // An older version refused these: good ones of two incidents, of one of which a later version is stored.
    tamper(
        &world,
        r#"INSERT INTO defender.rejected_payloads (tenant_id, incident_id, reason, payload, content_hash)
            SELECT tenant_id, incident_id, 'refused by an older version', payload::text, content_hash
            FROM defender.incident_payloads WHERE incident_id IN (7, 8)"#,
    )
    .await;
    tamper(&world, "DELETE FROM defender.incidents WHERE incident_id = 7").await;
    tamper(&world, "DELETE FROM defender.incident_payloads WHERE incident_id = 7").await;
    let results = world.run_in_mode(SyncMode::Quarantine).await;
    let counts = &results[0].report.counts;
    assert_eq!(results[0].outcome, Outcome::Ok, "{:?}", results[0].report.failure);
    assert_eq!((counts.api_calls, counts.incidents_seen, counts.incidents_written), (0, 3, 1));
    assert_eq!(
        world.number("SELECT incident_id FROM defender.incidents WHERE incident_id = 7").await,
        7
    );
    let left = "SELECT string_agg(reason, ',') FROM defender.rejected_payloads";
    let left: String = sqlx::query_scalar(left).fetch_one(world.pool()).await.unwrap();
    assert!(left.contains("incidentId"), "{left}");
    assert_eq!(world.number("SELECT count(*) FROM defender.rejected_payloads").await, 1);
    world.later();
    world.successful_run().await;
    assert_eq!(world.number("SELECT count(*) FROM defender.rejected_payloads").await, 1);
}
