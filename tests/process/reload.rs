//! SIGHUP: the configuration is read again, or refused as a whole.

use incident_sync::simulator::{Behaviour, TenantSpec};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::site::{Settings, Site, events, id, number, spec, stored, until};

const REFUSED: &str = "the configuration is refused; the old one goes on";
const TAKEN_OVER: &str =
    "the configuration was read again; [database], [http], [http_client] and the call limits need a restart";

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_starts_and_stops_tenants_and_a_bad_file_changes_nothing() {
    let site = Site::with(vec![spec(1, 30), spec(2, 20)]).await;
    let configure = |tenants: &[u128], more: &str| {
        site.configure(&Settings { tenants: tenants.to_vec(), more: more.to_owned(), ..site.settings() });
    };
    configure(&[1], "");
    let daemon = site.run();
    daemon.logs("started").await;
    let pool = site.connect().await;
    until("the first tenant", async || stored(&pool, 1).await == 30).await;
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(metrics.contains("incident_sync_tenant_freshness_seconds{tenant=\"tenant-1\"}"), "{metrics}");

    configure(&[1, 2], "");
    daemon.signal(Signal::SIGHUP);
    until("the added tenant, by itself", async || stored(&pool, 2).await == 20).await;

    configure(&[2], "[shedule]\npoll = \"0 * * * * *\"\n[[tenants]]\nid = \"not-a-guid\"\nname = \"tenant-3\"\n");
    daemon.signal(Signal::SIGHUP);
    until("both refusals", async || of(&daemon.stderr(), REFUSED).len() == 2).await;
    let refusals: Vec<String> = of(&daemon.stderr(), REFUSED).iter().map(|event| event["error"].to_string()).collect();
    let file = site.config().display().to_string();
    assert!(refusals.iter().all(|refusal| refusal.contains(&file)), "the file is named: {refusals:?}");
    for words in [["shedule", "schedule"], ["tenants[1] (tenant-3).id", "not a GUID"]] {
        let is_told = refusals.iter().any(|refusal| words.iter().all(|word| refusal.contains(word)));
        assert!(is_told, "{words:?} are missing in {refusals:?}");
    }
    let created = site.world().create(id(1));
    until("the old configuration goes on", async || stored(&pool, 1).await == 31).await;
    assert_eq!(created, 31);

    configure(&[2], "");
    daemon.signal(Signal::SIGHUP);
    let removed = "SELECT count(*) FROM defender.tenants WHERE removed_at IS NOT NULL AND NOT enabled";
    until("the tenant is marked as removed", async || number(&pool, removed).await == 1).await;
    daemon.logs(TAKEN_OVER).await;
    until("no run of it is under way", async || {
        number(&pool, "SELECT count(*) FROM defender.sync_state WHERE lease_owner IS NOT NULL").await == 0
    })
    .await;
    let calls = site.world().calls(id(1)).len();
    site.world().create(id(1));
    site.world().create(id(2));
    until("the tenant that stayed goes on", async || stored(&pool, 2).await == 21).await;
    assert_eq!(site.world().calls(id(1)).len(), calls, "nobody asks for the removed tenant");
    assert_eq!(stored(&pool, 1).await, 31, "its data stays");
    let (_, metrics) = daemon.get("/metrics").await;
    for gauge in ["freshness_seconds", "up"] {
        let of = |tenant| format!("incident_sync_tenant_{gauge}{{tenant=\"tenant-{tenant}\"}}");
        assert!(metrics.contains(&of(2)) && !metrics.contains(&of(1)), "{metrics}");
    }

    configure(&[1, 2], "");
    daemon.signal(Signal::SIGHUP);
    until("the tenant that came back", async || stored(&pool, 1).await == 32).await;
    assert_eq!(number(&pool, removed).await, 0);
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_gives_a_parked_tenant_another_chance() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let site = Site::with(vec![TenantSpec { behaviour: without_consent, ..spec(1, 9) }]).await;
    let daemon = site.run();
    daemon.logs("started").await;
    let pool = site.connect().await;
    let parked = "SELECT count(*) FROM defender.sync_state WHERE parked_reason IS NOT NULL";
    until("the tenant waits for its admin", async || number(&pool, parked).await == 1).await;
    site.world().set_behaviour(id(1), Behaviour::default());
    daemon.signal(Signal::SIGHUP);
    until("its rows", async || stored(&pool, 1).await == 9).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

/// A reload right after READY is what configuration management does.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_in_the_moment_of_ready_does_not_end_the_daemon() {
    let site = Site::with(vec![spec(1, 3)]).await;
    for _ in 0..3 {
        let mut systemd = crate::systemd::Systemd::listen(site.path("notify"));
        let mut command = site.command(&["run", "--log-format", "json"]);
        command.env("NOTIFY_SOCKET", systemd.address());
        let daemon = crate::site::Running::start(command, site.folder.path());
        systemd.hears("READY=1");
        daemon.signal(Signal::SIGHUP);
        systemd.hears("READY=1");
        assert!(systemd.heard.contains(&"RELOADING=1".to_owned()));
        assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
        std::fs::remove_file(site.path("notify")).unwrap();
    }
}

fn of(log: &str, message: &str) -> Vec<Value> {
    events(log).into_iter().filter(|event| event["message"] == message).collect()
}
