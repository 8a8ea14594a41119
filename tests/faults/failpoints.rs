//! The process gets SIGTERM, or a run panics, at each failpoint of the flow.

use std::time::{Duration, Instant};

use incident_sync::failpoint::NAMES;
use nix::sys::signal::Signal;
use serde_json::Value;
use simulator::{Behaviour, TenantSpec};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::support::installation::{
    Installation, PROMISED_END, Running, Settings, events, eventually, id, number, spec, stored,
    until,
};

/// Reached by what runs for one tenant alone, with all that this run has read and written still at stake.
const OF_A_RUN: [&str; 7] = [
    "token.wanted",
    "token.held",
    "page.fetched",
    "page.uncommitted",
    "page.committed",
    "watermark.uncommitted",
    "watermark.committed",
];
const INCIDENTS: usize = 230;

fn armed(site: &Installation, failpoints: &str) -> Running {
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("INCIDENT_SYNC_FAILPOINTS", failpoints);
    Running::start(command, site.folder.path())
}

fn reached(daemon: &Running) -> Vec<String> {
    let events = events(&daemon.stderr()).into_iter();
    events.filter_map(|event| event["failpoint"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_at_each_failpoint_ends_in_time() {
    let host = Installation::with(vec![]).await;
    let (server, pool) = host.open_database().await;
    let mut stops = Vec::new();
    for (at, name) in NAMES.into_iter().enumerate() {
        let database = format!("stopped_{at}");
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}")))
            .execute(&pool)
            .await
            .unwrap();
        let url =
            format!("{}\"\nmax_connections = 2", host.shared_database().trim_end_matches('"'));
        let url = url.replace("/incident_sync?", &format!("/{database}?"));
        stops.push(stopped_at(name, url, server.connect_options().database(&database)));
    }
    futures::future::join_all(stops).await;
    pool.close().await;
    server.stop().await;
}

/// A daemon that waits at this failpoint gets SIGTERM.
async fn stopped_at(name: &'static str, database: String, options: PgConnectOptions) {
    let site = Installation::with(vec![spec(1, INCIDENTS)]).await;
    let settings = Settings { database, tenants: vec![1], ..site.settings() };
    // Only a run that changes its tenant's source reaches these.
    let is_of_a_move = name.starts_with("source.");
    let more = if is_of_a_move { "source = \"graph\"\n" } else { "" }.to_owned();
    site.configure(&Settings { more, ..settings.clone() });
    if name == "renewal" {
        // It comes when a lease is twenty seconds old.
        site.world().set_behaviour(id(1), Behaviour { hang: true, ..Behaviour::default() });
    }
    let mut daemon = armed(&site, &format!("{name}=pause"));
    if name == "release" {
        daemon.logs("Started").await;
    } else {
        until(&format!("the failpoint {name}"), async || !reached(&daemon).is_empty()).await;
    }
    let signalled = Instant::now();
    daemon.signal(Signal::SIGTERM);
    while daemon.is_alive() {
        assert!(signalled.elapsed() < PROMISED_END, "{name}: no end in time\n{}", daemon.stderr());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(reached(&daemon), [name]);
    let done = daemon.ends();
    assert_eq!(done.code(), Some(0), "{name}: {}", done.stderr);

    site.world().set_behaviour(id(1), Behaviour::default());
    site.configure(&settings);
    let pool = PgPool::connect_with(options).await.unwrap();
    let_time_pass(&pool).await;
    let sync = tokio::task::spawn_blocking({
        let sync = Running::start(site.command(&["sync", "--json"]), site.folder.path());
        move || sync.ends()
    });
    let sync = sync.await.unwrap();
    assert_eq!(
        (sync.code(), sync.json()["ok"].clone()),
        (Some(0), Value::Bool(true)),
        "{name}: {}",
        sync.stderr
    );
    site.assert_truth(&pool, 1).await;
    assert_eq!(
        number(&pool, "SELECT count(*) FROM defender.sync_state WHERE lease_owner IS NOT NULL")
            .await,
        0
    );
    pool.close().await;
}

/// No lease and no pause is left; where nothing was migrated there is none.
async fn let_time_pass(pool: &PgPool) {
    let query =
        "UPDATE defender.sync_state SET lease_expires_at = clock_timestamp() - interval '1 ms', next_attempt_at = now()
        WHERE next_attempt_at > now() OR lease_expires_at > now()";
    let _ = sqlx::query(query).execute(pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_in_tenant_task_fails_only_that_run() {
    let specs: Vec<TenantSpec> = (1..=10).map(|tenant| spec(tenant, INCIDENTS)).collect();
    let site = Installation::with(specs).await;
    let rules: Vec<String> = OF_A_RUN.iter().map(|name| format!("{name}=panic@3")).collect();
    let mut daemon = armed(&site, &rules.join(";"));
    daemon.logs("Started").await;
    let pool = site.connect().await;
    let all = "SELECT count(*) FROM defender.sync_state WHERE backfilled_at IS NOT NULL";
    // A run that panicked backs off for a minute.
    let no_pause = "UPDATE defender.sync_state SET next_attempt_at = now() WHERE next_attempt_at > now() AND lease_owner IS NULL";
    let bugs = async || {
        let runs = "SELECT outcome || ' ' || error_class FROM defender.sync_runs WHERE error_class IS NOT NULL";
        sqlx::query_scalar::<_, String>(runs).fetch_all(&pool).await.unwrap()
    };
    eventually("every history, after as many panics as there are failpoints", async || {
        let _ = sqlx::query(no_pause).execute(&pool).await;
        (number(&pool, all).await == 10 && reached(&daemon).len() == OF_A_RUN.len()).then_some(())
    })
    .await;
    assert!(daemon.is_alive());
    assert_eq!(bugs().await, vec!["failed bug"; OF_A_RUN.len()]);
    for tenant in 1..=10 {
        until("its rows", async || stored(&pool, tenant).await == INCIDENTS).await;
        site.assert_truth(&pool, tenant).await;
    }
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
