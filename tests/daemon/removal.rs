//! Tenants that vanish from the configuration: named in the log, and held back when they are many.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::installation::{
    Installation, Running, Settings, events, found, id, number, spec, stored, until,
};

const REMOVED: &str = "SELECT count(*) FROM defender.tenants WHERE removed_at IS NOT NULL";
const MISSING: &str =
    "SELECT count(*) FROM defender.tenants WHERE missing_since IS NOT NULL AND removed_at IS NULL";

/// A site whose tenants 1 to 6 are files, and the folder of these.
async fn site_of_files() -> (Installation, PathBuf) {
    let site = Installation::with((1..=6).map(|number| spec(number, 3)).collect()).await;
    site.configure(&site.settings());
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    let dir = site.path("tenants.d");
    std::fs::create_dir(&dir).unwrap();
    for number in 1..=6 {
        let text = format!("id = \"{}\"\nname = \"tenant-{number}\"\n", id(number));
        std::fs::write(dir.join(format!("{number}.toml")), text).unwrap();
    }
    (site, dir)
}

fn errors(daemon: &Running) -> Vec<String> {
    let text = |event: &Value| event["message"].as_str().unwrap().to_owned();
    events(&daemon.stderr()).iter().filter(|event| event["level"] == "ERROR").map(text).collect()
}

fn has(daemon: &Running, message: &str) -> bool {
    events(&daemon.stderr())
        .iter()
        .any(|event| event["message"].as_str().unwrap().contains(message))
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_tenants_dir_removes_no_tenant() {
    let (site, dir) = site_of_files().await;
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    assert!(has(&daemon, "Tenants added: tenant-1, tenant-2"), "{}", daemon.stderr());
    let pool = site.connect().await;
    until("all tenants", async || stored(&pool, 6).await == 3 && stored(&pool, 1).await == 3).await;

    let aside = site.path("aside");
    std::fs::rename(&dir, &aside).unwrap();
    std::fs::create_dir(&dir).unwrap();
    until("it is reported", async || errors(&daemon).len() == 2).await;
    let reported = errors(&daemon);
    assert!(reported[0].contains("no longer names 6 of 6 tenants"), "{reported:?}");
    assert!(reported[0].contains("incident-sync tenant confirm-removal"), "{reported:?}");
    assert!(reported[1].contains("tenant-1, tenant-2, tenant-3"), "{reported:?}");
    site.world().create(id(6));
    until("the tenants are still read", async || stored(&pool, 6).await == 4).await;
    until("the metric", async || {
        daemon.get("/metrics").await.1.contains("incident_sync_tenants{state=\"missing\"} 6\n")
    })
    .await;
    let status = site.run(&["status", "--json"]);
    assert_eq!(status.code(), Some(1));
    let value = status.json();
    assert_eq!(value["states"]["missing"], 6, "{value}");
    assert_eq!(value["problems"][0]["class"], "missing_tenant", "{value}");
    let check = site.run(&["check", "--json"]);
    assert_ne!(check.code(), Some(0));
    let report = check.json();
    let row = found(&report, "file")[0];
    assert_eq!(row["result"], "failure");
    assert!(row["advice"].as_str().unwrap().contains("6 of 6"), "{row}");

    // An empty directory is not confirmed by a routine reload, nor by a restart.
    daemon.signal(Signal::SIGHUP);
    until("it is reported again", async || errors(&daemon).len() == 4).await;
    assert_eq!((number(&pool, REMOVED).await, number(&pool, MISSING).await), (0, 6));
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    assert_eq!(errors(&daemon).len(), 2, "{}", daemon.stderr());
    let pool = site.connect().await;
    assert_eq!((number(&pool, REMOVED).await, number(&pool, MISSING).await), (0, 6));

    std::fs::remove_dir(&dir).unwrap();
    std::fs::rename(&aside, &dir).unwrap();
    site.world().create(id(6));
    until("the tenants that came back", async || stored(&pool, 6).await == 5).await;
    assert_eq!(number(&pool, MISSING).await, 0);
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_of_many_goes_through_after_reload() {
    let (site, dir) = site_of_files().await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("all tenants", async || stored(&pool, 6).await == 3 && stored(&pool, 1).await == 3).await;
    std::fs::remove_file(dir.join("6.toml")).unwrap();
    until("one is removed freely", async || number(&pool, REMOVED).await == 1).await;
    assert!(has(&daemon, "Tenants removed: tenant-6;"), "{}", daemon.stderr());
    for number in 1..=4 {
        std::fs::remove_file(dir.join(format!("{number}.toml"))).unwrap();
    }
    until("four are held back", async || number(&pool, MISSING).await == 4).await;
    assert_eq!(number(&pool, REMOVED).await, 1);
    daemon.signal(Signal::SIGHUP);
    until("they are removed", async || number(&pool, REMOVED).await == 5).await;
    assert!(has(&daemon, "Tenants removed: tenant-1, tenant-2, tenant-3, tenant-4;"));
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_of_all_goes_through_after_command() {
    let (site, dir) = site_of_files().await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("all tenants", async || stored(&pool, 6).await == 3 && stored(&pool, 1).await == 3).await;
    let idle = site.run(&["tenant", "confirm-removal"]).success();
    assert!(idle.contains("No removal"), "{idle}");
    for number in 1..=6 {
        std::fs::remove_file(dir.join(format!("{number}.toml"))).unwrap();
    }
    until("all are held back", async || number(&pool, MISSING).await == 6).await;
    let confirmed = site.run(&["tenant", "confirm-removal", "--json"]).json();
    assert_eq!(confirmed["removed"].as_array().unwrap().len(), 6, "{confirmed}");
    until("the daemon follows", async || has(&daemon, "Tenants removed: tenant-1")).await;
    assert_eq!((number(&pool, REMOVED).await, number(&pool, MISSING).await), (6, 0));
    let audited = "SELECT count(*) FROM defender.audit WHERE action = 'removal confirmed'";
    assert_eq!(number(&pool, audited).await, 6);
    until("the metric", async || {
        daemon.get("/metrics").await.1.contains("incident_sync_tenants{state=\"missing\"} 0\n")
    })
    .await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

/// `sync` of an operator who stands in the wrong place must not empty the fleet either.
#[tokio::test(flavor = "multi_thread")]
async fn sync_with_empty_configuration_removes_no_tenant() {
    let (site, dir) = site_of_files().await;
    site.run(&["sync"]).success();
    std::fs::rename(&dir, site.path("aside")).unwrap();
    std::fs::create_dir(&dir).unwrap();
    let _ = site.run(&["sync"]);
    let (embedded, pool) = site.open_database().await;
    assert_eq!((number(&pool, REMOVED).await, number(&pool, MISSING).await), (0, 6));
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_that_needs_restart_is_named() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let database = format!("{}\nmax_connections = 5", site.settings().database);
    site.configure(&Settings { database, tenants: vec![1], ..site.settings() });
    daemon.signal(Signal::SIGHUP);
    daemon.logs("A change of [database] needs a restart: systemctl restart incident-sync").await;
    assert!(!has(&daemon, "A change of [http]"), "{}", daemon.stderr());
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
