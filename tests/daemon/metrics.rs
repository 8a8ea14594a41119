//! Names, types, labels and help of everything that `/metrics` shows.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use regex::Regex;
use simulator::{Endpoint, ScriptedReply};

use crate::support::golden::assert_golden;
use crate::support::installation::{Installation, Settings, eventually, id, spec, stored, until};

/// These appear with the first event of their kind only.
const RARE: [&str; 4] = [
    "incident_sync_throttled_seconds_total{",
    "incident_sync_retention_deleted_total{",
    "incident_sync_credential_expiry_timestamp_seconds{",
    "incident_sync_run_duration_seconds_bucket{",
];
const AGE: &str = "UPDATE defender.incidents SET last_update_time = now() - interval '401 days', status = 'Resolved'
    WHERE incident_id = 1";

/// A line for each name and set of labels, without values.
fn names(metrics: &str) -> BTreeSet<String> {
    let label = Regex::new(r#"([a-z_]+)="[^"]*""#).unwrap();
    let name = |line: &str| match line.strip_prefix("# ") {
        Some(about) => {
            let (what, about) = about.split_once(' ').unwrap();
            let (name, about) = about.split_once(' ').unwrap();
            format!("{name} {what} {about}")
        }
        None => label.replace_all(line.rsplit_once(' ').unwrap().0, "$1").into_owned(),
    };
    metrics.lines().filter(|line| !line.is_empty()).map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_daemon_match_snapshot() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    site.configure(&Settings {
        app: "client_secret_file = \"secret\"\nclient_secret_expires = 2099-01-31".to_owned(),
        tenants: vec![1],
        more: "retention = \"400d\"\n".to_owned(),
        ..site.settings()
    });
    site.world().script(id(1), Endpoint::Incidents, vec![ScriptedReply::throttled(1)]);
    let mut command = site.command(&["run", "--log-format", "json"]);
    command.env("INCIDENT_SYNC__SCHEDULE__RECONCILE", "* * * * * *");
    command.env("INCIDENT_SYNC__SYNC__CALLS_PER_MINUTE", "6");
    let daemon = crate::support::installation::Running::start(command, site.folder.path());
    let pool = site.connect().await;
    until("the rows", async || stored(&pool, 1).await == 3).await;
    sqlx::query(AGE).execute(&pool).await.unwrap();
    pool.close().await;
    daemon.signal(Signal::SIGHUP);
    let metrics = eventually("every metric", async || {
        let (_, metrics) = daemon.get("/metrics").await;
        RARE.iter().all(|name| metrics.contains(&format!("\n{name}"))).then_some(metrics)
    })
    .await;
    let lines: Vec<String> = names(&metrics).into_iter().collect();
    assert_golden("daemon", "metrics", &lines.join("\n"));
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
