//! Crashes, failovers, deadlocks and full disks of Postgres: nothing is lost or stored twice, and work resumes soon.

use std::time::{Duration, Instant};

use incident_sync::store::runs::Outcome;
use incident_sync::store::{Store, apply_migrations};
use incident_sync::sync::tenant_run::SyncMode;
use nix::sys::signal::{Signal, kill};
use simulator::{Endpoint, ScriptedReply};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;

use crate::support::poll::until;
use crate::support::server::OwnServer;
use crate::support::world::{World, id, spec, world_on};

/// What the promise says of the time between the database's return and ours.
const BACK_AT_WORK: Duration = Duration::from_secs(30);

/// The daemon's loop beside a disturbance, until every tenant has succeeded after it.
async fn works_through(world: &World, disturbance: impl Future<Output = ()>) {
    let wake = Notify::new();
    let ticks = async {
        while !world.engine.stop.is_cancelled() {
            wake.notify_one();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let story = async {
        disturbance.await;
        let over = Instant::now();
        all_succeed(world).await;
        let took = over.elapsed();
        // What was in flight when it ended may have read before the last changes.
        all_succeed(world).await;
        world.engine.stop.cancel();
        took
    };
    let all = async { tokio::join!(world.engine.run(&wake), ticks, story) };
    let (ended, (), took) = tokio::time::timeout(Duration::from_secs(150), all)
        .await
        .expect("work resumes after the disturbance");
    ended.unwrap();
    assert!(took < BACK_AT_WORK, "at work again only {took:?} after the database was");
}

async fn all_succeed(world: &World) {
    // Nothing else makes them due before the next five minutes.
    until_ok(world, "UPDATE defender.sync_state SET poll_due_at = now() RETURNING 1").await;
    let done = "SELECT CASE WHEN count(*) = 0 THEN 1 ELSE 0 END FROM defender.sync_state
        WHERE poll_due_at <= now() OR error_class IS NOT NULL OR lease_owner IS NOT NULL";
    until_ok(world, done).await;
}

/// Until the query answers 1; errors are expected meanwhile.
async fn until_ok(world: &World, query: &'static str) {
    let ask = async || {
        let answer = sqlx::query_scalar::<_, i32>(query).fetch_one(world.pool());
        matches!(tokio::time::timeout(Duration::from_secs(2), answer).await, Ok(Ok(1)))
    };
    while !ask().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn live_on(world: &World) {
    for tenant in world.tenants() {
        for _ in 0..20 {
            world.service().update_random(tenant.id.0);
        }
        world.service().create(tenant.id.0);
    }
    world.later();
}

#[tokio::test]
async fn repeated_server_crashes_lose_nothing() {
    let mut server = OwnServer::with(&[]).await;
    let world = world_on(server.options(), &[900, 600, 300]).await;
    let crashes = async {
        for pause in [600, 250, 400] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            server.stop(Signal::SIGQUIT);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            server.start().await;
            for tenant in world.tenants() {
                world.service().update_random(tenant.id.0);
            }
        }
        world.later();
    };
    Box::pin(works_through(&world, crashes)).await;
    world.assert_truth().await;
}

#[tokio::test]
async fn rows_lost_in_a_crash_are_read_again() {
    // Commits in the middle of a window do not wait for the disk; here nothing else takes them there soon.
    let mut server = OwnServer::with(&["wal_writer_delay=10s"]).await;
    let world = world_on(server.options(), &[700]).await;
    let slow = ScriptedReply::Delay(Duration::from_secs(3));
    // The first window has two pages, the second one many. While its second page is awaited, its first one is lost.
    world.service().script(
        id(1),
        Endpoint::Incidents,
        vec![ScriptedReply::Pass, ScriptedReply::Pass, slow.clone(), slow],
    );
    let crash = async {
        let many = "SELECT 1 FROM defender.incidents HAVING count(*) > 200";
        until_ok(&world, many).await;
        server.stop(Signal::SIGQUIT);
        server.start().await;
        let count = world.number("SELECT count(*) FROM defender.incidents").await;
        assert!(count < 200, "the crash took nothing back: {count}");
    };
    Box::pin(works_through(&world, crash)).await;
    world.assert_truth().await;
}

#[tokio::test]
async fn frozen_connections_are_replaced() {
    let server = OwnServer::with(&[]).await;
    let mut world = world_on(server.options(), &[300]).await;
    world.shorten_patience(Duration::from_secs(2));
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    world.engine.run_once(&ids, SyncMode::Incremental).await.unwrap();
    live_on(&world);
    // All connections of the pool, permanently. Between two transactions: a process that is frozen in one keeps its locks.
    let frozen = server.backends().await;
    assert!(!frozen.is_empty());
    for backend in &frozen {
        kill(*backend, Signal::SIGSTOP).unwrap();
    }
    Box::pin(works_through(&world, async {})).await;
    Box::pin(world.assert_truth()).await;
    for backend in frozen {
        kill(backend, Signal::SIGKILL).unwrap();
    }
}

#[tokio::test]
async fn failover_drops_connections_to_old_primary() {
    let server = OwnServer::with(&[]).await;
    let world = world_on(server.options(), &[40]).await;
    world.successful_run().await;
    live_on(&world);
    // Settings of the login role hold for new sessions, and for as long as these last.
    server.execute("ALTER ROLE incident_sync SET default_transaction_read_only = on").await;
    server
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'incident-sync'")
        .await;
    let read_only = world.engine.run_once(&[id(1)], SyncMode::Incremental).await.unwrap_err();
    assert_eq!(read_only.diagnosis().class.as_str(), "database_read_only");
    server.execute("BEGIN READ WRITE; ALTER ROLE incident_sync RESET default_transaction_read_only; COMMIT").await;
    Box::pin(works_through(&world, async {})).await;
    world.assert_truth().await;
}

#[tokio::test]
async fn deadlock_and_serialization_failure_are_retried() {
    let server =
        OwnServer::with(&["default_transaction_isolation=serializable", "deadlock_timeout=300ms"])
            .await;
    let world = world_on(server.options(), &[50]).await;
    world.successful_run().await;
    world.service().update(id(1), 10);
    world.service().update(id(1), 20);
    world.later();
    // Locks in the opposite order, and is patient enough that we are the one who is sent away.
    let mut other = PgConnection::connect_with(&server.options()).await.unwrap();
    let lock = async |connection: &mut PgConnection, incident: i64| {
        let lock = sqlx::query("SELECT FROM defender.incidents WHERE incident_id = $1 FOR UPDATE")
            .bind(incident);
        lock.execute(connection).await
    };
    sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL deadlock_timeout = '60s'")
        .execute(&mut other)
        .await
        .unwrap();
    lock(&mut other, 20).await.unwrap();
    let opposite = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'incident-sync'";
        while world.number(waits).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // We hold it and cannot release it: only a deadlock that sends us away lets the other one have it.
        lock(&mut other, 10).await.unwrap();
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (results, ()) = tokio::join!(world.run(), opposite);
    assert_eq!(results[0].outcome, Outcome::Ok, "{:?}", results[0].report.failure);
    world.assert_truth().await;

    // Two instances that serialize badly.
    server.execute("CREATE DATABASE second").await;
    let world = world_on(server.options().database("second"), &[120, 120, 120, 120]).await;
    let (_, second) = world.other_instance("second", 4).await;
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    let news = SyncMode::Incremental;
    let (one, two) = tokio::join!(world.engine.run_once(&ids, news), second.run_once(&ids, news));
    for result in one.unwrap().iter().chain(&two.unwrap()) {
        assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    }
    world.assert_truth().await;
}

#[tokio::test]
async fn full_disk_stops_fetching_until_space_is_free() {
    let world = World::with((1..=12).map(|at| spec(at, 30)).collect()).await;
    // The error that Postgres gives when a table cannot grow, at the place where it gives it.
    let full = "CREATE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON defender.evidence EXECUTE FUNCTION public.full_disk();";
    sqlx::raw_sql(full).execute(world.pool()).await.unwrap();
    let calls = async || -> usize {
        world.tenants().iter().map(|tenant| world.service().calls(tenant.id.0).len()).sum()
    };
    let disturbance = async {
        until_ok(
            &world,
            "SELECT 1 FROM defender.sync_state WHERE error_class = 'database_full' LIMIT 1",
        )
        .await;
        // All of the first round may be in flight; from then on one at a time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = calls().await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let fetched = calls().await - before;
        assert!(fetched <= 30, "{fetched} calls for pages that cannot be stored");
        assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 0);
        sqlx::raw_sql("DROP TRIGGER full_disk ON defender.evidence")
            .execute(world.pool())
            .await
            .unwrap();
    };
    Box::pin(works_through(&world, disturbance)).await;
    world.assert_truth().await;
}

#[tokio::test]
async fn few_connections_slow_runs_but_fail_none() {
    // One for us, shared by eight tenants at the same time.
    let world = World::with((1..=8).map(|at| spec(at, 120)).collect()).await;
    let engine = world.instance_with_connections(1).await;
    let ids: Vec<_> = world.tenants().iter().map(|tenant| tenant.id.0).collect();
    for result in engine.run_once(&ids, SyncMode::Incremental).await.unwrap() {
        assert_eq!(result.outcome, Outcome::Ok, "{:?}", result.report.failure);
    }
    world.assert_truth().await;

    let server = OwnServer::with(&[
        "max_connections=6",
        "superuser_reserved_connections=0",
        "max_wal_senders=0",
    ])
    .await;
    let world = world_on(server.options(), &[60]).await;
    world.store.pool().close().await;
    let mut taken = Vec::new();
    while let Ok(connection) = PgConnection::connect_with(&server.options()).await {
        taken.push(connection);
    }
    let full = Store::open(&server.options(), 2, "late".to_owned(), false).await.unwrap_err();
    assert!(["database_full", "database"].contains(&full.diagnosis().class.as_str()), "{full}");
    drop(taken);
    let reopened =
        async || Store::open(&server.options(), 2, "late".to_owned(), false).await.is_ok();
    until("the store is reopened", reopened).await;
}

#[tokio::test]
async fn twelve_first_starts_migrate_once() {
    let server = OwnServer::with(&[]).await;
    let options = server.options();
    let starts = (0..12).map(|at| {
        let options = options.clone();
        async move { Store::open(&options, 1, format!("start-{at}"), true).await }
    });
    for started in futures::future::join_all(starts).await {
        started.unwrap();
    }
}

#[tokio::test]
async fn failed_migration_releases_its_lock() {
    let server = OwnServer::with(&[]).await;
    server.execute("CREATE SCHEMA defender; CREATE TABLE defender.incidents (mine int)").await;
    let failed = apply_migrations(&server.options()).await.unwrap_err();
    assert!(failed.to_string().contains("already exists"), "{failed}");
    server.execute("DROP SCHEMA defender CASCADE").await;
    tokio::time::timeout(Duration::from_secs(20), apply_migrations(&server.options()))
        .await
        .unwrap()
        .unwrap();
    Store::open(&server.options(), 1, "good".to_owned(), false).await.unwrap();
}

#[tokio::test]
async fn lost_row_security_or_policy_stops_the_start() {
    let world = World::of(5).await;
    let reopened = async || Store::open(&world.database, 1, "reopened".to_owned(), true).await;
    let broken = [
        (
            "ALTER TABLE defender.incidents NO FORCE ROW LEVEL SECURITY",
            "row-level security of incidents",
        ),
        (
            "ALTER TABLE defender.feed_server DISABLE ROW LEVEL SECURITY",
            "row-level security of feed_server",
        ),
        ("DROP POLICY tenant_reader ON defender.devices", "policy tenant_reader of devices"),
        ("DROP POLICY dispatcher ON defender.sync_state", "policy dispatcher of sync_state"),
    ];
    reopened().await.unwrap();
    for (statement, named) in broken {
        sqlx::raw_sql(statement).execute(world.pool()).await.unwrap();
        let refused = reopened().await.unwrap_err();
        assert!(refused.to_string().contains(named), "{refused}");
        assert_eq!(
            (refused.diagnosis().class.as_str(), refused.diagnosis().owner.as_str()),
            ("schema", "operator")
        );
    }
}
