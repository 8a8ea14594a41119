//! Two instances on one server: the tenants of an instance that was killed or frozen.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use simulator::{Behaviour, Endpoint};
use sqlx::PgPool;

use crate::support::installation::{
    Installation, Running, Settings, events, id, spec, stored, until,
};

const TERM: TimeDelta = TimeDelta::seconds(60);
/// What the tests do not wait for.
const SKIPPED: TimeDelta = TimeDelta::seconds(50);

/// A tenant on a server that instances can share. No cron line wakes them.
async fn shared_site(incidents: usize) -> Installation {
    let site = Installation::with(vec![spec(1, incidents)]).await;
    site.configure(&Settings {
        database: site.shared_database(),
        poll: "0 0 0 1 1 *",
        tenants: vec![1],
        ..site.settings()
    });
    site
}

/// The process that holds the tenant's lease, and until when.
async fn holder(pool: &PgPool) -> Option<(i32, DateTime<Utc>)> {
    let query =
        "SELECT split_part(lease_owner, '/', 2)::integer, lease_expires_at FROM defender.sync_state
        WHERE lease_owner IS NOT NULL";
    sqlx::query_as(query).fetch_optional(pool).await.ok().flatten()
}

async fn is_held_by(pool: &PgPool, pid: Pid) -> bool {
    holder(pool).await.is_some_and(|(holder, _)| holder == pid.as_raw())
}

async fn let_time_pass(pool: &PgPool) {
    let query = "UPDATE defender.sync_state SET lease_expires_at = lease_expires_at - $1";
    sqlx::query(query).bind(SKIPPED).execute(pool).await.unwrap();
}

async fn database_clock(pool: &PgPool) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await.unwrap()
}

async fn last_attempt(pool: &PgPool) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT last_attempt_at FROM defender.sync_state")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_killed_instance_move_within_70_seconds() {
    let site = shared_site(500).await;
    let (server, pool) = site.open_database().await;
    site.slow_down(1, Duration::from_millis(300));
    let first = site.start_daemon();
    until("the first page", async || stored(&pool, 1).await > 0).await;
    let second = site.start_daemon();
    second.logs("Started").await;
    assert!(is_held_by(&pool, first.pid()).await);
    first.dies();
    let died_at = database_clock(&pool).await;
    let (_, expires_at) = holder(&pool).await.unwrap();
    assert!(expires_at <= died_at + TERM, "{expires_at} is more than a term after {died_at}");
    let_time_pass(&pool).await;
    until("that the other instance has the tenant", async || is_held_by(&pool, second.pid()).await)
        .await;
    let away = last_attempt(&pool).await - died_at + SKIPPED;
    assert!(away <= TimeDelta::seconds(70), "no instance worked on the tenant for {away}");

    until("the whole history", async || stored(&pool, 1).await == 500).await;
    assert_eq!(second.ends_on(Signal::SIGTERM).code(), Some(0));
    site.assert_truth(&pool, 1).await;
    pool.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_frozen_past_its_lease_commits_nothing() {
    let site = shared_site(500).await;
    let (server, pool) = site.open_database().await;
    site.slow_down(1, Duration::from_secs(1));
    let first = site.start_daemon();
    until("a page, and the request for the next one", async || {
        stored(&pool, 1).await > 0
            && site.world().calls(id(1)).last().is_some_and(|call| call.status == 0)
    })
    .await;
    first.signal(Signal::SIGSTOP);
    // The instance that takes over gets no answer, so that every row that is written now comes from the first.
    site.world().set_behaviour(id(1), Behaviour { hang: true, ..Behaviour::default() });
    until("the answer that the first will find", async || {
        site.world()
            .calls(id(1))
            .iter()
            .all(|call| call.endpoint != Endpoint::Incidents || call.status != 0)
    })
    .await;
    let_time_pass(&pool).await;
    let second = site.start_daemon();
    until("that the other instance has the tenant", async || is_held_by(&pool, second.pid()).await)
        .await;
    let before = tuples(&pool).await;
    first.signal(Signal::SIGCONT);
    let ended = async || runs(&first).into_iter().next();
    let run =
        crate::support::installation::eventually("the end of the run that was frozen", ended).await;
    assert_eq!(
        (run["outcome"].as_str(), run["class"].as_str()),
        (Some("stopped"), Some("lease_lost")),
        "{run}"
    );
    assert_eq!(tuples(&pool).await, before, "the first wrote what it had read before it froze");
    assert!(is_held_by(&pool, second.pid()).await);

    assert_eq!(first.ends_on(Signal::SIGTERM).code(), Some(0));
    assert_eq!(second.ends_on(Signal::SIGTERM).code(), Some(0));
    site.world().set_behaviour(id(1), Behaviour::default());
    let third = site.start_daemon();
    until("the whole history", async || stored(&pool, 1).await == 500).await;
    assert_eq!(third.ends_on(Signal::SIGTERM).code(), Some(0));
    site.assert_truth(&pool, 1).await;
    pool.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_frozen_in_transaction_loses_its_tenant() {
    let site = shared_site(230).await;
    let (server, pool) = site.open_database().await;
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("INCIDENT_SYNC_FAILPOINTS", "page.uncommitted=pause@2");
    let first = Running::start(command, site.folder.path());
    first.logs("Failpoint reached").await;
    first.signal(Signal::SIGSTOP);
    let froze_at = database_clock(&pool).await;
    let_time_pass(&pool).await;
    let second = site.start_daemon();
    until("that the other instance has the tenant", async || is_held_by(&pool, second.pid()).await)
        .await;
    let away = last_attempt(&pool).await - froze_at;
    assert!(away <= TERM, "its row was locked for {away}");
    until("the whole history", async || stored(&pool, 1).await == 230).await;
    assert_eq!(second.ends_on(Signal::SIGTERM).code(), Some(0));
    site.assert_truth(&pool, 1).await;
    first.signal(Signal::SIGCONT);
    assert_eq!(first.ends_on(Signal::SIGTERM).code(), Some(0));
    site.assert_truth(&pool, 1).await;
    pool.close().await;
    server.stop().await;
}

fn runs(instance: &Running) -> Vec<serde_json::Value> {
    let events = events(&instance.stderr()).into_iter();
    events
        .filter(|event| {
            event["message"].as_str().is_some_and(|text| text.starts_with("Tenant run done"))
        })
        .collect()
}

/// Every row and who wrote it; of the state only what a page may move.
async fn tuples(pool: &PgPool) -> (Option<String>, Option<String>) {
    let query = "SELECT (SELECT md5(string_agg(i.ctid::text || i.xmin || i.xmax, ',' ORDER BY i.ctid)) FROM defender.incidents i),
        (SELECT string_agg(watermark::text, ',') FROM defender.sync_state)";
    sqlx::query_as(query).fetch_one(pool).await.unwrap()
}
