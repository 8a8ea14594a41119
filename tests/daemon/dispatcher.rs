//! The daemon ends with its dispatcher, and the watchdog of systemd notices a dispatcher that hangs.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::Connection;

use crate::support::installation::{Installation, Running, Settings, number, spec, stored, until};
use crate::support::systemd::Systemd;

/// As systemd would set it for `WatchdogSec=1`: fed twice a second.
const WATCHDOG_US: &str = "1000000";
/// Longer than the dispatcher's longest turn without a wait, and the grace of its beat.
const FROZEN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn daemon_exits_with_1_when_dispatcher_panics() {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let mut command = site.command(&["run", "--log-format", "json"]);
    // The third claim: the first two have found work.
    command.env("INCIDENT_SYNC_FAILPOINTS", "claim.committed=panic@3");
    let done = Running::start(command, site.folder.path()).ends();
    assert_eq!(done.code(), Some(1), "{}", done.stderr);
    assert!(
        done.stderr.contains(
            "the dispatcher of tenant runs ended unexpectedly: a task of incident-sync panicked"
        ),
        "{}",
        done.stderr
    );
    assert_eq!(site.servers(), [0; 0], "Postgres ends with the daemon");

    let (embedded, pool) = site.open_database().await;
    let leases = "SELECT count(*) FROM defender.sync_state WHERE lease_owner IS NOT NULL";
    assert_eq!(number(&pool, leases).await, 0, "its tenants do not wait for its leases");
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchdog_is_not_fed_when_the_dispatcher_hangs() {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let mut systemd = Systemd::listen(site.path("notify"));
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", systemd.address()).env("WATCHDOG_USEC", WATCHDOG_US);
    command.env("INCIDENT_SYNC_FAILPOINTS", "claim.committed=pause@3");
    let mut daemon = Running::start(command, site.folder.path());
    systemd.wait_for("WATCHDOG=1");
    until("the dispatcher hangs", async || daemon.stderr().contains("Failpoint reached")).await;
    tokio::time::sleep(FROZEN).await;
    systemd.forget();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        !systemd.received_so_far().contains(&"WATCHDOG=1".to_owned()),
        "{:?}",
        systemd.received
    );
    assert!(daemon.is_alive(), "to end it is for systemd");
    assert!(daemon.stderr().contains("The dispatcher makes no progress"), "{}", daemon.stderr());
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn watchdog_is_fed_while_database_is_down() {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let (embedded, pool) = site.open_database().await;
    site.configure(&Settings {
        database: site.shared_database(),
        tenants: vec![1],
        ..site.settings()
    });
    let mut systemd = Systemd::listen(site.path("notify"));
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", systemd.address()).env("WATCHDOG_USEC", WATCHDOG_US);
    let mut daemon = Running::start(command, site.folder.path());
    systemd.wait_for("READY=1");
    until("the rows", async || stored(&pool, 1).await == 20).await;
    pool.close().await;

    // Every claim, renewal and question waits until its own deadline, as behind a disk that hangs.
    let mut holder = sqlx::PgConnection::connect_with(&embedded.connect_options()).await.unwrap();
    let mut holding = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE defender.sync_state IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *holding)
        .await
        .unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(40) {
        systemd.forget();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let received = systemd.received_so_far();
        assert!(
            received.contains(&"WATCHDOG=1".to_owned()),
            "after {:?}: {received:?}",
            started.elapsed()
        );
    }
    assert!(daemon.is_alive());
    assert!(daemon.stderr().contains("Cannot claim tenants"), "the lock held the dispatcher up");
    holding.rollback().await.unwrap();
    holder.close().await.unwrap();
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    embedded.stop().await;
}
