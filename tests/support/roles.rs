//! Database roles that log in, and what each of them sees.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use incident_sync::store::readers::ReaderAccess;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use uuid::Uuid;

use super::tenants::{id, spec};
use super::world::World;

/// Every table with rows of tenants. The catalog is held against this list.
pub(crate) const TABLES: [&str; 21] = [
    "alert_devices",
    "alerts",
    "audit",
    "deletions",
    "devices",
    "devices_open",
    "evidence",
    "incident_changes",
    "incident_comments",
    "incident_days",
    "incident_months",
    "incident_payloads",
    "incidents",
    "rejected_payloads",
    "summaries",
    "sync_gaps",
    "sync_runs",
    "sync_state",
    "technique_months",
    "tenants",
    "users_open",
];
/// What no reader of some tenants may read at all.
const OPERATORS_ONLY: [&str; 2] = ["audit", "sync_runs"];

/// Roles belong to the server, which all tests share: each test takes names of its own.
pub(crate) fn role(world: &World, name: &str) -> String {
    format!("{}_{name}", world.database.get_database().unwrap())
}

pub(crate) async fn log_in(options: &PgConnectOptions, role: &str) -> PgConnection {
    PgConnection::connect_with(&options.clone().username(role)).await.unwrap()
}

pub(crate) async fn rows(
    connection: &mut PgConnection,
    query: &str,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await
}

/// Postgres's code of the refusal.
pub(crate) async fn refused(connection: &mut PgConnection, query: &str) -> String {
    match rows(connection, query).await {
        Ok(rows) => panic!("{query} was answered with {} rows", rows.len()),
        Err(error) => error.as_database_error().unwrap().code().unwrap().into_owned(),
    }
}

pub(crate) async fn superuser(world: &World, statement: &str) {
    world.pool().execute(AssertSqlSafe(statement)).await.unwrap();
}

pub(crate) async fn texts(connection: &mut PgConnection, query: &str) -> Vec<String> {
    rows(connection, query).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Tenants that share all their ids: what the first two have is copied from the third, which no role is ever granted, and
/// every text has the tenant's id.
pub(crate) async fn crowded() -> World {
    let world = World::with(vec![spec(1, 0), spec(2, 0), spec(3, 12)]).await;
    world.successful_run().await;
    world.store.summarise(world.tenants()[2].id).await.unwrap();
    let mut admin = world.pool().acquire().await.unwrap();
    let gaps = format!(
        "INSERT INTO defender.sync_gaps (tenant_id, window_from, window_to, error_class, error_message)
         VALUES ('{0}', now(), now(), 'upstream', 'of its own');
         INSERT INTO defender.rejected_payloads (tenant_id, reason, payload, content_hash) VALUES ('{0}', 'r', 'p', 'h');
         INSERT INTO defender.audit (tenant_id, action, actor, row_counts) VALUES ('{0}', 'retention', 'test', '{{}}');
         INSERT INTO defender.deletions (tenant_id, view_name, key) VALUES ('{0}', 'devices', '{{}}');
         INSERT INTO defender.incident_comments (tenant_id, incident_id, comment_hash, comment)
         SELECT '{0}', 1, 'h', 'c' ON CONFLICT DO NOTHING",
        id(3)
    );
    rows(&mut admin, &gaps).await.unwrap();
    for table in TABLES
        .into_iter()
        .filter(|table| !["tenants", "sync_state", "sync_runs", "summaries"].contains(table))
    {
        let columns = texts(
            &mut admin,
            &format!(
                "SELECT quote_ident(attname)::text FROM pg_attribute WHERE attrelid = 'defender.{table}'::regclass
                 AND attnum > 0 AND attidentity = '' AND attname NOT IN ('tenant_id', 'change_id') AND NOT attisdropped"
            ),
        )
        .await
        .join(", ");
        for tenant in [1, 2] {
            let copy = format!(
                "INSERT INTO defender.{table} (tenant_id, {columns}) SELECT '{}', {columns} FROM defender.{table}
                 WHERE tenant_id = '{}'",
                id(tenant),
                id(3)
            );
            rows(&mut admin, &copy).await.unwrap();
        }
    }
    superuser(&world, "UPDATE defender.alerts SET title = 'secret of ' || tenant_id::text").await;
    superuser(
        &world,
        "UPDATE defender.incident_payloads SET payload = json_build_object('of', tenant_id)",
    )
    .await;
    superuser(&world, "ANALYZE defender.alerts").await;
    world
}

/// A role that sees these tenants, logged in.
pub(crate) async fn reader(world: &World, name: &str, tenants: &[u128]) -> PgConnection {
    let role = role(world, name);
    let sight = ReaderAccess::Tenants(tenants.iter().map(|tenant| id(*tenant)).collect());
    world.store.grant_reader(&role, &sight).await.unwrap();
    log_in(&world.database, &role).await
}

/// Whose rows each table shows, and how many of each.
pub(crate) async fn seen(
    connection: &mut PgConnection,
) -> BTreeMap<&'static str, BTreeMap<Uuid, i64>> {
    let mut seen = BTreeMap::new();
    for table in TABLES {
        // Some columns of sync_state are for operators only.
        let query = format!("SELECT tenant_id, count(*) FROM defender.{table} GROUP BY 1");
        if let Ok(rows) = rows(connection, &query).await {
            seen.insert(table, rows.iter().map(|row| (row.get(0), row.get(1))).collect());
        }
    }
    seen
}

pub(crate) async fn assert_sees(connection: &mut PgConnection, tenants: &[u128], world: &World) {
    let mut all = seen(&mut world.pool().acquire().await.unwrap()).await;
    assert!(
        all.values().all(|counts| counts.len() == 3),
        "every table has rows of every tenant: {all:?}"
    );
    for counts in all.values_mut() {
        counts.retain(|tenant, _| tenants.iter().any(|number| id(*number) == *tenant));
    }
    all.retain(|table, _| !OPERATORS_ONLY.contains(table));
    assert_eq!(seen(connection).await, all);
    let views =
        texts(connection, "SELECT viewname::text FROM pg_views WHERE schemaname = 'reporting'")
            .await;
    assert!(!views.is_empty());
    for view in views {
        let shown = format!("SELECT DISTINCT tenant_id::text FROM reporting.{view} ORDER BY 1");
        let expected: Vec<String> = tenants.iter().map(|tenant| id(*tenant).to_string()).collect();
        let mut found = texts(connection, &shown).await;
        // The feed waits for the transactions of the tests beside us.
        let patience = Instant::now() + Duration::from_secs(60);
        while found.len() < expected.len() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(10)).await;
            found = texts(connection, &shown).await;
        }
        assert_eq!(found, expected, "{view}");
    }
}
