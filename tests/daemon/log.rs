//! The log: its lines, and that it holds no secrets.

use std::panic::AssertUnwindSafe;

use nix::sys::signal::Signal;
use serde_json::Value;
use simulator::{Behaviour, Endpoint, ScriptedReply, TenantSpec};

use crate::support::installation::{
    Installation, Running, events, files_with_secrets, id, number, signal_all, spec, stored, until,
    write_secret,
};

#[tokio::test(flavor = "multi_thread")]
async fn json_log_has_one_summary_line_per_run() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let site = Installation::with(vec![
        spec(1, 10),
        TenantSpec { behaviour: without_consent, ..spec(2, 5) },
    ])
    .await;
    let daemon = site.start_daemon();
    let runs = |log: &str| {
        let done = events(log)
            .into_iter()
            .filter(|event| event["message"].as_str().unwrap().starts_with("Tenant run done"));
        done.collect::<Vec<Value>>()
    };
    let of = |log: &str, tenant: u128| {
        let whose = id(tenant).to_string();
        runs(log).into_iter().find(|event| event["tenant.id"] == whose.as_str())
    };
    until("a run of each tenant", async || {
        of(&daemon.stderr(), 1).is_some() && of(&daemon.stderr(), 2).is_some()
    })
    .await;
    let done = daemon.ends_on(Signal::SIGTERM);
    for event in events(&done.stderr) {
        assert!(
            event["timestamp"].is_string()
                && event["level"].is_string()
                && event["message"].is_string(),
            "{event}"
        );
    }
    for run in runs(&done.stderr) {
        for field in ["tenant.id", "tenant.name", "kind", "outcome", "watermark"] {
            assert!(run[field].is_string(), "{field} is missing in {run}");
        }
        for field in [
            "api_calls",
            "incidents_seen",
            "incidents_written",
            "alerts_written",
            "rejected",
            "duration_ms",
        ] {
            assert!(run[field].is_u64(), "{field} is missing in {run}");
        }
    }
    let good = of(&done.stderr, 1).unwrap();
    assert_eq!(
        (&good["level"], &good["outcome"], &good["incidents_written"]),
        (&"INFO".into(), &"ok".into(), &10.into())
    );
    let bad = of(&done.stderr, 2).unwrap();
    assert_eq!(
        (&bad["level"], &bad["outcome"], &bad["owner"]),
        (&"ERROR".into(), &"parked".into(), &"customer_admin".into())
    );
    // What the journal and its forwarders show: tenant, failure, owner and what to do.
    let message = bad["message"].as_str().unwrap();
    for part in ["tenant-2", "AADSTS", "Owner: customer_admin", bad["advice"].as_str().unwrap()] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
}

/// Polls that found nothing are most of all runs.
#[tokio::test(flavor = "multi_thread")]
async fn unchanged_polls_leave_one_line_per_pass() {
    let site = Installation::with((1..=4).map(|number| spec(number, 3)).collect()).await;
    let daemon = site.start_daemon();
    until("some polls", async || (1..=4).all(|number| site.pages(number) > 4)).await;
    let log = events(&daemon.ends_on(Signal::SIGTERM).stderr);
    let with = |text: &str| {
        log.iter().filter(|event| event["message"].as_str().unwrap().starts_with(text)).count()
    };
    assert_eq!(with("Tenant run done"), 4, "the first sync of each");
    assert_eq!(with("Pass done"), 1, "at most one a minute");
}

/// A frozen private Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn database_outage_is_one_line_each_way() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the tenant", async || stored(&pool, 1).await == 3).await;
    pool.close().await;
    signal_all(&site.servers(), Signal::SIGSTOP);
    let away = async || daemon.stderr().contains("Cannot claim tenants: ");
    until("the outage", away).await;
    signal_all(&site.servers(), Signal::SIGCONT);
    until("the return", async || daemon.stderr().contains("The database answers again")).await;
    let done = daemon.ends_on(Signal::SIGTERM);
    for raw in ["after_release", "slow threshold"] {
        assert!(!done.stderr.contains(raw), "{raw} in {}", done.stderr);
    }
}

/// The other tests look for the secret and for tokens too; here every library may say all that it knows.
#[tokio::test(flavor = "multi_thread")]
async fn trace_log_holds_no_secret_or_token() {
    let site = Installation::with(vec![spec(1, 8), spec(2, 8), spec(3, 8)]).await;
    // The service may repeat what it was sent; we do not.
    let echo = "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: Invalid client secret provided: Qx8~canary5f2d77c0.~\",\"error_codes\":[7000215]}";
    let refusal = ScriptedReply::Status { code: 401, body: echo.to_owned(), headers: Vec::new() };
    site.world().script(id(2), Endpoint::Token, vec![refusal]);
    site.world().script(
        id(3),
        Endpoint::Incidents,
        vec![ScriptedReply::ExpireToken, ScriptedReply::CutBody { after_bytes: 30 }],
    );
    for format in ["json", "text"] {
        let mut command = site.command(&["sync", "-vvv", "--json", "--log-format", format]);
        command.env("RUST_LOG", "trace");
        let done = Running::start(command, site.folder.path()).ends();
        assert!(matches!(done.code(), Some(0 | 1)), "{}", done.stderr);
        assert!(done.stderr.contains("TRACE"), "the log has every level");
        done.json();
    }
    let mut command = site.command(&["status", "--json"]);
    command.env("INCIDENT_SYNC__APP__CLIENT_SECRET", "Qx8~other.~");
    let done = Running::start(command, site.folder.path()).ends();
    assert!(!done.stderr.contains("Qx8~other") && !done.stdout.contains("Qx8~other"));
}

/// Every site is searched at its end; this is what the search is worth.
#[tokio::test]
async fn planted_secret_is_found_in_files_and_environment() {
    let site = Installation::with(vec![]).await;
    assert_eq!(
        files_with_secrets(site.folder.path()),
        "",
        "the configuration and the secret's own file may hold it"
    );
    for name in ["stderr-planted", "pg-planted.log"] {
        std::fs::write(site.path(name), b"\x00\xffcanary5f2d77c0").unwrap();
        assert_eq!(
            files_with_secrets(site.folder.path()).trim(),
            site.path(name).display().to_string()
        );
        std::fs::remove_file(site.path(name)).unwrap();
    }
    let mut command = std::process::Command::new("sleep");
    command.arg("60").env("PLANTED", "canary5f2d77c0");
    let started =
        std::panic::catch_unwind(AssertUnwindSafe(|| Running::start(command, site.folder.path())));
    assert!(started.is_err(), "the secret in the environment was not found");
}

#[test]
fn systemd_unit_disables_core_dumps() {
    let unit = include_str!("../../systemd/incident-sync.service");
    assert!(unit.lines().any(|line| line == "LimitCORE=0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn metric_shows_how_long_change_feed_is_held() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the rows", async || stored(&pool, 1).await == 3).await;
    let delay = async || -> f64 {
        let (_, metrics) = daemon.get("/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("incident_sync_change_feed_delay_seconds "));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    };
    let mut held = pool.begin().await.unwrap();
    sqlx::query("SELECT pg_current_xact_id()::text").execute(&mut *held).await.unwrap();
    until("a delay that grows", async || delay().await > 2.0).await;
    held.rollback().await.unwrap();
    until("a delay that is over", async || delay().await < 2.0).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn api_pause_is_counted_and_refusal_is_not() {
    const PAUSED: &str = "incident_sync_throttled_seconds_total";
    let site = Installation::with(vec![spec(1, 3)]).await;
    site.world().script(id(1), Endpoint::Incidents, vec![ScriptedReply::throttled(2)]);
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the rows after the pause", async || stored(&pool, 1).await == 3).await;
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(metrics.contains(&format!("{PAUSED}{{tenant=\"tenant-1\"}} 2\n")), "{metrics}");
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));

    let site = Installation::with((1..=4).map(|number| spec(number, 3)).collect()).await;
    write_secret(&site.path("secret"), b"another");
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    let failed = "SELECT count(DISTINCT tenant_id) FROM defender.sync_runs WHERE outcome <> 'ok'";
    until("all tenants fail by the one credential", async || number(&pool, failed).await == 4)
        .await;
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(!metrics.contains(&format!("{PAUSED}{{")), "{metrics}");
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
