//! A wall clock that is set under the running daemon: this machine's, the database's, or both as on one machine.

use nix::sys::signal::Signal;
use serde_json::Value;
use sqlx::PgPool;

use crate::support::faketime::FakeClock;
use crate::support::installation::{
    Installation, Running, Settings, events, id, number, spec, until,
};

/// What of the installation sees the clock that is set.
enum Sees {
    Daemon,
    Database,
    Both,
}

/// A daemon that polls every two seconds, and whose clock can be set; `None` without libfaketime.
async fn polling(sees: Sees) -> Option<(Installation, FakeClock, Running, PgPool)> {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let clock = FakeClock::install(site.folder.path())?;
    let mut settings = Settings { tenants: vec![1], ..site.settings() };
    if !matches!(sees, Sees::Daemon) {
        let programs = clock.postgres_bin(site.folder.path());
        settings.database.push_str(&format!("\npostgres_bin = {programs:?}"));
    }
    site.configure(&settings);
    let mut command = site.command(&["run", "--log-format", "json"]);
    if !matches!(sees, Sees::Database) {
        clock.put_on(&mut command);
    }
    let daemon = Running::start(command, site.folder.path());
    let pool = site.connect().await;
    until("two runs", async || runs(&pool).await >= 2).await;
    Some((site, clock, daemon, pool))
}

async fn runs(pool: &PgPool) -> i64 {
    number(pool, "SELECT count(*) FROM defender.sync_runs WHERE outcome = 'ok'").await
}

/// Waits for so many more runs.
async fn await_runs(pool: &PgPool, more: i64) {
    let before = runs(pool).await;
    until("runs", async || runs(pool).await >= before + more).await;
}

/// What the log says about clocks.
fn steps(daemon: &Running) -> Vec<Value> {
    let log = events(&daemon.stderr()).into_iter();
    log.filter(|event| event["message"].as_str().unwrap().starts_with("The clock of ")).collect()
}

async fn assert_logged_once(daemon: &Running, parts: &[&str]) {
    until("a line about the clock", async || !steps(daemon).is_empty()).await;
    let steps = steps(daemon);
    let [step] = steps.as_slice() else { panic!("{steps:#?}") };
    let message = step["message"].as_str().unwrap();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    assert_eq!((&step["level"], &step["owner"]), (&"WARN".into(), &"operator".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_clock_set_back_does_not_stop_polls() {
    let Some((_site, clock, daemon, pool)) = polling(Sees::Daemon).await else { return };
    clock.set("-10m");
    await_runs(&pool, 10).await;
    assert_logged_once(&daemon, &["this machine was set back by 600 s"]).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn database_clock_set_back_does_not_stop_polls() {
    let Some((_site, clock, daemon, pool)) = polling(Sees::Database).await else { return };
    clock.set("-10m");
    await_runs(&pool, 10).await;
    assert_logged_once(&daemon, &["the database was set back by 600 s"]).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_clocks_set_back_do_not_stop_polls() {
    let Some((site, clock, daemon, pool)) = polling(Sees::Both).await else { return };
    clock.set("-10m");
    await_runs(&pool, 10).await;
    assert_logged_once(&daemon, &["this machine was set back by", "that of the database"]).await;
    // What changes meanwhile is stored.
    site.world().update(id(1), 3);
    await_runs(&pool, 2).await;
    site.assert_truth(&pool, 1).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_two_hours_ahead_and_back_keep_polling() {
    let Some((_site, clock, daemon, pool)) = polling(Sees::Both).await else { return };
    clock.set("+2h");
    await_runs(&pool, 4).await;
    until("that it is noticed", async || steps(&daemon).len() == 1).await;
    clock.set("+0");
    await_runs(&pool, 10).await;
    until("that it is noticed again", async || steps(&daemon).len() == 2).await;
    // Nothing stays behind a time that the clock no longer shows.
    let future = "SELECT count(*) FROM defender.sync_state
        WHERE greatest(poll_due_at, next_attempt_at, minute_quota_at, last_attempt_at) > now() + interval '1 minute'";
    assert_eq!(number(&pool, future).await, 0);
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

/// A call that is reserved before the daemon notices the clock must not wait for the clock to catch up.
#[tokio::test(flavor = "multi_thread")]
async fn call_right_after_clock_set_back_does_not_wait() {
    let Some((site, clock, daemon, pool)) = polling(Sees::Both).await else { return };
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    clock.set("-2h");
    let mut command = site.command(&["check"]);
    clock.put_on(&mut command);
    let done = Running::start(command, site.folder.path()).ends();
    assert!(done.stdout.contains("tenant-1"), "{}{}", done.stdout, done.stderr);
}
