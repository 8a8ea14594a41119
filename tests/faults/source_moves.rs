//! A process that is killed while it moves a tenant to another source loses and doubles nothing.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use simulator::TenantSpec;
use sqlx::PgPool;

use crate::support::installation::{Installation, Running, Settings, id, number, spec, stored};
use crate::support::tenants::PLENTY;
use crate::support::truth::shared_rows;

/// Between proof and switch, after the switch, and around the first writes from the new source.
const FAILPOINTS: [&str; 6] = [
    "page.fetched",
    "source.proven",
    "source.switched",
    "page.uncommitted",
    "page.committed",
    "watermark.committed",
];
/// More than a page of either source.
const INCIDENTS: usize = 130;

fn configure(site: &Installation, source: &str) {
    let more = format!("source = \"{source}\"\n");
    let database = site.shared_database();
    site.configure(&Settings { database, tenants: vec![1], more, ..site.settings() });
}

fn sync(site: &Installation, failpoints: &str) -> Running {
    // Everything, because a move has few news otherwise.
    let mut command = site.command(&["sync", "--full"]);
    command.env("INCIDENT_SYNC_FAILPOINTS", failpoints);
    Running::start(command, site.folder.path())
}

/// The lease of a killed process has ended, and the tenant may be moved again.
async fn let_time_pass(pool: &PgPool) {
    let query =
        "UPDATE defender.sync_state SET lease_expires_at = clock_timestamp() - interval '1 ms',
        source_since = source_since - interval '2 hours'";
    sqlx::query(query).execute(pool).await.unwrap();
}

async fn source(pool: &PgPool) -> String {
    let query = "SELECT source FROM defender.sync_state";
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_move_loses_and_doubles_nothing() {
    let tenant = TenantSpec { graph_calls_per_minute: PLENTY, ..spec(1, INCIDENTS) };
    let site = Installation::with(vec![tenant]).await;
    let (server, pool) = site.open_database().await;
    configure(&site, "defender");
    sync(&site, "").ends().success();
    let before = shared_rows(&pool).await;
    let mut from = "defender";
    for failpoint in FAILPOINTS {
        for _ in 0..2 {
            let to = if from == "defender" { "graph" } else { "defender" };
            configure(&site, to);
            let killed = sync(&site, &format!("{failpoint}=kill")).ends();
            let signal = killed.status.signal();
            assert_eq!(signal, Some(Signal::SIGKILL as i32), "{failpoint}: {}", killed.stderr);
            let is_switched = !["page.fetched", "source.proven"].contains(&failpoint);
            let expected = if is_switched { to } else { from };
            assert_eq!(source(&pool).await, expected, "{failpoint} to {to}");
            assert_eq!(shared_rows(&pool).await, before, "{failpoint} to {to}");

            let_time_pass(&pool).await;
            sync(&site, "").ends().success();
            assert_eq!(source(&pool).await, to, "{failpoint}");
            assert_eq!(shared_rows(&pool).await, before, "after {failpoint} to {to}");
            let_time_pass(&pool).await;
            from = to;
        }
    }
    let late = "SELECT sum(found_late)::bigint FROM defender.sync_state";
    assert_eq!(number(&pool, late).await, 0);
    site.world().create(id(1));
    sync(&site, "").ends().success();
    assert_eq!(stored(&pool, 1).await, INCIDENTS + 1);
    pool.close().await;
    server.stop().await;
}
