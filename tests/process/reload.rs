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

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_tenants_come_by_themselves_beside_a_bad_file() {
    let site = Site::with((1..=102).map(|number| spec(number, 3)).collect()).await;
    site.configure(&Settings { tenants: vec![1], ..site.settings() });
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    let dir = site.path("tenants.d");
    std::fs::create_dir(&dir).unwrap();
    let add = |number: u128| {
        let draft = dir.join(".draft");
        std::fs::write(&draft, format!("id = \"{}\"\nname = \"tenant-{number}\"\n", id(number))).unwrap();
        std::fs::rename(draft, dir.join(format!("{number}.toml"))).unwrap();
    };
    add(2);
    let daemon = site.run();
    daemon.logs("started").await;
    let pool = site.connect().await;
    until("the second tenant", async || stored(&pool, 2).await == 3).await;
    std::fs::write(dir.join("bad.toml"), "id = \"nobody\"\n").unwrap();
    for number in 3..=102 {
        add(number);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let all = "SELECT count(DISTINCT tenant_id) FROM defender.incidents";
    until("all tenants", async || number(&pool, all).await == 102).await;
    let refused = || {
        let told =
            "a file of tenants_dir is refused; its tenant goes on as it was, if there was one, and so do all others";
        let told = of(&daemon.stderr(), told);
        told.iter().map(|event| event["error"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let told = refused();
    assert!(told.len() == 2 && told.iter().all(|error| error.contains("bad.toml")), "each mistake once: {told:?}");
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(metrics.contains("incident_sync_config_files_refused 1\n"), "{metrics}");

    std::fs::write(dir.join("2.toml"), "name = \"tenant-2\"\n").unwrap();
    until("the second file is refused too", async || {
        refused().iter().any(|error| error.contains("2.toml: id: missing"))
    })
    .await;
    site.world().create(id(2));
    until("its tenant goes on as it was", async || stored(&pool, 2).await == 4).await;

    std::fs::remove_file(dir.join("2.toml")).unwrap();
    std::fs::remove_file(dir.join("bad.toml")).unwrap();
    let removed = "SELECT count(*) FROM defender.tenants WHERE removed_at IS NOT NULL";
    until("the tenant has left", async || number(&pool, removed).await == 1).await;
    assert_eq!(stored(&pool, 2).await, 4, "its data stays");
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(metrics.contains("incident_sync_config_files_refused 0\n"), "{metrics}");
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

fn of(log: &str, message: &str) -> Vec<Value> {
    events(log).into_iter().filter(|event| event["message"] == message).collect()
}
