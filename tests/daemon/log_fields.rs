//! Level, message and fields of what the daemon logs.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use simulator::{Behaviour, Endpoint, ScriptedReply, TenantSpec};

use crate::support::golden::assert_golden;
use crate::support::installation::{Installation, Running, Settings, events, id, spec, until};
use crate::support::redact::{redact, replace};

/// Ends the daemon and compares its events, each once and without values.
fn assert_log(name: &str, site: &Installation, daemon: Running) {
    let done = daemon.ends_on(Signal::SIGTERM);
    assert_eq!(done.code(), Some(0));
    let line = |event: &serde_json::Value| {
        let fields = event.as_object().unwrap().keys();
        let fields =
            fields.filter(|key| !["timestamp", "level", "message"].contains(&key.as_str()));
        let fields: Vec<&str> = fields.map(String::as_str).collect();
        let (level, message) =
            (event["level"].as_str().unwrap(), event["message"].as_str().unwrap());
        let message =
            replace(&redact(message, site.folder.path()), r"(?-u:\b)\d+(\.\d+)?(?-u:\b)", "N");
        let message = replace(&message, " (backfill|poll|open|reconcile) ", " KIND ");
        format!("{level} {message}\n    {}", fields.join(", ")).trim_end().to_owned()
    };
    // A poll may be under way when the daemon is stopped.
    let log = events(&done.stderr);
    let log = log.iter().filter(|event| event["outcome"] != "stopped");
    let lines: BTreeSet<String> = log.map(line).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    assert_golden("daemon", name, &lines.join("\n"));
}

/// Until each of these tenants has had a run with this outcome.
async fn await_runs(daemon: &Running, outcome: &str, tenants: &[u128]) {
    until(outcome, async || {
        let log = events(&daemon.stderr());
        let is_of = |tenant: &u128| {
            let id = id(*tenant).to_string();
            log.iter().any(|event| event["tenant.id"] == id.as_str() && event["outcome"] == outcome)
        };
        tenants.iter().all(is_of)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_healthy_daemon_matches_snapshot() {
    let site = Installation::with(vec![spec(1, 10)]).await;
    let daemon = site.start_daemon();
    await_runs(&daemon, "ok", &[1]).await;
    assert_log("log_healthy", &site, daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_failing_runs_matches_snapshot() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let parked = TenantSpec { behaviour: without_consent, ..spec(1, 5) };
    let site = Installation::with(vec![parked, spec(2, 5), spec(3, 130)]).await;
    let refusals = vec![ScriptedReply::defender(400, "BadRequest"); 1_000];
    site.world().script(id(2), Endpoint::Incidents, refusals);
    site.world().poison(id(3), 40);
    let daemon = site.start_daemon();
    await_runs(&daemon, "parked", &[1]).await;
    await_runs(&daemon, "ok", &[3]).await;
    await_runs(&daemon, "failed", &[2]).await;
    assert_log("log_failing", &site, daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_reloads_matches_snapshot() {
    let site = Installation::with(vec![]).await;
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let poll = site.settings().poll;
    for (poll, level) in [("every minute", "ERROR"), (poll, "INFO")] {
        site.configure(&Settings { poll, ..site.settings() });
        daemon.signal(Signal::SIGHUP);
        until("the reload", async || {
            let log = events(&daemon.stderr());
            let is_it = |event: &serde_json::Value| {
                event["level"] == level
                    && event["message"].as_str().unwrap().starts_with("Configuration ")
            };
            log.iter().any(is_it)
        })
        .await;
    }
    assert_log("log_reload", &site, daemon);
}
