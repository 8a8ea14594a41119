//! Start, readiness, service and end of the daemon.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use incident_sync::postgres::{Embedded, Hold};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use simulator::{Behaviour, TenantSpec};
use sqlx::{Connection, PgConnection};

use crate::support::installation::{
    Installation, PROMISED_END, Running, Settings, id, number, signal_all, spec, stored, until,
};
use crate::support::systemd::Systemd;

/// What design.md section 6 names, as far as a calm day shows it.
const METRICS: [&str; 12] = [
    "incident_sync_tenant_freshness_seconds{tenant=\"tenant-1\"}",
    "incident_sync_tenant_up{tenant=\"tenant-2\"} 1",
    "incident_sync_runs_total{outcome=\"ok\"",
    "incident_sync_api_calls_total{source=\"defender\",status=\"200\"",
    "incident_sync_incidents_written_total{tenant=\"tenant-1\"}",
    "incident_sync_rejected_total{tenant=\"tenant-1\"} 0",
    "incident_sync_run_duration_seconds_bucket{le=\"0.05\"}",
    "incident_sync_rejected_payloads{tenant=\"tenant-1\"} 0",
    "incident_sync_tenant_backfilled{tenant=\"tenant-1\"} 1",
    "incident_sync_token_requests_total{result=\"ok\"",
    "incident_sync_build_info{version=",
    "# HELP incident_sync_runs_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn daemon_notifies_systemd_and_ends_on_sigterm() {
    let site = Installation::with(vec![spec(1, 150), spec(2, 30), spec(3, 7)]).await;
    let mut systemd = Systemd::listen(site.path("notify"));
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", systemd.address()).env("WATCHDOG_USEC", "600000");
    let daemon = Running::start(command, site.folder.path());

    systemd.wait_for("READY=1");
    // Not "eventually": after READY a client may connect.
    let options =
        sqlx::postgres::PgConnectOptions::new_without_pgpass().socket(site.path("pg/socket"));
    let options = options.username("incident_sync").database("incident_sync");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let tenants = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM defender.tenants")
        .fetch_one(&mut connection);
    assert_eq!(tenants.await.unwrap(), 3);
    connection.close().await.unwrap();
    systemd.wait_for("STATUS=3 tenants: ");
    systemd.wait_for("WATCHDOG=1");
    systemd.wait_for("WATCHDOG=1");

    let pool = site.connect().await;
    until("every tenant's history", async || {
        number(&pool, "SELECT count(*) FROM defender.sync_state WHERE backfilled_at IS NOT NULL")
            .await
            == 3
    })
    .await;
    assert!(site.world().update(id(2), 7));
    let news = site.world().create(id(3));
    until("the news, by the next poll", async || {
        let query = "SELECT count(*) FROM defender.incidents WHERE changed_at > first_synced_at";
        stored(&pool, 3).await == 8 && number(&pool, query).await == 1
    })
    .await;
    assert_eq!(news, 8);
    for tenant in 1..=3 {
        site.assert_truth(&pool, tenant).await;
    }

    assert_eq!(daemon.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(daemon.get("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(daemon.get("/no-such-page").await.0, 404);
    let started = daemon.logs("Started").await;
    let listen = started["listen"].as_str().unwrap();
    let asks_health = || {
        let mut command = site.command(&["health"]);
        command.env("INCIDENT_SYNC__HTTP__LISTEN", listen);
        Running::start(command, site.folder.path()).ends()
    };
    assert_eq!(asks_health().code(), Some(0));
    let good = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), "[shedule]\nno toml").unwrap();
    assert_eq!(asks_health().code(), Some(0), "the daemon continues without a refused file");
    assert_eq!(site.run(&["health", "--address", listen]).code(), Some(0));
    std::fs::write(site.config(), format!("[shedule]\n[http]\nlisten = {listen:?}\nlissen = 1\n"))
        .unwrap();
    assert_eq!(site.run(&["health"]).code(), Some(0));
    std::fs::write(site.config(), good).unwrap();
    let (_, metrics) = daemon.get("/metrics").await;
    for name in METRICS {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    daemon.assert_silent_to_neighbours();

    pool.close().await;
    let done = daemon.ends_on(Signal::SIGTERM);
    assert_eq!((done.code(), done.stdout.as_str()), (Some(0), ""));
    assert_eq!(asks_health().code(), Some(1), "the daemon has ended");
    assert_eq!(site.servers(), [0; 0], "Postgres ends with the daemon");
    let received = systemd.received_to_the_end();
    let place = |line: &str| received.iter().position(|other| other == line);
    assert!(place("READY=1") < place("STOPPING=1"), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_notify_socket_does_not_block_the_daemon() {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let _deaf = std::os::unix::net::UnixDatagram::bind(site.path("notify")).unwrap();
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "2000");
    let daemon = Running::start(command, site.folder.path());
    until("a second poll", async || site.pages(1) > 2).await;
    assert_eq!(daemon.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_backfill_ends_in_time_and_resumes() {
    let hanging =
        TenantSpec { behaviour: Behaviour { hang: true, ..Behaviour::default() }, ..spec(2, 40) };
    let site = Installation::with(vec![spec(1, 700), hanging]).await;
    site.slow_down(1, Duration::from_millis(150));
    let mut systemd = Systemd::listen(site.path("notify"));
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", systemd.address());
    let daemon = Running::start(command, site.folder.path());
    until("the middle of the backfill", async || {
        site.pages(1) > 2 && !site.world().calls(id(2)).is_empty()
    })
    .await;
    daemon.signal(Signal::SIGTERM);
    systemd.wait_for("STOPPING=1");
    let done = daemon.ends_in_time();
    assert_eq!(done.code(), Some(0), "{}", done.stderr);
    assert_eq!(site.servers(), [0; 0]);

    let (embedded, pool) = site.open_database().await;
    let before = stored(&pool, 1).await;
    assert!((1..700).contains(&before), "the signal hit the backfill: {before}");
    let query = "SELECT count(*) FROM defender.sync_state WHERE error_class IS NOT NULL OR lease_owner IS NOT NULL";
    assert_eq!(number(&pool, query).await, 0, "a stop is no failure");
    pool.close().await;
    embedded.stop().await;

    site.world().set_behaviour(id(2), Behaviour::default());
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("both histories", async || {
        number(&pool, "SELECT count(*) FROM defender.sync_state WHERE backfilled_at IS NOT NULL")
            .await
            == 2
    })
    .await;
    site.assert_truth(&pool, 1).await;
    site.assert_truth(&pool, 2).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_waits_for_database_and_outage_recovers() {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let (embedded, pool) = site.open_database().await; // Makes the database.
    pool.close().await;
    embedded.stop().await;
    site.configure(&Settings {
        database: site.shared_database(),
        tenants: vec![1],
        ..site.settings()
    });
    let mut systemd = Systemd::listen(site.path("notify"));
    let mut command = site.command(&["run", "--log-format", "json"]);
    // The watchdog of another process is none of ours.
    command
        .env("NOTIFY_SOCKET", systemd.address())
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1");
    let daemon = Running::start(command, site.folder.path());
    systemd.wait_for("STATUS=waiting for the database");
    daemon.signal(Signal::SIGHUP);
    systemd.wait_for("STATUS=waiting for the database");
    assert!(!systemd.received.contains(&"READY=1".to_owned()));

    let (embedded, pool) = site.open_database().await;
    systemd.wait_for("READY=1");
    until("the rows", async || stored(&pool, 1).await == 20).await;
    pool.close().await;
    embedded.stop().await;
    until("that it is not ready", async || daemon.get("/readyz").await.0 == 503).await;
    assert_eq!(daemon.get("/healthz").await.0, 200);
    site.world().create(id(1));

    let embedded = Embedded::start(&site.embedded(), Hold::Daemon).await.unwrap();
    let pool = site.connect().await;
    until("the row that came while the database was away", async || stored(&pool, 1).await == 21)
        .await;
    assert_eq!(daemon.get("/readyz").await.0, 200);
    pool.close().await;
    let done = daemon.ends_on(Signal::SIGTERM);
    assert_eq!(done.code(), Some(0), "{}", done.stderr);
    assert!(!systemd.received_to_the_end().contains(&"WATCHDOG=1".to_owned()));
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_start_waiting_for_database() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    let database = "url = \"postgres://nobody@127.0.0.1:1/none\"".to_owned();
    site.configure(&Settings { database, tenants: vec![1], ..site.settings() });
    let daemon = site.start_daemon();
    daemon.logs("Waiting for the database").await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_postgres_does_not_delay_the_stop() {
    let site = Installation::with(vec![spec(1, 700)]).await;
    site.slow_down(1, Duration::from_millis(50));
    let mut systemd = Systemd::listen(site.path("notify"));
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", systemd.address());
    let mut daemon = Running::start(command, site.folder.path());
    until("the middle of the backfill", async || site.pages(1) > 1).await;
    // As a disk that hangs would do it: nothing answers, nothing ends on a polite signal.
    let servers = site.servers();
    signal_all(&servers, Signal::SIGSTOP);
    let started = Instant::now();
    daemon.signal(Signal::SIGTERM);
    systemd.wait_for("STOPPING=1");
    assert!(daemon.is_alive(), "systemd is notified when the stop begins");
    let done = daemon.ends_in_time();
    signal_all(&servers, Signal::SIGCONT);
    assert!(started.elapsed() < PROMISED_END, "{:?}: {}", started.elapsed(), done.stderr);
    assert_eq!(done.code(), Some(0));
    until("that Postgres is gone", async || site.servers().is_empty()).await;

    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the whole history", async || stored(&pool, 1).await == 700).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn second_signal_ends_the_daemon_immediately() {
    let site = Installation::with(vec![spec(1, 700)]).await;
    site.slow_down(1, Duration::from_millis(50));
    let mut systemd = Systemd::listen(site.path("notify"));
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", systemd.address());
    let daemon = Running::start(command, site.folder.path());
    until("the middle of the backfill", async || site.pages(1) > 1).await;
    let servers = site.servers();
    // So that the polite way takes long.
    signal_all(&servers, Signal::SIGSTOP);
    daemon.signal(Signal::SIGTERM);
    systemd.wait_for("STOPPING=1");
    let done = daemon.ends_on(Signal::SIGINT);
    signal_all(&servers, Signal::SIGCONT);
    assert_eq!(done.code(), Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("Second signal"), "{}", done.stderr);
    until("that Postgres is gone too", async || site.servers().is_empty()).await;
}

/// The system looks names up, in a thread that cannot be interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn silent_name_server_does_not_delay_the_stop() {
    let Ok(silent) = UdpSocket::bind("127.0.0.77:53") else { return }; // Only root can be a name server.
    let site = Installation::with(vec![]).await;
    let tenant = "[[tenants]]\nid = \"aaaa0000-0000-4000-8000-000000000001\"\nname = \"tenant-1\"\n\
        authority = \"https://login.example.com\"\n";
    site.configure(&Settings { more: tenant.to_owned(), ..site.settings() });
    let (names, ours) = (site.path("resolv.conf"), site.command(&["run", "--log-format", "json"]));
    std::fs::write(&names, "nameserver 127.0.0.77\noptions timeout:20 attempts:2\n").unwrap();
    let mut command = Command::new("unshare");
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", names.display());
    command.args(["--mount", "sh", "-c", &script]).arg(ours.get_program()).args(ours.get_args());
    command.env("STATE_DIRECTORY", site.path("state"));
    let daemon = Running::start(command, site.folder.path());
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    silent.recv(&mut [0; 512]).unwrap();
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_exits_with_3_when_its_postgres_dies() {
    let site = Installation::with(vec![spec(1, 5)]).await;
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let pid = std::fs::read_to_string(site.path("pg/data/postmaster.pid")).unwrap();
    let pid = Pid::from_raw(pid.lines().next().unwrap().parse().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    let done = daemon.ends();
    assert_eq!(done.code(), Some(3), "{}", done.stderr);
    assert!(done.stderr.contains("embedded Postgres exited unexpectedly"), "{}", done.stderr);
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_address_ends_the_start_and_its_postgres() {
    let site = Installation::with(vec![spec(1, 5)]).await;
    let daemon = site.start_daemon();
    let taken = daemon.logs("Started").await["listen"].as_str().unwrap().to_owned();
    let mut other = site.command(&["run", "--log-format", "json"]);
    other
        .env("INCIDENT_SYNC__DATABASE__EMBEDDED_DIR", site.path("other"))
        .env("INCIDENT_SYNC__HTTP__LISTEN", &taken);
    let done = Running::start(other, site.folder.path()).ends();
    assert_eq!(done.code(), Some(2), "{}", done.stderr);
    assert!(
        done.stderr.contains("http.listen") && done.stderr.contains("Choose another port"),
        "{}",
        done.stderr
    );
    until("that its Postgres is gone", async || {
        crate::support::installation::servers_below(&site.path("other")).is_empty()
    })
    .await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
