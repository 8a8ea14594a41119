//! SIGHUP and `tenants_dir`: the configuration is read again, or refused as a whole.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;
use simulator::{Behaviour, TenantSpec};

use crate::support::installation::{
    Installation, Settings, events, id, number, says, spec, stored, until,
};

const REFUSED: &str = "Configuration rejected; keeping the previous one";
const FILE: &str =
    "Ignoring an invalid file in tenants_dir; its tenant keeps its previous settings";
const TAKEN_OVER: &str = "Configuration reloaded: 1 tenants";

#[tokio::test(flavor = "multi_thread")]
async fn reload_applies_tenants_and_refuses_bad_file() {
    let site = Installation::with(vec![spec(1, 30), spec(2, 20)]).await;
    let configure = |tenants: &[u128], more: &str| {
        site.configure(&Settings {
            tenants: tenants.to_vec(),
            more: more.to_owned(),
            ..site.settings()
        });
    };
    configure(&[1], "");
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let pool = site.connect().await;
    until("the first tenant", async || stored(&pool, 1).await == 30).await;
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(
        metrics.contains("incident_sync_tenant_freshness_seconds{tenant=\"tenant-1\"}"),
        "{metrics}"
    );

    configure(&[1, 2], "");
    daemon.signal(Signal::SIGHUP);
    until("the added tenant, by itself", async || stored(&pool, 2).await == 20).await;

    configure(
        &[2],
        "[shedule]\npoll = \"0 * * * * *\"\n[[tenants]]\nid = \"not-a-guid\"\nname = \"tenant-3\"\n",
    );
    daemon.signal(Signal::SIGHUP);
    until("both refusals", async || of(&daemon.stderr(), REFUSED).len() == 2).await;
    let refusals: Vec<String> =
        of(&daemon.stderr(), REFUSED).iter().map(|event| event["error"].to_string()).collect();
    let file = site.config().display().to_string();
    let names_file = refusals.iter().all(|refusal| refusal.contains(&file));
    assert!(names_file, "the file is named: {refusals:?}");
    for words in [["shedule", "schedule"], ["tenants[1] (tenant-3).id", "not a GUID"]] {
        let is_told =
            refusals.iter().any(|refusal| words.iter().all(|word| refusal.contains(word)));
        assert!(is_told, "{words:?} are missing in {refusals:?}");
    }
    let created = site.world().create(id(1));
    until("the old configuration is still used", async || stored(&pool, 1).await == 31).await;
    assert_eq!(created, 31);

    configure(&[2], "");
    daemon.signal(Signal::SIGHUP);
    let removed =
        "SELECT count(*) FROM defender.tenants WHERE removed_at IS NOT NULL AND NOT enabled";
    until("the tenant is marked as removed", async || number(&pool, removed).await == 1).await;
    daemon.logs(TAKEN_OVER).await;
    until("no run of it is under way", async || {
        number(&pool, "SELECT count(*) FROM defender.sync_state WHERE lease_owner IS NOT NULL")
            .await
            == 0
    })
    .await;
    let calls = site.world().calls(id(1)).len();
    site.world().create(id(1));
    site.world().create(id(2));
    until("the tenant that stayed is still read", async || stored(&pool, 2).await == 21).await;
    assert_eq!(site.world().calls(id(1)).len(), calls, "the removed tenant is not called");
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
async fn reload_retries_a_parked_tenant() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let site =
        Installation::with(vec![TenantSpec { behaviour: without_consent, ..spec(1, 9) }]).await;
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
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
async fn reload_right_after_ready_keeps_daemon_running() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    for _ in 0..3 {
        let mut systemd = crate::support::systemd::Systemd::listen(site.path("notify"));
        let mut command = site.command(&["run", "--log-format", "json"]);
        command.env("NOTIFY_SOCKET", systemd.address());
        let daemon = crate::support::installation::Running::start(command, site.folder.path());
        systemd.wait_for("READY=1");
        daemon.signal(Signal::SIGHUP);
        systemd.wait_for("READY=1");
        assert!(systemd.received.contains(&"RELOADING=1".to_owned()));
        assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
        std::fs::remove_file(site.path("notify")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_tenant_files_load_beside_a_bad_file() {
    let site = Installation::with((1..=102).map(|number| spec(number, 3)).collect()).await;
    site.configure(&Settings { tenants: vec![1], ..site.settings() });
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    let dir = site.path("tenants.d");
    std::fs::create_dir(&dir).unwrap();
    let add = |number: u128| {
        let draft = dir.join(".draft");
        std::fs::write(&draft, format!("id = \"{}\"\nname = \"tenant-{number}\"\n", id(number)))
            .unwrap();
        std::fs::rename(draft, dir.join(format!("{number}.toml"))).unwrap();
    };
    add(2);
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
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
        let events = of(&daemon.stderr(), FILE);
        events.iter().map(|event| event["error"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let errors = refused();
    assert!(
        errors.len() == 2 && errors.iter().all(|error| error.contains("bad.toml")),
        "each mistake once: {errors:?}"
    );
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(metrics.contains("incident_sync_config_files_refused 1\n"), "{metrics}");

    std::fs::write(dir.join("2.toml"), "name = \"tenant-2\"\n").unwrap();
    until("the second file is refused too", async || {
        refused().iter().any(|error| error.contains("2.toml: id: missing"))
    })
    .await;
    site.world().create(id(2));
    until("its tenant is read as before", async || stored(&pool, 2).await == 4).await;

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

/// A site whose tenants are files, and the folder of these.
async fn site_of_files(tenants: &[u128]) -> (Installation, PathBuf) {
    let site = Installation::with(tenants.iter().map(|number| spec(*number, 3)).collect()).await;
    site.configure(&site.settings());
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    let dir = site.path("tenants.d");
    std::fs::create_dir(&dir).unwrap();
    (site, dir)
}

fn write_tenant(dir: &Path, file: &str, number: u128, name: &str, more: &str) {
    std::fs::write(
        dir.join(".draft"),
        format!("id = \"{}\"\nname = \"{name}\"\n{more}", id(number)),
    )
    .unwrap();
    std::fs::rename(dir.join(".draft"), dir.join(file)).unwrap();
}

/// Files are copied, and the id in them is forgotten: one customer's data must not come under another's name.
#[tokio::test(flavor = "multi_thread")]
async fn duplicate_tenant_file_changes_nothing() {
    let (site, dir) = site_of_files(&[1]).await;
    write_tenant(&dir, "fabrikam.toml", 1, "fabrikam", "");
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the tenant", async || stored(&pool, 1).await == 3).await;
    let named = "SELECT count(*) FROM defender.tenants WHERE name = 'fabrikam' AND enabled AND removed_at IS NULL";

    write_tenant(&dir, "adatum.toml", 1, "adatum", "");
    until("both files are reported", async || {
        let errors: Vec<String> =
            of(&daemon.stderr(), FILE).iter().map(|event| event["error"].to_string()).collect();
        ["fabrikam.toml: id", "adatum.toml: id"]
            .iter()
            .all(|file| errors.iter().any(|error| error.contains(file)))
    })
    .await;
    site.world().create(id(1));
    until("the tenant is still read", async || stored(&pool, 1).await == 4).await;
    assert_eq!(number(&pool, named).await, 1);

    // Which file belongs to the known tenant is unclear: the new file is refused as such.
    write_tenant(&dir, "fabrikam.toml", 1, "fabrikam", "cloud = \n");
    until("the new file is reported", async || {
        of(&daemon.stderr(), FILE)
            .iter()
            .any(|event| event["error"].to_string().contains("takes precedence"))
    })
    .await;
    site.world().create(id(1));
    until("the tenant is still read", async || stored(&pool, 1).await == 5).await;
    assert_eq!(number(&pool, named).await, 1);

    write_tenant(&dir, "fabrikam.toml", 1, "fabrikam", "");
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    let daemon = site.start_daemon();
    daemon
        .logs("Ignoring an invalid file in tenants_dir; its tenant is not synced until the file is valid")
        .await;
    let calls = site.world().calls(id(1)).len();
    std::fs::remove_file(dir.join("adatum.toml")).unwrap();
    site.world().create(id(1));
    let pool = site.connect().await;
    until("the tenant, once there is one file", async || stored(&pool, 1).await == 6).await;
    assert!(site.world().calls(id(1)).len() > calls);
    assert_eq!(number(&pool, named).await, 1);
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_file_loads_once_its_secret_exists() {
    let (site, dir) = site_of_files(&[1, 2]).await;
    write_tenant(&dir, "1.toml", 1, "tenant-1", "");
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the tenant", async || stored(&pool, 1).await == 3).await;
    write_tenant(&dir, "2.toml", 2, "tenant-2", "client_secret_file = \"secret-of-2\"\n");
    until("the file is refused", async || {
        of(&daemon.stderr(), FILE).iter().any(|event| event["error"].to_string().contains("2.toml"))
    })
    .await;
    std::fs::copy(site.path("secret"), site.path("secret-of-2")).unwrap();
    until("its tenant comes by itself", async || stored(&pool, 2).await == 3).await;
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_dir_file_retried_after_read_failure() {
    let (site, dir) = site_of_files(&[1, 2]).await;
    write_tenant(&dir, "1.toml", 1, "tenant-1", "");
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the tenant", async || stored(&pool, 1).await == 3).await;
    std::fs::rename(site.path("secret"), site.path("secret-aside")).unwrap();
    write_tenant(&dir, "2.toml", 2, "tenant-2", "");
    daemon.logs(REFUSED).await;
    std::fs::rename(site.path("secret-aside"), site.path("secret")).unwrap();
    // The file is being edited, and no reload was requested yet.
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), "half an edi").unwrap();
    until("the other tenant", async || stored(&pool, 2).await == 3).await;
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(metrics.contains("incident_sync_config_reload_failed 0\n"), "{metrics}");

    daemon.signal(Signal::SIGHUP);
    until("the half edit is reported", async || of(&daemon.stderr(), REFUSED).len() == 2).await;
    write_tenant(&dir, "1.toml", 1, "renamed", "");
    let renamed = "SELECT count(*) FROM defender.tenants WHERE name = 'renamed'";
    until("a file beside it", async || number(&pool, renamed).await == 1).await;
    std::fs::write(site.config(), text).unwrap();
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_file_does_not_block_removal_of_tenants() {
    let (site, dir) = site_of_files(&[1, 2]).await;
    write_tenant(&dir, "1.toml", 1, "tenant-1", "");
    write_tenant(&dir, "2.toml", 2, "tenant-2", "");
    std::fs::write(dir.join("bad.toml"), "id = 1\n").unwrap();
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("both tenants", async || stored(&pool, 1).await == 3 && stored(&pool, 2).await == 3)
        .await;
    std::fs::remove_file(dir.join("1.toml")).unwrap();
    let removed =
        "SELECT count(*) FROM defender.tenants WHERE removed_at IS NOT NULL AND NOT enabled";
    until("it has left", async || number(&pool, removed).await == 1).await;
    assert!(
        site.run(&["tenant", "purge", "tenant-1", "--yes"]).success().contains("Deleted tenant-1")
    );
    let left = "SELECT count(*) FROM defender.tenants";
    assert_eq!((stored(&pool, 2).await, number(&pool, left).await), (3, 1));
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    pool.close().await;

    // A tenant that was removed meanwhile may be in the invalid file.
    std::fs::remove_file(dir.join("2.toml")).unwrap();
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let refused = site.run(&["tenant", "purge", "tenant-2", "--yes"]);
    assert_eq!(refused.code(), Some(2));
    assert!(
        refused.stderr.contains("while files in tenants_dir are invalid")
            && refused.stderr.contains("bad.toml"),
        "{}",
        refused.stderr
    );
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_file_retries_only_its_parked_tenant() {
    let (site, dir) = site_of_files(&[1, 2, 3]).await;
    for number in [1, 2] {
        site.world()
            .set_behaviour(id(number), Behaviour { consent_missing: true, ..Behaviour::default() });
        write_tenant(&dir, &format!("{number}.toml"), number, &format!("tenant-{number}"), "");
    }
    write_tenant(&dir, "3.toml", 3, "tenant-3", "");
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    let parked = "SELECT count(*) FROM defender.sync_state WHERE parked_reason IS NOT NULL";
    until("both wait for their admins", async || number(&pool, parked).await == 2).await;
    let asked = site.world().calls(id(1)).len();
    site.world().set_behaviour(id(2), Behaviour::default());
    write_tenant(&dir, "2.toml", 2, "tenant-2", "labels = { tier = \"gold\" }\n");
    until("the tenant whose file changed", async || stored(&pool, 2).await == 3).await;
    assert_eq!(
        site.world().calls(id(1)).len(),
        asked,
        "the other one is not called before its hour"
    );
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn corrected_schedule_applies_on_reload_and_start() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    let rarely =
        || site.configure(&Settings { poll: "0 0 0 29 2 *", tenants: vec![1], ..site.settings() });
    let often = || site.configure(&Settings { tenants: vec![1], ..site.settings() });
    for (expected, by_restart) in [(4, false), (5, true)] {
        rarely();
        let mut daemon = site.start_daemon();
        daemon.logs("Started").await;
        let pool = site.connect().await;
        daemon.signal(Signal::SIGHUP);
        let put_off = "SELECT count(*) FROM defender.sync_state
            WHERE poll_due_at > now() + interval '1 hour' AND backfilled_at IS NOT NULL AND lease_owner IS NULL";
        until("the next poll is far away", async || number(&pool, put_off).await == 1).await;
        assert_eq!(stored(&pool, 1).await, expected - 1);
        site.world().create(id(1));
        often();
        if by_restart {
            pool.close().await;
            assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
            daemon = site.start_daemon();
        } else {
            daemon.signal(Signal::SIGHUP);
        }
        let pool = site.connect().await;
        until("the news", async || stored(&pool, 1).await == expected).await;
        pool.close().await;
        assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    }
}

fn of(log: &str, message: &str) -> Vec<Value> {
    events(log).into_iter().filter(|event| says(event, message)).collect()
}
