//! Row versions and deletions: a pipeline that keeps the greatest `row_version` of each view ends with what the views show.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use incident_sync::store::apply_migrations;
use nix::sys::signal::Signal;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::support::postgres;
use crate::support::roles::{reader, superuser, texts};
use crate::support::server::OwnServer;
use crate::support::world::{World, id, spec};

/// Each view with its key, behind `tenant_id`.
const VIEWS: [(&str, &str); 6] = [
    ("incidents", "incident_id"),
    ("alerts", "alert_id"),
    ("evidence", "alert_id, evidence_hash"),
    ("devices", "device_id"),
    ("alert_devices", "alert_id, device_id"),
    ("comments", "incident_id, comment_hash"),
];
const WRITERS: u128 = 16;
/// Of these the tenant arrives while the others are written.
const LATE: u128 = 6;

async fn begin(connection: &mut PgConnection, tenant: u128) -> Transaction<'_, Postgres> {
    let mut transaction = connection.begin().await.unwrap();
    execute(&mut transaction, &as_writer(tenant)).await.unwrap();
    transaction
}

fn as_writer(tenant: u128) -> String {
    format!(
        "SET LOCAL ROLE incident_sync_writer; SET LOCAL incident_sync.tenant_id = '{}'",
        id(tenant)
    )
}

async fn execute(connection: &mut PgConnection, statements: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.map(drop)
}

async fn number(connection: &mut PgConnection, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await.unwrap()
}

/// A row of each table for one tenant.
fn rows_of(tenant: u128) -> String {
    format!(
        "INSERT INTO defender.tenants (tenant_id, name, enabled) VALUES ('{0}', 'Customer {1}', true) ON CONFLICT DO NOTHING;
         INSERT INTO defender.incidents (tenant_id, incident_id, last_update_time, status) VALUES ('{0}', 1, now(), 'Active');
         INSERT INTO defender.alerts (tenant_id, alert_id, incident_id, last_seen) VALUES ('{0}', 'da1', 1, now());
         INSERT INTO defender.devices (tenant_id, device_id, last_seen) VALUES ('{0}', 'd1', now());
         INSERT INTO defender.alert_devices (tenant_id, alert_id, device_id) VALUES ('{0}', 'da1', 'd1');
         INSERT INTO defender.evidence (tenant_id, alert_id, evidence_hash, entity_type) VALUES ('{0}', 'da1', 'h', 'User');
         INSERT INTO defender.incident_comments (tenant_id, incident_id, comment_hash, comment) VALUES ('{0}', 1, 'c', 'hello')",
        id(tenant),
        tenant
    )
}

/// What a pipeline has of one view: the rows by their keys, and its positions.
#[derive(Default)]
struct Copy {
    rows: BTreeMap<String, (i64, String)>,
    position: i64,
    deletions: i64,
}

impl Copy {
    /// Deletions first, then what changed; answers whether there was anything.
    async fn load(
        &mut self,
        connection: &mut PgConnection,
        (view, key): (&str, &str),
    ) -> Result<bool, sqlx::Error> {
        let deleted = format!(
            "SELECT row_version, key::text FROM reporting.deletions WHERE row_version > {} AND view_name = '{view}'",
            self.deletions
        );
        let deleted: Vec<(i64, String)> =
            sqlx::query_as(AssertSqlSafe(deleted)).fetch_all(&mut *connection).await?;
        for (position, key) in &deleted {
            self.deletions = self.deletions.max(*position);
            if self.rows.get(key).is_some_and(|(version, _)| version < position) {
                self.rows.remove(key);
            }
        }
        let changed = format!(
            "SELECT row_version, (SELECT to_jsonb(k) FROM (SELECT v.tenant_id, {keys}) k)::text, {SHOWN}
             FROM reporting.{view} v WHERE row_version > {}",
            self.position,
            keys = prefixed(key)
        );
        let changed: Vec<(i64, String, String)> =
            sqlx::query_as(AssertSqlSafe(changed)).fetch_all(connection).await?;
        let is_news = !(deleted.is_empty() && changed.is_empty());
        for (version, key, row) in changed {
            self.position = self.position.max(version);
            self.rows.insert(key, (version, row));
        }
        Ok(is_news)
    }

    fn shown(&self) -> Vec<&String> {
        let mut shown: Vec<&String> = self.rows.values().map(|(_, row)| row).collect();
        shown.sort();
        shown
    }
}

/// A row without its position and without what time alone moves.
const SHOWN: &str = "(to_jsonb(v) - '{row_version,age_seconds}'::text[])::text";

fn prefixed(key: &str) -> String {
    key.split(", ").map(|column| format!("v.{column}")).collect::<Vec<_>>().join(", ")
}

async fn shown(connection: &mut PgConnection, view: &str) -> Vec<String> {
    let mut shown = texts(connection, &format!("SELECT {SHOWN} FROM reporting.{view} v")).await;
    shown.sort();
    shown
}

/// Loads until the copy is what the view shows.
async fn catch_up(connection: &mut PgConnection, view: (&str, &str), copy: &mut Copy) {
    let started = Instant::now();
    loop {
        let is_news = copy.load(connection, view).await.unwrap();
        let expected = shown(connection, view.0).await;
        if !is_news && copy.shown() == expected.iter().collect::<Vec<_>>() {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{}: the copy has {} rows, the view {}",
            view.0,
            copy.rows.len(),
            expected.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn change_of_any_shown_column_raises_the_version() {
    let mut connection = PgConnection::connect_with(&postgres::database().await).await.unwrap();
    execute(&mut connection, "SET synchronous_commit = off").await.unwrap();
    execute(&mut connection, &rows_of(1)).await.unwrap();
    let columns = "SELECT relname || ' ' || attname
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relnamespace = 'defender'::regnamespace AND attnum > 0 AND NOT attisdropped
        AND attname NOT IN ('tenant_id', 'row_version') AND relname IN
            ('incidents', 'alerts', 'devices', 'alert_devices', 'evidence', 'incident_comments')";
    let columns = texts(&mut connection, columns).await;
    assert!(columns.len() > 100);
    for line in columns {
        let (table, column) = line.split_once(' ').unwrap();
        let other = format!(
            "SELECT CASE format_type(atttypid, NULL) WHEN 'boolean' THEN format('NOT coalesce(%I, false)', attname)
                WHEN 'text' THEN format('coalesce(%I, '''') || ''x''', attname) WHEN 'text[]' THEN format('%I || ''x''::text', attname)
                WHEN 'bytea' THEN format('%I || ''x''', attname) WHEN 'jsonb' THEN '''{{\"x\": 1}}'''
                WHEN 'timestamp with time zone' THEN format('coalesce(%I, now()) + interval ''1 s''', attname)
                ELSE format('coalesce(%I, 0) + 1', attname) END
             FROM pg_attribute WHERE attrelid = 'defender.{table}'::regclass AND attname = '{column}'"
        );
        let other = texts(&mut connection, &other).await.remove(0);
        let version = format!("SELECT row_version FROM defender.{table}");
        let before = number(&mut connection, &version).await;
        let update = format!("UPDATE defender.{table} SET {column} = {other}");
        execute(&mut connection, &update).await.unwrap();
        let after = number(&mut connection, &version).await;
        // The milestones keep is_merged as it must be.
        let is_shown = !["changed_at", "is_merged"].contains(&column);
        assert_eq!(after > before, is_shown, "{update}: {before} -> {after}");
        execute(&mut connection, &format!("UPDATE defender.{table} SET {column} = {column}"))
            .await
            .unwrap();
        assert_eq!(number(&mut connection, &version).await, after, "nothing changed: {table}");
    }
}

#[tokio::test]
async fn late_commit_is_loaded_after_a_later_one() {
    let world = World::with(vec![spec(1, 0), spec(2, 0)]).await;
    let mut first = PgConnection::connect_with(&world.database).await.unwrap();
    let mut second = PgConnection::connect_with(&world.database).await.unwrap();
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    let device = "INSERT INTO defender.devices (tenant_id, device_id, last_seen) VALUES (defender.current_tenant(), 'd', now())";
    let mut late = begin(&mut first, 1).await;
    execute(&mut late, device).await.unwrap();
    let mut early = begin(&mut second, 2).await;
    execute(&mut early, device).await.unwrap();
    early.commit().await.unwrap();

    let mut copy = Copy::default();
    let seen = "SELECT concat_ws(' ', tenant_name, row_version IS NULL) FROM reporting.devices";
    assert_eq!(texts(&mut admin, seen).await, ["tenant-2 t"], "shown, without a position");
    assert!(!copy.load(&mut admin, VIEWS[3]).await.unwrap(), "what is below may still come");
    late.commit().await.unwrap();
    catch_up(&mut admin, VIEWS[3], &mut copy).await;
    assert_eq!(copy.rows.len(), 2);
}

#[tokio::test]
async fn deletions_have_the_keys_of_the_rows() {
    let world = World::with(vec![spec(1, 0), spec(2, 0)]).await;
    for tenant in [1, 2] {
        superuser(&world, &rows_of(tenant)).await;
    }
    let mut scoped = reader(&world, "deletions", &[1]).await;
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    let mut keys = Vec::new();
    for (view, key) in VIEWS {
        let shown = format!(
            "SELECT '{view} ' || to_jsonb(k)::text FROM (SELECT tenant_id, {key} FROM reporting.{view} WHERE tenant_id = '{}') k",
            id(1)
        );
        keys.extend(texts(&mut admin, &shown).await);
    }
    keys.sort();
    assert_eq!(keys.len(), VIEWS.len());
    for tenant in [1, 2] {
        world
            .store
            .purge(incident_sync::tenant::TenantId(id(tenant)), "test", |_, _| ())
            .await
            .unwrap();
    }
    let views: Vec<String> = VIEWS.iter().map(|(view, _)| format!("'{view}'")).collect();
    let noted = format!(
        "SELECT view_name || ' ' || key::text FROM reporting.deletions WHERE view_name IN ({}) AND tenant_id = '{}' ORDER BY 1",
        views.join(", "),
        id(1)
    );
    let started = Instant::now();
    let mut found = texts(&mut admin, &noted).await;
    while found.len() < keys.len() && started.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        found = texts(&mut admin, &noted).await;
    }
    found.sort();
    assert_eq!(found, keys);

    // A purge ends the grants. Another reader of the same tenant, if it comes back, sees what it lost, and nothing of others.
    assert_eq!(number(&mut scoped, "SELECT count(*) FROM reporting.deletions").await, 0);
    let mut again = reader(&world, "deletions_again", &[1]).await;
    assert_eq!(
        number(&mut again, "SELECT count(DISTINCT tenant_id) FROM reporting.deletions").await,
        1
    );
}

#[tokio::test]
async fn deletions_are_forgotten_after_ninety_days() {
    let world = World::with(vec![spec(1, 0)]).await;
    superuser(&world, &rows_of(1)).await;
    superuser(&world, "DELETE FROM defender.devices").await;
    superuser(&world, "DELETE FROM defender.evidence").await;
    superuser(
        &world,
        "UPDATE defender.deletions SET deleted_at = now() - interval '91 days' WHERE view_name = 'devices'",
    )
    .await;
    superuser(&world, "SELECT defender.forget_deletions()").await;
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    assert_eq!(texts(&mut admin, "SELECT view_name FROM defender.deletions").await, ["evidence"]);
}

#[tokio::test]
async fn question_without_version_does_not_join() {
    let mut connection = PgConnection::connect_with(&postgres::database().await).await.unwrap();
    for (view, key) in VIEWS {
        let table = if view == "comments" { "incident_comments" } else { view };
        let plan = async |connection: &mut PgConnection, query: String| {
            texts(connection, &format!("EXPLAIN {query}")).await.join("\n")
        };
        let scans = |plan: &str| {
            let of_table = format!(" on {table} ");
            plan.lines()
                .filter(|line| line.contains(&of_table) && !line.contains("Subquery"))
                .count()
        };
        let plain = plan(&mut connection, format!("SELECT {key} FROM reporting.{view}")).await;
        assert_eq!(scans(&plain), 1, "{plain}");
        let fill = format!(
            "SET enable_seqscan = off; SET enable_bitmapscan = off; ANALYZE defender.{table}"
        );
        execute(&mut connection, &fill).await.unwrap();
        let since = format!("SELECT * FROM reporting.{view} WHERE row_version > 1000");
        let since = plan(&mut connection, since).await;
        assert!(since.contains(&format!("{table}_by_version")), "{since}");
        assert!(since.contains("(row_version > 1000)"), "{since}");
    }
}

/// What writers do to the rows of a tenant; `{n}`, `{m}` and `{o}` are small numbers.
const STEPS: [&str; 14] = [
    "INSERT INTO defender.incidents (tenant_id, incident_id, last_update_time, created_time, status, severity)
     VALUES (defender.current_tenant(), {n}, now(), now(), 'Active', 'High')
     ON CONFLICT (tenant_id, incident_id) DO UPDATE SET status = 'Resolved', last_update_time = now()",
    "INSERT INTO defender.alerts (tenant_id, alert_id, incident_id, last_seen, title)
     VALUES (defender.current_tenant(), 'da{n}', {m}, now(), 'first')
     ON CONFLICT (tenant_id, alert_id) DO UPDATE SET title = 'again {o}', last_seen = now()",
    "INSERT INTO defender.evidence (tenant_id, alert_id, evidence_hash, entity_type, verdict)
     VALUES (defender.current_tenant(), 'da{n}', 'h{m}', 'User', 'Suspicious')
     ON CONFLICT (tenant_id, alert_id, evidence_hash) DO UPDATE SET verdict = 'Malicious {o}'",
    "INSERT INTO defender.devices (tenant_id, device_id, last_seen) VALUES (defender.current_tenant(), 'd{n}', now())
     ON CONFLICT (tenant_id, device_id) DO UPDATE SET risk_score = 'High {o}'",
    "INSERT INTO defender.alert_devices (tenant_id, alert_id, device_id)
     VALUES (defender.current_tenant(), 'da{n}', 'd{m}') ON CONFLICT DO NOTHING",
    "INSERT INTO defender.incident_comments (tenant_id, incident_id, comment_hash, comment)
     VALUES (defender.current_tenant(), {n}, 'c{m}', 'comment {o}') ON CONFLICT DO NOTHING",
    // A merge, its end, a chain, and an alert that moves.
    "UPDATE defender.incidents SET redirect_incident_id = {m}, status = 'Redirected' WHERE incident_id = {n}",
    "UPDATE defender.incidents SET redirect_incident_id = NULL, status = 'Active' WHERE incident_id = {n}",
    "UPDATE defender.alerts SET incident_id = {m} WHERE alert_id = 'da{n}'",
    // A newer version no longer lists some alerts.
    "UPDATE defender.incidents SET last_update_time = now() WHERE incident_id = {n}",
    // What an erasure does.
    "UPDATE defender.evidence SET evidence_hash = sha256(uuid_send(gen_random_uuid())), account_name = 'erased'
     WHERE alert_id = 'da{n}' AND evidence_hash = 'h{m}'",
    "DELETE FROM defender.evidence WHERE alert_id = 'da{n}' AND evidence_hash = 'h{m}';
     DELETE FROM defender.alert_devices WHERE alert_id = 'da{n}' AND device_id = 'd{m}'",
    "DELETE FROM defender.incident_comments WHERE incident_id = {n};
     DELETE FROM defender.devices WHERE device_id = 'd{m}'",
    // Retention.
    "DELETE FROM defender.evidence WHERE alert_id IN (SELECT alert_id FROM defender.alerts WHERE incident_id = {n});
     DELETE FROM defender.alert_devices WHERE alert_id IN (SELECT alert_id FROM defender.alerts WHERE incident_id = {n});
     DELETE FROM defender.alerts WHERE incident_id = {n};
     DELETE FROM defender.incidents WHERE incident_id = {n}",
];

/// Whether the statements were executed, after connecting if necessary.
async fn is_done(
    connection: &mut Option<PgConnection>,
    options: &PgConnectOptions,
    statements: &str,
) -> bool {
    let open = match connection.take() {
        Some(open) => Ok(open),
        None => PgConnection::connect_with(options).await,
    };
    let Ok(mut open) = open else { return false };
    let done = execute(&mut open, statements).await;
    *connection = done.is_ok().then_some(open);
    connection.is_some()
}

/// Some transactions of one tenant; a crash of the server ends one of them.
async fn write(options: PgConnectOptions, tenant: u128) -> u64 {
    let mut random = Rng::with_seed(tenant.try_into().unwrap());
    let mut connection = None;
    let mut failures = 0;
    for round in 0..60 {
        let mut statements = as_writer(tenant);
        for _ in 0..random.usize(1..6) {
            let step = STEPS[random.usize(..STEPS.len())];
            statements.push_str(";\n");
            statements.push_str(
                &step
                    .replace("{n}", &random.u8(1..8).to_string())
                    .replace("{m}", &random.u8(1..8).to_string())
                    .replace("{o}", &round.to_string()),
            );
            statements.push_str(&format!("; SELECT pg_sleep({})", random.f64() / 100.0));
        }
        let end = if random.u8(..6) == 0 { "ROLLBACK" } else { "COMMIT" };
        let statements = format!("BEGIN; {statements}; {end}");
        while !is_done(&mut connection, &options, &statements).await {
            failures += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    failures
}

/// Follows the views until the end; a crash of the server ends a reading.
async fn follow(
    options: PgConnectOptions,
    views: Vec<(&'static str, &'static str)>,
    ended: CancellationToken,
) -> Vec<Copy> {
    let mut copies: Vec<Copy> = views.iter().map(|_| Copy::default()).collect();
    let mut connection = None;
    while !ended.is_cancelled() {
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => PgConnection::connect_with(&options).await,
        };
        let Ok(mut open) = open else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut is_alive = true;
        for (view, copy) in views.iter().zip(&mut copies) {
            is_alive &= copy.load(&mut open, *view).await.is_ok();
        }
        connection = is_alive.then_some(open);
    }
    copies
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_equal_the_views_after_writers_and_a_crash() {
    let mut server = OwnServer::with(&[]).await;
    apply_migrations(&server.options()).await.unwrap();
    let mut admin = PgConnection::connect_with(&server.options()).await.unwrap();
    let ended = CancellationToken::new();
    let follower = tokio::spawn(follow(server.options(), VIEWS.to_vec(), ended.clone()));
    let mut writers = Vec::new();
    for tenant in 1..=WRITERS {
        if tenant == WRITERS - LATE {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        execute(&mut admin, &rows_of(tenant)).await.unwrap();
        writers.push(tokio::spawn(write(server.options(), tenant)));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.stop(Signal::SIGQUIT);
    server.start().await;
    let mut failures = 0;
    for writer in writers {
        failures += writer.await.unwrap();
    }
    assert!(failures > 0, "the crash met no writer");
    ended.cancel();
    let copies = follower.await.unwrap();
    let mut admin = PgConnection::connect_with(&server.options()).await.unwrap();
    for (view, mut copy) in VIEWS.into_iter().zip(copies) {
        assert!(copy.position > 0 && copy.deletions > 0, "{}: nothing was read meanwhile", view.0);
        catch_up(&mut admin, view, &mut copy).await;
        assert!(!copy.rows.is_empty());
    }
}
