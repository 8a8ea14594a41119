//! A row with values that no release writes affects its own tenant only: others are claimed, read and shown.

use std::collections::BTreeMap;

use incident_sync::error::SyncError;
use incident_sync::store::runs::Outcome;
use incident_sync::tenant::TenantId;
use simulator::{Behaviour, TenantSpec};
use sqlx::AssertSqlSafe;

use crate::support::world::{World, id, spec};

/// The largest fence that the schema allows.
const LAST_FENCE: i64 = (1 << 62) - 1;

/// Values of `sync_state` that are out of bounds, and whether the tenant can be claimed all the same.
const STATES: [(&str, &str, bool); 23] = [
    ("watermark", "'infinity'", false),
    ("watermark", "'-infinity'", false),
    ("watermark", "'290000-01-01'", false),
    ("backfilled_at", "'infinity'", true),
    ("last_attempt_at", "'infinity'", true),
    ("last_success_at", "'infinity'", true),
    ("last_success_at", "'-infinity'", true),
    ("last_success_at", "'290000-01-01'", true),
    ("consecutive_failures", "-1", true),
    ("consecutive_failures", "NULL", false),
    ("next_attempt_at", "'infinity'", false),
    ("poll_due_at", "'-infinity'", true),
    ("open_due_at", "'infinity'", true),
    ("reconcile_due_at", "'infinity'", true),
    ("lease_expires_at", "'infinity'", false),
    ("lease_fence", "9223372036854775807", false),
    ("lease_fence", "NULL", false),
    ("minute_quota_at", "'infinity'", true),
    ("hour_quota_at", "'infinity'", true),
    ("no_calls_before", "'infinity'", false),
    ("found_late", "-1", true),
    ("alerts_watermark", "'infinity'", true),
    ("source", "'other'", true),
];

/// Values elsewhere that `status` and the status page read of all tenants.
const ELSEWHERE: [(&str, &str, &str); 4] = [
    ("tenants", "removed_at", "'infinity'"),
    ("sync_runs", "finished_at", "'infinity'"),
    ("sync_runs", "finished_at", "'-infinity'"),
    ("tenants", "first_seen_at", "'-infinity'"),
];

async fn execute(world: &World, statements: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(statements.into())).execute(world.pool()).await.unwrap();
}

/// As in a database whose administrator has removed the constraints.
async fn without_constraints(world: &World) {
    execute(
        world,
        "DO $$
        DECLARE
            found record;
        BEGIN
            FOR found IN SELECT conrelid::regclass AS owner, conname FROM pg_constraint
                WHERE connamespace = 'defender'::regnamespace AND contype = 'c'
            LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.owner, found.conname);
            END LOOP;
        END $$;
        ALTER TABLE defender.sync_state ALTER consecutive_failures DROP NOT NULL, ALTER lease_fence DROP NOT NULL;",
    )
    .await;
}

/// Both tenants are due, and the first one's value is this.
async fn set(world: &World, table: &str, column: &str, value: &str) {
    let set = format!(
        "UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL, next_attempt_at = now(),
            poll_due_at = now(), backfilled_at = now(), last_success_at = now();
         UPDATE defender.{table} SET {column} = {value} WHERE tenant_id = '{}'",
        id(1)
    );
    execute(world, set).await;
}

/// Two tenants with one run each.
async fn world() -> World {
    let world = World::with(vec![spec(1, 5), spec(2, 5)]).await;
    world.successful_run().await;
    world
}

#[tokio::test]
async fn value_out_of_bounds_blocks_no_other_claim() {
    let world = world().await;
    without_constraints(&world).await;
    execute(&world, "CREATE TABLE before AS TABLE defender.sync_state").await;
    for (column, value, is_claimable) in STATES {
        set(&world, "sync_state", column, value).await;
        let claims = world.store.claim_due(&[id(1), id(2)], 9).await.unwrap();
        let claimed: Vec<_> = claims.iter().map(|claim| claim.lease.tenant.0).collect();
        let expected: &[_] = if is_claimable { &[id(1), id(2)] } else { &[id(2)] };
        let mut sorted = claimed.clone();
        sorted.sort();
        assert_eq!(sorted, expected, "{column} = {value}");

        set(&world, "sync_state", column, value).await;
        let named = world.store.claim_named(&[id(1), id(2)], 9).await.unwrap();
        assert!(named.iter().any(|claim| claim.lease.tenant.0 == id(2)), "{column} = {value}");
        let restore =
            "DELETE FROM defender.sync_state; INSERT INTO defender.sync_state TABLE before";
        execute(&world, restore).await;
    }
}

/// The values at both edges of the bounds, and just beyond them.
fn edges(data_type: &str) -> &'static [&'static str] {
    match data_type {
        "timestamp with time zone" => &[
            "NULL",
            "'-infinity'",
            "timestamptz '0001-01-01 00:00Z' - interval '1 microsecond'",
            "'0001-01-01 00:00Z'",
            "'9999-12-31 23:59:59.999999Z'",
            "timestamptz '9999-12-31 23:59:59.999999Z' + interval '1 microsecond'",
            "'infinity'",
        ],
        "integer" => &["NULL", "-1", "0", "1000000", "1000001"],
        "bigint" => &[
            "NULL",
            "-1",
            "0",
            "4611686018427387902",
            "4611686018427387903",
            "4611686018427387904",
        ],
        // The source of a tenant.
        "text" => &["NULL", "''", "'defender'", "'graph'", "'Graph'"],
        other => panic!("no edges of {other}"),
    }
}

/// The bounds of `sync_state` stand in its constraints, in the view `bounded_state` and in both claims.
#[tokio::test]
async fn constraints_view_and_claims_have_the_same_bounds() {
    let world = world().await;
    let constraints: Vec<(String, String, String, bool)> = sqlx::query_as(
        "SELECT a.attname::text, format_type(a.atttypid, NULL), pg_get_expr(k.conbin, k.conrelid), a.attnotnull
         FROM pg_constraint k
         JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
         WHERE k.conrelid = 'defender.sync_state'::regclass AND k.contype = 'c'
         ORDER BY 1",
    )
    .fetch_all(world.pool())
    .await
    .unwrap();
    assert!(constraints.len() >= 15, "{constraints:?}");
    without_constraints(&world).await;
    execute(&world, "CREATE TABLE before AS TABLE defender.sync_state").await;
    for (column, data_type, condition, not_null) in &constraints {
        if *not_null {
            let nullable = format!("ALTER TABLE defender.sync_state ALTER {column} DROP NOT NULL");
            execute(&world, nullable).await;
        }
        for value in edges(data_type) {
            set(&world, "sync_state", column, value).await;
            let question = format!(
                "SELECT ({condition}) IS NOT FALSE AND ({column} IS NOT NULL OR NOT {not_null}), '{column}' = ANY (
                    SELECT unnest(out_of_bounds) FROM defender.bounded_state b WHERE b.tenant_id = s.tenant_id)
                 FROM defender.sync_state s WHERE tenant_id = '{}'",
                id(1)
            );
            let (is_allowed, is_reported): (bool, bool) =
                sqlx::query_as(AssertSqlSafe(question)).fetch_one(world.pool()).await.unwrap();
            // A claim needs the next fence.
            let is_last_fence = column == "lease_fence" && *value == LAST_FENCE.to_string();
            assert_eq!(is_reported, !is_allowed || is_last_fence, "{column} = {value}");
            if ["lease_fence", "watermark"].contains(&column.as_str()) {
                let due = world.store.claim_due(&[id(1)], 1).await.unwrap();
                assert_eq!(due.is_empty(), is_reported, "due: {column} = {value}");
                set(&world, "sync_state", column, value).await;
                let named = world.store.claim_named(&[id(1)], 1).await.unwrap();
                assert_eq!(named.is_empty(), is_reported, "named: {column} = {value}");
            }
            let restore =
                "DELETE FROM defender.sync_state; INSERT INTO defender.sync_state TABLE before";
            execute(&world, restore).await;
        }
    }
}

#[tokio::test]
async fn value_out_of_bounds_affects_one_tenant() {
    let world = world().await;
    without_constraints(&world).await;
    execute(&world, "CREATE TABLE before AS TABLE defender.sync_state").await;
    for (column, value, _) in STATES {
        set(&world, "sync_state", column, value).await;
        assert_only_the_first_fails(&world, column, value).await;
        let fresh = world.store.freshness().await.unwrap();
        let up: Vec<bool> = fresh.iter().map(|tenant| tenant.is_up).collect();
        assert_eq!(up, [false, true], "{column} = {value}");
        assert!(
            fresh.iter().all(|tenant| tenant.freshness_seconds.abs() < 1e6),
            "{column} = {value}"
        );
        let restore =
            "DELETE FROM defender.sync_state; INSERT INTO defender.sync_state TABLE before";
        execute(&world, restore).await;
    }
    for (table, column, value) in ELSEWHERE {
        execute(&world, "CREATE TABLE kept_tenants AS TABLE defender.tenants").await;
        set(&world, table, column, value).await;
        if column == "first_seen_at" {
            // Read where there was no success yet.
            execute(&world, "UPDATE defender.sync_state SET last_success_at = NULL").await;
            assert_eq!(world.store.freshness().await.unwrap().len(), 2);
        } else if column == "removed_at" {
            let status = world.store.tenant_status().await.unwrap();
            let message = status[0].standing.error_message.as_deref().unwrap();
            assert!(
                message.contains("removed_at") && status[1].standing.error_class.is_none(),
                "{message}"
            );
        } else {
            assert_only_the_first_fails(&world, "last_finished_at", value).await;
            assert!(world.store.recent_runs(id(2), 9).await.is_ok());
            let runs = world.store.recent_runs(id(1), 9).await;
            assert!(
                runs.is_err() || value == "'-infinity'",
                "a run that ended long ago is not recent"
            );
        }
        let restore =
            "DELETE FROM defender.tenants; INSERT INTO defender.tenants TABLE kept_tenants;
            DROP TABLE kept_tenants; UPDATE defender.sync_runs SET finished_at = started_at";
        execute(&world, restore).await;
    }
}

async fn assert_only_the_first_fails(world: &World, column: &str, value: &str) {
    let status = world.store.tenant_status().await.unwrap();
    let (_, fleet) = world.store.fleet().await.unwrap();
    let shown =
        [[&status[0].standing, &status[1].standing], [&fleet[0].standing, &fleet[1].standing]];
    for [first, second] in shown {
        assert_eq!((first.tenant_id, second.tenant_id), (id(1), id(2)), "{column} = {value}");
        assert_eq!(first.error_class.as_deref(), Some("bad_state"), "{column} = {value}");
        assert_eq!(first.who_must_act.as_deref(), Some("operator"));
        let message = first.error_message.as_deref().unwrap();
        assert!(message.ends_with(&format!("out of bounds: {column})")), "{message}");
        assert_eq!(second.error_class, None, "{column} = {value}");
    }
}

#[tokio::test]
async fn infinite_watermark_blocks_no_other_tenant() {
    let world = World::with(vec![spec(1, 5), spec(2, 30)]).await;
    without_constraints(&world).await;
    set(&world, "sync_state", "watermark", "'infinity'").await;
    execute(&world, "UPDATE defender.sync_state SET backfilled_at = NULL, last_success_at = NULL")
        .await;
    world
        .run_until("SELECT count(*) FROM defender.sync_state WHERE last_success_at IS NOT NULL")
        .await;
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 30);
    let runs = "SELECT count(DISTINCT tenant_id) FROM defender.sync_runs";
    assert_eq!(world.number(runs).await, 1);
}

#[tokio::test]
async fn schema_refuses_each_value_out_of_bounds() {
    let world = world().await;
    let elsewhere = ELSEWHERE.map(|(table, column, value)| (table, column, value));
    let states = STATES.iter().map(|(column, value, _)| ("sync_state", *column, *value));
    for (table, column, value) in
        states.chain(elsewhere).chain([("sync_gaps", "window_to", "'infinity'")])
    {
        if table == "sync_gaps" {
            let gap = "INSERT INTO defender.sync_gaps (tenant_id, window_from, window_to, error_class, error_message)
                SELECT tenant_id, now(), now(), '', '' FROM defender.tenants";
            execute(&world, gap).await;
        }
        let update =
            format!("UPDATE defender.{table} SET {column} = {value} WHERE tenant_id = '{}'", id(1));
        let refused = sqlx::query(AssertSqlSafe(update)).execute(world.pool()).await.unwrap_err();
        let refused = refused.into_database_error().unwrap();
        let code = refused.code().unwrap().into_owned();
        let expected = if value == "NULL" { "23502" } else { "23514" };
        assert_eq!(code, expected, "{table}.{column} = {value}");
        if value != "NULL" {
            assert_eq!(refused.constraint(), Some(format!("{column}_is_bounded").as_str()));
        }
    }
}

#[tokio::test]
async fn tenant_with_fence_at_limit_can_be_purged() {
    let world = world().await;
    let tenant = TenantId(id(1));
    for fence in [LAST_FENCE, i64::MAX, -5] {
        if fence != LAST_FENCE {
            without_constraints(&world).await;
        }
        set(&world, "sync_state", "lease_fence", &fence.to_string()).await;
        let (first, _) = world.other_instance("first", 1).await;
        let (second, _) = world.other_instance("second", 1).await;
        let lease = first.take_lease(tenant).await.unwrap();
        let rows = first.locked_rows(tenant).await.unwrap();
        second.take_lease(tenant).await.unwrap();
        let lost = rows.finish("person erased", "test", &BTreeMap::new(), Some(lease)).await;
        assert!(matches!(lost, Err(SyncError::LeaseLost)), "{fence}: {lost:?}");
        assert!(world.store.park(tenant, "test", None).await.unwrap(), "{fence}");
        assert!(world.store.resume(tenant, "test").await.unwrap(), "{fence}");
    }
    set(&world, "sync_state", "lease_fence", &i64::MAX.to_string()).await;
    let counts = world.store.purge(tenant, "test", |_, _| ()).await.unwrap();
    assert_eq!((counts["incidents"], counts["sync_state"]), (5, 1));
}

#[tokio::test]
async fn purge_lease_lasts_and_is_decodable() {
    let world = world().await;
    let tenant = TenantId(id(1));
    // It stops in the middle: the table with the most rows cannot be emptied.
    execute(&world, "REVOKE DELETE ON defender.incidents FROM incident_sync_writer").await;
    assert!(world.store.purge(tenant, "test", |_, _| ()).await.is_err());
    assert!(world.store.claim_due(&[id(1)], 1).await.unwrap().is_empty());
    let lasts = "SELECT count(*) FROM defender.sync_state WHERE isfinite(lease_expires_at)
        AND lease_expires_at > now() + interval '1000 years'";
    assert_eq!(world.number(lasts).await, 1);
}

#[tokio::test]
async fn run_ends_with_counters_at_their_limit() {
    let throttled = Behaviour { consent_missing: true, ..Behaviour::default() };
    let world = World::with(vec![TenantSpec { behaviour: throttled, ..spec(1, 5) }]).await;
    execute(
        &world,
        format!("UPDATE defender.sync_state SET consecutive_failures = 1000000, found_late = {LAST_FENCE}"),
    )
    .await;
    assert_eq!(world.run().await[0].outcome, Outcome::Parked);
    let ended = "SELECT count(*) FROM defender.sync_state WHERE consecutive_failures = 1000000 AND lease_owner IS NULL
        AND error_class IS NOT NULL";
    assert_eq!(world.number(ended).await, 1);
}
