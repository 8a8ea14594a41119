//! Commands: what they print, to which stream, and their exit status.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use simulator::{Behaviour, Endpoint, TenantSpec};

use crate::support::installation::found;
use crate::support::installation::{
    Installation, Running, Settings, events, id, number, spec, stored, until,
};

fn without_consent(number: u128) -> TenantSpec {
    TenantSpec {
        behaviour: Behaviour { consent_missing: true, ..Behaviour::default() },
        ..spec(number, 5)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_prints_result_and_exits_by_outcome() {
    let site = Installation::with(vec![spec(1, 130), without_consent(2)]).await;
    let some_failed = site.run(&["sync", "--json", "--log-format", "json"]);
    assert_eq!(some_failed.code(), Some(1));
    let result = some_failed.json();
    assert_eq!((&result["ok"], &result["left_out"]), (&json!(false), &json!([])));
    let [good, bad] = result["tenants"].as_array().unwrap().as_slice() else { panic!("{result}") };
    assert_eq!(
        (&good["name"], &good["outcome"], &good["tenant_id"]),
        (&json!("tenant-1"), &json!("ok"), &json!(id(1)))
    );
    assert_eq!(
        (&good["incidents_written"], &good["alerts_written"], &good["rejected"], &good["error"]),
        (&json!(130), &json!(390), &json!(0), &Value::Null)
    );
    assert!(good["watermark"].is_string() && good["api_calls"].as_u64() >= Some(2), "{good}");
    assert_eq!(
        (&bad["outcome"], &bad["who_must_act"]),
        (&json!("parked"), &json!("customer_admin"))
    );
    assert_eq!(bad["error_class"], "consent_missing", "{bad}");
    assert!(!events(&some_failed.stderr).is_empty(), "the log is on standard error");

    let text = site.run(&["sync", "--tenant", "tenant-1"]);
    assert!(text.stderr.contains("Tenant run done") && !text.stdout.contains("Tenant run done"));
    let table = text.success();
    assert!(table.contains("tenant-1") && !table.contains("tenant-2"), "{table}");
    let by_id = site.run(&["sync", "--tenant", &id(1).to_string().to_uppercase(), "--json"]);
    assert_eq!(
        (by_id.code(), by_id.json()["ok"].clone()),
        (Some(0), json!(true)),
        "{}",
        by_id.stderr
    );

    let (embedded, pool) = site.open_database().await;
    let before = tuples(&pool).await;
    pool.close().await;
    embedded.stop().await;
    let full = site.run(&["sync", "--tenant", "tenant-1", "--full", "--json"]);
    let tenant = &full.json()["tenants"][0];
    assert!(tenant["incidents_seen"].as_u64() >= Some(130), "{tenant}");
    assert_eq!((&tenant["incidents_written"], &tenant["alerts_written"]), (&json!(0), &json!(0)));
    let since = site.run(&["sync", "--tenant", "tenant-1", "--since", "2020-01-01", "--json"]);
    assert_eq!(since.json()["tenants"][0]["incidents_written"], 0);
    let (embedded, pool) = site.open_database().await;
    assert_eq!(tuples(&pool).await, before, "an unchanged tenant is not written");
    site.assert_truth(&pool, 1).await;
    pool.close().await;
    embedded.stop().await;
    assert_eq!(site.servers(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_and_retry_rejected_report_findings() {
    let site = Installation::with(vec![spec(1, 60), spec(2, 5)]).await;
    let unsynchronised = site.run(&["migrate"]).code();
    assert_eq!(unsynchronised, Some(0));
    let never = site.run(&["verify", "--json"]);
    assert_eq!(never.code(), Some(1));
    assert!(never.tenants()[0]["failure"].is_string(), "{}", never.stdout);
    site.run(&["sync"]).success();
    let clean = site.run(&["verify", "--json"]);
    assert_eq!(
        (clean.code(), clean.tenants().as_array().map(Vec::len)),
        (Some(0), Some(2)),
        "{}",
        clean.stderr
    );

    let (embedded, pool) = site.open_database().await;
    for statement in [
        "DELETE FROM defender.incidents WHERE incident_id = 3",
        "WITH lost AS (DELETE FROM defender.incident_payloads WHERE incident_id = 3 RETURNING *)
            INSERT INTO defender.rejected_payloads (tenant_id, incident_id, reason, payload, content_hash)
            SELECT tenant_id, incident_id, 'an older version refused it', payload::text, content_hash FROM lost",
    ] {
        assert_eq!(sqlx::query(statement).execute(&pool).await.unwrap().rows_affected(), 2);
    }
    pool.close().await;
    embedded.stop().await;
    let status = site.run(&["status", "--json"]).tenants();
    assert_eq!(status[0]["state"], "incomplete");
    assert_eq!(status[0]["must_act"]["owner"], "operator", "{status}");
    let drift = site.run(&["verify", "--tenant", "tenant-1", "--json"]);
    assert_eq!(
        (drift.code(), &drift.tenants()[0]["rejected"], &drift.tenants()[0]["missing"]),
        (Some(1), &json!(1), &json!([]))
    );
    assert_eq!(site.run(&["verify"]).code(), Some(1));
    let healed = site.run(&["retry-rejected", "--json"]).json();
    let written: Vec<&Value> =
        healed["tenants"].as_array().unwrap().iter().map(|t| &t["incidents_written"]).collect();
    assert_eq!(written, [&json!(1), &json!(1)]);
    site.run(&["verify"]).success();
}

/// The refusal, which follows the log.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}

/// How often each data table was written, dead rows included: where its rows are, and who wrote them.
async fn tuples(pool: &sqlx::PgPool) -> Vec<Option<String>> {
    let mut tuples = Vec::new();
    for table in [
        "incidents",
        "alerts",
        "devices",
        "alert_devices",
        "evidence",
        "incident_changes",
        "incident_payloads",
    ] {
        let query = format!(
            "SELECT md5(string_agg(ctid::text || xmin::text || xmax::text, ',' ORDER BY ctid)) FROM defender.{table}"
        );
        tuples.push(sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(pool).await.unwrap());
    }
    tuples
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_or_configuration_exits_with_2() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    for arguments in [
        &["sync", "--tenant", "nobody"][..],
        &["check", "--tenant", "nobody"],
        &["sync", "--since", "yesterday"],
        &["verify", "--since", "yesterday"],
        &["sync", "--full", "--since", "2026-01-01T00:00:00Z"],
        &["frobnicate"],
        &["consent-url", "--tenant", "nobody"],
    ] {
        let done = site.run(arguments);
        assert_eq!(
            (done.code(), done.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}: {}",
            done.stderr
        );
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    }
    let more = "[sink]\n[[tenants]]\nid = \"x\"\nname = \"\"\n[[tenants]]\nid = \"aaaa0000-0000-4000-8000-000000000001\"\nname = \"again\"\n";
    site.configure(&Settings {
        poll: "every minute",
        tenants: vec![1],
        more: more.to_owned(),
        ..site.settings()
    });
    for command in ["sync", "run", "status", "migrate"] {
        let done = site.run(&[command]);
        assert_eq!((done.code(), done.stdout.as_str()), (Some(2), ""));
        let file = site.config().display().to_string();
        for word in [
            file.as_str(),
            "schedule.poll",
            "sink",
            "tenants[1].id",
            "tenants[1].name",
            "tenants[2]",
        ] {
            assert!(done.stderr.contains(word), "{command}: {word} is missing in {}", done.stderr);
        }
    }
    std::fs::remove_file(site.config()).unwrap();
    let gone = site.run(&["status"]);
    assert_eq!(gone.code(), Some(2));
    assert!(gone.stderr.contains("incident-sync.toml"), "{}", gone.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_database_exits_with_3_and_cure() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    let with = |database: String| {
        site.configure(&Settings { database, tenants: vec![1], ..site.settings() });
    };
    with("url = \"postgres://nobody:canary5f2d77c0@127.0.0.1:1/none\"".to_owned());
    for command in [&["sync"][..], &["status", "--json"], &["migrate"]] {
        let done = site.run(command);
        assert_eq!((done.code(), done.stdout.as_str()), (Some(3), ""), "{}", done.stderr);
        let expected =
            "incident-sync: postgres://nobody@127.0.0.1:1/none?sslmode=prefer: database: ";
        assert!(done.stderr.contains(expected), "{}", done.stderr);
        assert!(
            done.stderr.contains("Check that it runs") && !done.stderr.contains("retrying"),
            "{}",
            done.stderr
        );
    }
    let check = site.run(&["check", "--json"]);
    assert_eq!(check.code(), Some(3), "{}", check.stderr);
    let findings = check.json();
    let [.., reached] = found(&findings, "connection")[..] else { panic!("{findings}") };
    assert_eq!(
        (&reached["group"], &reached["result"]),
        (&json!("database"), &json!("failure")),
        "{findings}"
    );
    assert_eq!(
        found(&findings, "call")[0]["result"],
        "ok",
        "tenants are looked at all the same: {findings}"
    );

    let nothing = site.path("nothing");
    std::fs::create_dir(&nothing).unwrap();
    with(format!("embedded_dir = {:?}\npostgres_bin = {nothing:?}", site.path("pg")));
    for command in ["sync", "run"] {
        let done = site.run(&[command]);
        assert_eq!(done.code(), Some(3), "{}", done.stderr);
        for cure in ["apt-get install postgresql", "database.postgres_bin", "database.url"] {
            assert!(done.stderr.contains(cure), "{cure} is missing in {}", done.stderr);
        }
        assert!(done.stderr.contains(&nothing.display().to_string()), "{}", done.stderr);
    }
    let long = site.path(&"a-path-that-no-socket-takes/".repeat(5));
    with(format!("embedded_dir = {long:?}"));
    let done = site.run(&["sync"]);
    assert_eq!(done.code(), Some(3));
    assert!(
        done.stderr.contains("107") && done.stderr.contains("database.embedded_dir"),
        "{}",
        done.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_user_is_refused_with_the_cure() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can use another user.
    }
    let site = Installation::with(vec![spec(1, 1)]).await;
    site.run(&["migrate"]).success();
    let binary = site.path("incident-sync");
    std::fs::copy(env!("CARGO_BIN_EXE_incident-sync"), &binary).unwrap();
    let as_stranger = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        command.arg("--config").arg(site.config()).args(arguments).uid(1234).gid(1234);
        Running::start(command, site.folder.path()).ends()
    };
    // The database alone: no other user may read the secret either.
    let database = format!("[database]\nembedded_dir = {:?}\n", site.path("pg"));
    std::fs::write(site.config(), database).unwrap();
    let database = as_stranger(&["status"]);
    std::fs::set_permissions(site.config(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let configuration = as_stranger(&["status"]);
    for (done, code) in [(database, 3), (configuration, 2)] {
        assert_eq!(done.code(), Some(code), "{}", done.stderr);
        for text in ["Permission denied", "Run this command as root (sudo) or as the service user"]
        {
            assert!(done.stderr.contains(text), "{text} is missing in {}", done.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_commands_create_no_database() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    let folder = site.path("elsewhere").display().to_string();
    // Its words are held by a snapshot.
    let refusal = last_line(&site.run(&["status"]).stderr);
    for command in [
        &["status", "--json"][..],
        &["verify", "--json"],
        &["retry-rejected"],
        &["grant-reader", "analyst", "--all-tenants"],
        &["tenant", "purge", "tenant-1", "--yes"],
        &["tenant", "erase-person", "tenant-1", "--upn", "ann@example.com"],
        &["tenant", "export", "tenant-1", "--to", &folder],
        &["tenant", "park", "tenant-1"],
        &["tenant", "resume", "tenant-1"],
    ] {
        let done = site.run(command);
        assert_eq!(
            (done.code(), done.stdout.as_str()),
            (Some(3), ""),
            "{command:?}: {}",
            done.stderr
        );
        assert_eq!(last_line(&done.stderr), refusal, "{command:?}");
    }
    let check = site.run(&["check", "--json"]);
    assert_eq!(check.code(), Some(3), "{}", check.stderr);
    let server = found(&check.json(), "server")[0].clone();
    assert_eq!((&server["group"], &server["result"]), (&json!("database"), &json!("failure")));
    assert!(!site.path("pg").exists(), "nothing was made");

    site.run(&["migrate"]).success();
    let unknown = site.run(&["status", "--json"]).tenants()[0].take();
    assert_eq!(
        (&unknown["state"], &unknown["must_act"]["owner"]),
        (&json!("never run"), &json!("operator"))
    );
    let status = site.run(&["status"]);
    assert_eq!(status.code(), Some(1), "the tenant needs an action: {}", status.stdout);
    site.run(&["sync"]).success();
    let known = site.run(&["status", "--json"]).tenants()[0].take();
    assert_eq!(known["state"], "ok");
    let keys = |tenant: &Value| tenant.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&known), keys(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_show_the_state_of_every_tenant() {
    let site = Installation::with(vec![spec(1, 40), without_consent(2)]).await;
    assert_eq!(site.run(&["migrate", "--json"]).json(), json!({ "ok": true }));
    assert_eq!(site.run(&["migrate"]).success(), "The schema is up to date.\n");

    let check = site.run(&["check", "--json"]);
    assert_eq!(check.code(), Some(1));
    let findings = check.json();
    let [good, consent] = found(&findings, "token")[..] else { panic!("{findings}") };
    assert_eq!((&good["about"], &good["result"]), (&json!("tenant-1"), &json!("ok")));
    assert_eq!(
        (&consent["result"], &consent["who_must_act"]),
        (&json!("failure"), &json!("customer_admin"))
    );
    assert_eq!(site.run(&["check"]).code(), Some(1));
    site.run(&["check", "--tenant", "tenant-1"]).success();

    assert_eq!(site.run(&["sync"]).code(), Some(1));
    let status = site.run(&["status", "--json"]);
    assert_eq!(status.code(), Some(1), "the status shows a parked tenant too");
    let status = status.tenants();
    let [first, second] = status.as_array().unwrap().as_slice() else { panic!("{status}") };
    assert_eq!(
        (&first["name"], &first["incidents"], &first["last_outcome"]),
        (&json!("tenant-1"), &json!(40), &json!("ok"))
    );
    assert!(
        first["freshness_seconds"].as_f64().is_some_and(|age| age >= 0.0)
            && first["error_class"].is_null(),
        "{first}"
    );
    assert_eq!(
        (&second["who_must_act"], &second["last_success_at"]),
        (&json!("customer_admin"), &Value::Null)
    );
    assert_eq!((&first["state"], &first["must_act"]), (&json!("ok"), &Value::Null), "{first}");
    assert_eq!(
        (&second["state"], &second["must_act"]["owner"]),
        (&json!("parked"), &json!("customer_admin")),
        "{second}"
    );
    assert_eq!(second["must_act"]["what"], second["error_message"], "as in the table");

    let list = site.run(&["tenant", "list", "--json"]).json();
    assert_eq!(
        (&list[0]["tenant_id"], &list[1]["name"], &list[0]["enabled"]),
        (&json!(id(1)), &json!("tenant-2"), &json!(true))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_link_matches_cloud_and_version() {
    let site = Installation::with(vec![]).await;
    let more = "[[tenants]]\nid = \"aaaa0000-0000-4000-8000-000000000001\"\nname = \"commercial\"\ncloud = \"commercial\"\n\
        [[tenants]]\nid = \"aaaa0000-0000-4000-8000-000000000002\"\nname = \"high\"\ncloud = \"gcc-high\"\n";
    site.configure(&Settings { more: more.to_owned(), ..site.settings() });
    for (tenant, number, login, scope) in [
        (
            "commercial",
            1,
            "login.microsoftonline.com",
            "https://api.security.microsoft.com/.default",
        ),
        ("high", 2, "login.microsoftonline.us", ".us/.default"),
    ] {
        let printed = site
            .run(&[
                "consent-url",
                "--tenant",
                tenant,
                "--redirect-uri",
                "https://partner.example/done",
            ])
            .success();
        let url: url::Url = printed.trim_end().parse().unwrap();
        assert_eq!(
            (url.host_str(), url.path()),
            (Some(login), format!("/{}/v2.0/adminconsent", id(number)).as_str())
        );
        let of = |name: &str| {
            url.query_pairs()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
                .unwrap()
        };
        assert_eq!(
            (of("client_id").len(), of("redirect_uri").as_str()),
            (36, "https://partner.example/done")
        );
        assert!(of("scope").ends_with(scope) && !of("state").is_empty(), "{url}");
    }
    let new = site.run(&["consent-url", "--tenant", &id(77).to_string(), "--json"]).json();
    assert!(
        new["url"].as_str().unwrap().contains(&format!("/{}/v2.0/adminconsent?", id(77))),
        "{new}"
    );
    assert!(new["url"].as_str().unwrap().contains(new["state"].as_str().unwrap()));

    site.configure(&site.settings());
    let first = site.run(&["consent-url"]).success();
    assert!(
        first.contains("/organizations/v2.0/adminconsent?"),
        "the first customer needs none before it: {first}"
    );
    let older = site.run(&["consent-url", "--v1", "--cloud", "dod"]).success();
    assert!(older.starts_with("https://login.microsoftonline.us/common/adminconsent?"), "{older}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_psql_reach_a_running_daemon() {
    let site = Installation::with(vec![spec(1, 25)]).await;
    let daemon = site.start_daemon();
    let line = daemon.logs("Embedded Postgres started").await["psql"].as_str().unwrap().to_owned();
    let pool = site.connect().await;
    until("the rows", async || stored(&pool, 1).await == 25).await;

    let status = site.run(&["status", "--json"]);
    assert_eq!(
        (status.code(), status.tenants()[0]["incidents"].clone()),
        (Some(0), json!(25)),
        "{}",
        status.stderr
    );
    let mut psql = std::process::Command::new("sh");
    psql.arg("-c").arg(format!("{line} -At -c 'SELECT count(*) FROM defender.incidents'"));
    assert_eq!(Running::start(psql, site.folder.path()).ends().success(), "25\n");
    let sync = site.run(&["sync", "--json"]);
    assert!(matches!(sync.code(), Some(0 | 1)), "{}", sync.stderr);
    let result = sync.json();
    let ran =
        result["tenants"].as_array().unwrap().len() + result["left_out"].as_array().unwrap().len();
    assert_eq!(ran, 1, "the tenant ran here, or the daemon had it: {result}");
    assert_eq!(site.run(&["migrate"]).code(), Some(0));
    assert_eq!(site.run(&["check"]).code(), Some(0));

    assert!(daemon.get("/readyz").await.0 == 200, "no guest ends the daemon's server");
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
    assert_eq!(
        site.run(&["status", "--json"]).tenants()[0]["incidents"],
        25,
        "and without the daemon"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_sync_keeps_rows_and_ends_in_time() {
    let site = Installation::with(vec![spec(1, 800)]).await;
    site.slow_down(1, std::time::Duration::from_millis(150));
    let sync = Running::start(site.command(&["sync", "--json"]), site.folder.path());
    until("the middle", async || site.pages(1) > 2).await;
    let done = sync.ends_on(Signal::SIGINT);
    assert_eq!(done.code(), Some(1), "{}", done.stderr);
    assert_eq!(done.json()["tenants"][0]["outcome"], "stopped");
    assert_eq!(site.servers(), [0; 0]);
    let (embedded, pool) = site.open_database().await;
    let kept = stored(&pool, 1).await;
    assert!((1..800).contains(&kept), "{kept}");
    assert_eq!(
        number(&pool, "SELECT count(*) FROM defender.sync_state WHERE lease_owner IS NOT NULL")
            .await,
        0
    );
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_run_does_not_unpark_a_tenant() {
    let site = Installation::with(vec![without_consent(1)]).await;
    assert_eq!(site.run(&["sync"]).code(), Some(1));
    site.world().set_behaviour(id(1), Behaviour { hang: true, ..Behaviour::default() });
    let sync = Running::start(site.command(&["sync", "--json"]), site.folder.path());
    let asked =
        async || site.world().calls(id(1)).iter().any(|call| call.endpoint == Endpoint::Incidents);
    until("the call that hangs", asked).await;
    assert_eq!(sync.ends_on(Signal::SIGINT).json()["tenants"][0]["outcome"], "stopped");
    let status = site.run(&["status", "--json"]);
    let tenant = &status.tenants()[0];
    assert_eq!((status.code(), &tenant["last_outcome"]), (Some(1), &json!("stopped")), "{tenant}");
    assert_eq!(
        (&tenant["who_must_act"], &tenant["consecutive_failures"]),
        (&json!("customer_admin"), &json!(1))
    );
    assert!(tenant["parked_reason"].is_string() && tenant["error_class"].is_string(), "{tenant}");
}

#[tokio::test(flavor = "multi_thread")]
async fn simulate_prints_a_config_that_sync_reads() {
    let folder = crate::support::folder::open_folder("is-service-");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_incident-sync"));
    command.args(["simulate", "--listen", "127.0.0.1:0", "--tenants", "2", "--incidents", "15"]);
    let simulator = Running::start(command, folder.path());
    until("the configuration", async || simulator.stdout().matches("[[tenants]]").count() == 2)
        .await;
    let config = folder.path().join("incident-sync.toml");
    let database = format!("[database]\nembedded_dir = {:?}\n", folder.path().join("pg"));
    std::fs::write(&config, database + &simulator.stdout()).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_incident-sync"));
    command.arg("--config").arg(&config).args(["sync", "--json"]);
    let done = Running::start(command, folder.path()).ends();
    assert_eq!(done.code(), Some(0), "{}", done.stderr);
    // The simulator may create incidents before they are read.
    let written = done.json()["tenants"][1]["incidents_written"].as_u64().unwrap();
    assert!((15..30).contains(&written), "{written} incidents");
    assert_eq!(simulator.ends_on(Signal::SIGINT).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_needs_removed_tenant_and_confirmation() {
    let site = Installation::with(vec![spec(1, 8), spec(2, 5)]).await;
    site.run(&["sync"]).success();
    let configured = site.run(&["tenant", "purge", "tenant-1", "--yes"]);
    assert_eq!(configured.code(), Some(2));
    assert!(configured.stderr.contains("enabled = false"), "{}", configured.stderr);
    site.configure(&Settings { tenants: vec![2], ..site.settings() });
    let unread = site.run(&["tenant", "purge", "tenant-1", "--yes"]);
    assert!(unread.code() == Some(2) && unread.stderr.contains("reload"), "{}", unread.stderr);
    site.run(&["sync"]).success();
    let unasked = site.run(&["tenant", "purge", "tenant-1"]);
    assert!(unasked.code() == Some(2) && unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let purged = site.run(&["tenant", "purge", "tenant-1", "--yes", "--json"]);
    assert_eq!(purged.json()["deleted"]["incidents"], json!(8), "{}", purged.stderr);
    let status = site.run(&["status", "--json"]).stdout;
    assert!(status.contains("tenant-2") && !status.contains("tenant-1"), "{status}");
    let again = site.run(&["tenant", "purge", "tenant-1", "--yes"]);
    assert!(again.code() == Some(2) && again.stderr.contains("has no tenant"), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn config_check_and_show_work_offline() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    let checked = site.run(&["config", "check"]).success();
    assert!(checked.contains("valid, 1 tenants"), "{checked}");
    assert!(checked.contains("\nwarning: ") && checked.contains("expect throttling"), "{checked}");
    let valid = site.run(&["config", "check", "--json"]).json();
    let file = site.config().display().to_string();
    assert_eq!(
        (&valid["ok"], &valid["tenants"], &valid["errors"]),
        (&json!(true), &json!(1), &json!([]))
    );
    assert_eq!(
        (&valid["file"], valid["warnings"].as_array().unwrap().len()),
        (&json!(file), 3),
        "{valid}"
    );
    let shown = site.run(&["config", "show", "--json"]).json();
    let find =
        |key: &str| shown.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(find("schedule.poll")["value"], "*/2 * * * * *");
    assert_eq!(find("schedule.reconcile")["source"], "default");
    assert!(site.run(&["config", "show"]).success().contains("app.client_secret_file"));

    let customers = site.path("tenants.d");
    std::fs::create_dir(&customers).unwrap();
    std::fs::write(customers.join("bad.toml"), "id = 1\n").unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = {customers:?}\n{text}")).unwrap();
    let refused = site.run(&["config", "check"]);
    assert!(
        refused.code() == Some(2) && refused.stderr.contains("bad.toml: name: missing"),
        "{}",
        refused.stderr
    );
    assert_eq!(site.run(&["config", "show"]).code(), Some(0), "what is right holds");
    std::fs::write(site.config(), format!("[shedule]\n{text}")).unwrap();
    let refused = site.run(&["config", "check"]);
    assert!(
        refused.code() == Some(2) && refused.stderr.contains("did you mean schedule"),
        "{}",
        refused.stderr
    );
    let refused = site.run(&["config", "check", "--json"]);
    let report = refused.json();
    assert_eq!(
        (refused.code(), &report["ok"], &report["file"]),
        (Some(2), &json!(false), &json!(file))
    );
    assert!(
        report["errors"].as_array().unwrap().iter().any(|error| error["key"] == "shedule"),
        "{report}"
    );
    assert_eq!(site.servers(), [0; 0]);
    assert!(site.world().calls(id(1)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_fails_output_closed_pipe_does_not() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    let shell = |line: &str| {
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", line])
            .env("B", env!("CARGO_BIN_EXE_incident-sync"))
            .env("INCIDENT_SYNC_CONFIG", site.config());
        Running::start(command, site.folder.path()).ends()
    };
    for command in ["tenant list", "tenant list --json", "config check", "completions bash"] {
        let full = shell(&format!("\"$B\" {command} > /dev/full"));
        assert_eq!(full.code(), Some(1), "{command}: {}", full.stderr);
        assert!(
            full.stderr.contains("cannot write to standard output"),
            "{command}: {}",
            full.stderr
        );
    }
    let gone = shell("{ \"$B\" migrate; echo \"ended with $?\" >&2; } | true");
    assert!(
        gone.stderr.contains("ended with 0") && !gone.stderr.contains("panicked"),
        "{}",
        gone.stderr
    );

    let at_terminal = |line: &str| {
        let mut command = std::process::Command::new("script");
        command.args(["-qec", line, "/dev/null"]).env("B", env!("CARGO_BIN_EXE_incident-sync"));
        command.env("INCIDENT_SYNC_CONFIG", site.config()).env_remove("NO_COLOR");
        Running::start(command, site.folder.path()).ends().success()
    };
    let widest =
        |text: &str| text.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
    let list = "\"$B\" tenant list";
    let narrow = at_terminal(&format!("stty rows 24 cols 80; {list}"));
    assert!(narrow.contains("tenant-1") && widest(&narrow) <= 80, "{narrow}");
    assert!(widest(&at_terminal(&format!("stty rows 24 cols 250; {list}"))) > 100);
    let logged = at_terminal(&format!("{list} -v"));
    assert!(logged.contains("expect throttling") && logged.contains("\u{1b}["), "{logged}");
    assert!(!at_terminal(&format!("NO_COLOR=1 {list} -v")).contains("\u{1b}["));
}

/// What a NOC user without access to the secret, or root beside a stopped service with an encrypted credential, can do.
#[tokio::test(flavor = "multi_thread")]
async fn commands_without_token_need_no_credential() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    site.run(&["sync"]).success();
    std::fs::rename(site.path("secret"), site.path("secret-aside")).unwrap();
    for arguments in [
        &["status"][..],
        &["tenant", "list"],
        &["config", "show"],
        &["migrate"],
        &["retry-rejected"],
        &["tenant", "park", "tenant-1"],
        &["tenant", "resume", "tenant-1"],
        &["tenant", "confirm-removal"],
    ] {
        let done = site.run(arguments);
        assert_eq!(done.code(), Some(0), "{arguments:?}: {}", done.stderr);
    }
    for arguments in [&["sync"][..], &["config", "check"], &["check"], &["verify"]] {
        let done = site.run(arguments);
        assert_eq!(done.code(), Some(2), "{arguments:?}: {}", done.stderr);
    }
    std::fs::rename(site.path("secret-aside"), site.path("secret")).unwrap();
}

/// `systemctl reload` runs this before it signals.
#[tokio::test(flavor = "multi_thread")]
async fn config_check_judges_for_user_of_service() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let service = 65_534;
    let site = Installation::with(vec![spec(1, 3)]).await;
    std::fs::create_dir_all(site.path("state")).unwrap();
    std::os::unix::fs::chown(site.path("state"), Some(service), None).unwrap();
    let refused = site.run(&["config", "check"]);
    assert_eq!(refused.code(), Some(2));
    assert!(refused.stderr.contains("runs as user 65534 and cannot read it"), "{}", refused.stderr);
    // The service's own file, for the service and for commands of root.
    std::os::unix::fs::chown(site.path("secret"), Some(service), None).unwrap();
    site.run(&["config", "check"]).success();
    site.run(&["sync"]).success();
    std::os::unix::fs::chown(site.path("secret"), Some(1_234), None).unwrap();
    let refused = site.run(&["config", "check"]).stderr;
    assert!(refused.contains("must belong to root or to the service's user"), "{refused}");
    // The unit passes the files of this directory.
    std::os::unix::fs::chown(site.path("secret"), Some(0), None).unwrap();
    std::fs::create_dir(site.path("credentials")).unwrap();
    std::fs::rename(site.path("secret"), site.path("credentials/secret")).unwrap();
    site.run(&["config", "check"]).success();
    let mut command = site.command(&["sync"]);
    let passed = site.path("passed");
    std::fs::create_dir(&passed).unwrap();
    std::fs::rename(site.path("credentials/secret"), passed.join("credentials_secret")).unwrap();
    command.env("CREDENTIALS_DIRECTORY", passed);
    Running::start(command, site.folder.path()).ends().success();

    // A tenant's file that is invalid must not block the reload of all others.
    std::fs::rename(site.path("passed/credentials_secret"), site.path("credentials/secret"))
        .unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    std::fs::create_dir(site.path("tenants.d")).unwrap();
    std::fs::write(site.path("tenants.d/wrong.toml"), "name = 7\n").unwrap();
    assert_eq!(site.run(&["config", "check"]).code(), Some(2));
    let checked = site.run(&["config", "check", "--reload"]);
    assert_eq!(checked.code(), Some(0));
    assert!(checked.stderr.contains("wrong.toml"), "{}", checked.stderr);
}
