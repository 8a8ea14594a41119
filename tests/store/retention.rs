//! Retention deletes closed incidents of the configured age with their rows, and no open ones.

use std::time::Duration;

use incident_sync::error::SyncError;
use incident_sync::tenant::Retention;
use uuid::Uuid;

use crate::support::world::{World, id, spec};

const DAY: Duration = Duration::from_secs(86_400);
/// The incidents that no reconciliation reads are made old; and a second batch of closed ones.
const AGE: &str = "
    UPDATE defender.incidents SET last_update_time = now() - interval '401 days' WHERE last_update_time < '2026-11-10';
    INSERT INTO defender.incidents (tenant_id, incident_id, last_update_time, created_time, status)
    SELECT tenant_id, 100000 + n, now() - interval '500 days', now() - interval '501 days', 'Resolved'
    FROM defender.tenants, generate_series(1, 600) n;
    INSERT INTO defender.devices (tenant_id, device_id, last_seen)
    SELECT tenant_id, device, now() - age FROM defender.tenants,
        (VALUES ('old', interval '401 days'), ('young', interval '399 days')) d (device, age);
    INSERT INTO defender.rejected_payloads (tenant_id, reason, payload, content_hash, observed_at)
    SELECT tenant_id, 'r', 'p', age::text::bytea, now() - age
    FROM defender.tenants, (VALUES (interval '401 days'), (interval '399 days')) d (age);
    INSERT INTO defender.sync_runs (tenant_id, instance, kind, started_at, finished_at, outcome, api_calls, throttled,
        incidents_seen, incidents_written, alerts_written, rejected, mistyped_fields)
    SELECT tenant_id, age::text, 'poll', now() - age, now() - age, 'ok', 0, 0, 0, 0, 0, 0, 0
    FROM defender.tenants, (VALUES (interval '11 days'), (interval '9 days')) d (age);
    UPDATE defender.sync_state SET poll_due_at = now() + interval '1 hour', open_due_at = now() + interval '1 hour',
        reconcile_due_at = now()";

/// The tables that hang on incidents, and how each finds its own.
const TABLES: [(&str, &str); 7] = [
    ("incidents", "incident_id"),
    ("alerts", "incident_id"),
    (
        "alert_devices",
        "(SELECT incident_id FROM defender.alerts a WHERE a.tenant_id = t.tenant_id AND a.alert_id = t.alert_id)",
    ),
    (
        "evidence",
        "(SELECT incident_id FROM defender.alerts a WHERE a.tenant_id = t.tenant_id AND a.alert_id = t.alert_id)",
    ),
    ("incident_comments", "incident_id"),
    ("incident_changes", "incident_id"),
    ("incident_payloads", "incident_id"),
];

/// How many rows each table holds of a tenant.
async fn all(world: &World, tenant: Uuid) -> Vec<i64> {
    let mut counts = Vec::new();
    for (table, _) in TABLES {
        let query = format!("SELECT count(*) FROM defender.{table} WHERE tenant_id = '{tenant}'");
        counts.push(
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(world.pool()).await.unwrap(),
        );
    }
    counts
}

/// The same of incidents that this is true of.
async fn some(world: &World, tenant: Uuid, condition: &str) -> Vec<i64> {
    let mut counts = Vec::new();
    for (table, incident) in TABLES {
        let query = format!(
            "SELECT count(*) FROM defender.{table} t WHERE tenant_id = '{tenant}' AND {incident} IN (
                SELECT incident_id FROM defender.incidents WHERE tenant_id = '{tenant}' AND ({condition}))"
        );
        counts.push(
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(world.pool()).await.unwrap(),
        );
    }
    counts
}

#[tokio::test]
async fn reconciliation_deletes_only_old_closed_incidents() {
    let mut world = World::with(vec![spec(1, 120), spec(2, 120)]).await;
    world.successful_run().await;
    world.keep(0, Retention { incidents: Some(DAY * 400), runs: DAY * 10 });
    sqlx::raw_sql(AGE).execute(world.pool()).await.unwrap();
    let kept =
        "(last_update_time > now() - interval '400 days' OR resolved_at IS NULL AND NOT is_merged)";
    let expected = some(&world, id(1), kept).await;
    let old_and_open =
        "last_update_time < now() - interval '400 days' AND resolved_at IS NULL AND NOT is_merged";
    assert!(some(&world, id(1), old_and_open).await.iter().all(|count| *count > 0));
    let before = [all(&world, id(1)).await, all(&world, id(2)).await];
    let both = "SELECT (count(*) = 2)::int::bigint FROM defender.sync_runs WHERE kind = 'reconcile' AND outcome = 'ok'";
    world.run_until(both).await;

    assert_eq!(all(&world, id(1)).await, expected);
    assert!(
        expected.iter().zip(&before[0]).all(|(kept, before)| kept < before),
        "{expected:?} of {before:?}"
    );
    assert_eq!(all(&world, id(2)).await, before[1], "no retention is set for it");
    let rest = "SELECT string_agg(x, ', ' ORDER BY x) FROM (
        SELECT left(t.name, 8) || ' ' || device_id FROM defender.devices JOIN defender.tenants t USING (tenant_id)
            WHERE device_id IN ('old', 'young')
        UNION ALL SELECT t.name || ' rejected ' || convert_from(content_hash, 'UTF8')
            FROM defender.rejected_payloads JOIN defender.tenants t USING (tenant_id)
        UNION ALL SELECT t.name || ' ran ' || instance
            FROM defender.sync_runs JOIN defender.tenants t USING (tenant_id) WHERE instance LIKE '%days') r (x)";
    let rest: String = sqlx::query_scalar(rest).fetch_one(world.pool()).await.unwrap();
    assert_eq!(
        rest,
        "tenant-1 ran 9 days, tenant-1 rejected 399 days, tenant-1 young, tenant-2 old, tenant-2 ran 11 days, \
         tenant-2 ran 9 days, tenant-2 rejected 399 days, tenant-2 rejected 401 days, tenant-2 young"
    );
    let audit = "SELECT count(*) || ' ' || sum((row_counts ->> 'incidents')::int) || ' ' || min(tenant_id::text)
        FROM defender.audit WHERE action = 'retention'";
    let audit: String = sqlx::query_scalar(audit).fetch_one(world.pool()).await.unwrap();
    assert_eq!(audit, format!("2 {} {}", before[0][0] - expected[0], id(1)));
}

#[tokio::test]
async fn retention_after_lost_lease_deletes_nothing() {
    let world = World::of(120).await;
    world.successful_run().await;
    sqlx::raw_sql(AGE).execute(world.pool()).await.unwrap();
    let claim = world.store.claim_named(&[id(1)], 1).await.unwrap().remove(0);
    let fence = async |by: i64| {
        let moved =
            sqlx::query("UPDATE defender.sync_state SET lease_fence = lease_fence + $1").bind(by);
        moved.execute(world.pool()).await.unwrap();
    };
    fence(1).await;
    let retention = Retention { incidents: Some(DAY * 400), runs: DAY * 10 };
    let before =
        (all(&world, id(1)).await, world.number("SELECT count(*) FROM defender.sync_runs").await);
    let incidents = world.store.retain_incidents(&claim.lease, DAY * 400).await;
    assert!(matches!(incidents, Err(SyncError::LeaseLost)), "{incidents:?}");
    let rest = world.store.retain_rest(&claim.lease, retention).await;
    assert!(matches!(rest, Err(SyncError::LeaseLost)), "{rest:?}");
    assert_eq!(
        (all(&world, id(1)).await, world.number("SELECT count(*) FROM defender.sync_runs").await),
        before
    );

    fence(-1).await;
    let counts = world.store.retain_incidents(&claim.lease, DAY * 400).await.unwrap();
    assert_eq!(counts["incidents"], 500, "a batch");
}
