//! Credentials of the real binary: each kind in the configuration, and replaced while the daemon runs.

use std::path::Path;

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use simulator::{Endpoint, ScriptedReply};

use crate::support::installation::found;
use crate::support::installation::{
    Installation, Running, Settings, events, id, number, spec, stored, until, write_secret,
};

const IDENTITY: &str = "77777777-0000-4000-8000-000000000000";
const REFUSED: &str = "the application's credential was refused: first (";
const PARKED: &str = "SELECT count(*) FROM defender.sync_runs WHERE outcome = 'parked'";
const FAILED: &str = "SELECT count(*) FROM defender.sync_runs WHERE outcome <> 'ok'";

fn data(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/credentials").join(name))
        .unwrap()
}

fn register(site: &Installation, name: &str) {
    site.world().register_certificate(
        &CertificateDer::from_pem_slice(&data(&format!("{name}.crt.pem"))).unwrap(),
    );
}

/// So many tenants, whose application proves itself by these lines.
async fn site_by(app: &str, tenants: u128) -> Installation {
    let site = Installation::with((1..=tenants).map(|number| spec(number, 5)).collect()).await;
    let tenants = (1..=tenants).collect();
    site.configure(&Settings { app: app.to_owned(), tenants, ..site.settings() });
    site
}

/// Every tenant needs a new token for its next page.
fn expire_tokens(site: &Installation, tenants: u128) {
    for tenant in 1..=tenants {
        site.world().script(id(tenant), Endpoint::Incidents, vec![ScriptedReply::ExpireToken]);
    }
}

fn alarms(daemon: &Running) -> Vec<Value> {
    events_starting_with(daemon, REFUSED)
}

fn events_starting_with(daemon: &Running, message: &str) -> Vec<Value> {
    let is_it =
        |event: &Value| event["message"].as_str().is_some_and(|text| text.starts_with(message));
    events(&daemon.stderr()).into_iter().filter(is_it).collect()
}

/// Of the application's credential.
async fn metric(daemon: &Running, name: &str, credential: &str) -> Option<String> {
    metric_with(daemon, name, &format!("credential=\"{credential}\"}}")).await
}

async fn metric_with(daemon: &Running, name: &str, labels: &str) -> Option<String> {
    let (_, metrics) = daemon.get("/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(labels))?;
    line.rsplit(' ').next().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_credential_kind_works_and_stays_secret() {
    let joined = "client_certificate_file = \"secret.pem\"";
    let pem = "client_certificate_file = \"client.crt.pem\"\nclient_private_key_file = \"secret.key.pem\"\n\
               client_assertion_algorithm = \"RS256\"";
    let identity =
        format!("managed_identity = true\nmanaged_identity_client_id = \"{IDENTITY}\"\n");
    let site = site_by(joined, 1).await;
    write_secret(
        &site.path("secret.pem"),
        &[data("first.crt.pem"), data("first.key.pem")].concat(),
    );
    std::fs::write(site.path("client.crt.pem"), data("first.crt.pem")).unwrap();
    write_secret(&site.path("secret.key.pem"), &data("first.key.pem"));
    register(&site, "first");
    site.world().assign_identity(IDENTITY);
    let now = site.world().now();
    let token = site.world().trust_issuer("https://kubernetes.example", "sync").token(
        "api://AzureADTokenExchange",
        now,
        now + TimeDelta::hours(1),
    );
    write_secret(&site.path("secret-token"), token.as_bytes());
    let identity = format!("{identity}managed_identity_endpoint = \"{}\"", site.simulator.url());
    for (round, app) in
        (1..).zip([joined, pem, "federated_token_file = \"secret-token\"", &identity])
    {
        site.configure(&Settings { app: app.to_owned(), tenants: vec![1], ..site.settings() });
        site.world().create(id(1));
        let mut command = site.command(&["sync", "--json", "-vvv"]);
        command.env("RUST_LOG", "trace");
        let done = Running::start(command, site.folder.path()).ends();
        assert_eq!(done.json()["ok"], true, "{round} {}\n{}", done.stdout, done.stderr.len());
        let checked = site.run(&["check", "--json"]).json();
        let finding = found(&checked, "expiry")[0];
        assert_eq!(finding["result"], "ok", "{finding}");
        let status = site.run(&["status", "--json"]).json();
        let ends = round <= 2;
        assert_eq!(status["credentials"][0]["expires"].is_string(), ends, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_secret_file_restores_all_tenants() {
    let soon = Installation::with(vec![]).await.world().now() + TimeDelta::days(5);
    let app = format!(
        "client_secret_file = \"secret\"\nclient_secret_expires = {}",
        soon.format("%Y-%m-%d")
    );
    let site = site_by(&app, 3).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the first rows", async || stored(&pool, 3).await == 5).await;
    site.world().expire_client_secret("canary5f2d77c0-renewed");
    expire_tokens(&site, 3);
    let parked = "SELECT count(*) FROM defender.sync_state WHERE error_class = 'credential'";
    until("all tenants fail", async || number(&pool, parked).await == 3).await;
    assert_eq!(metric(&daemon, "incident_sync_credential_refused", "first").await.unwrap(), "1");
    let runs = number(&pool, PARKED).await;
    daemon.signal(Signal::SIGHUP);
    // It is tried again, and that is no news.
    until("a tenant fails again", async || number(&pool, PARKED).await > runs).await;
    for tenant in 1..=3 {
        site.world().create(id(tenant));
    }
    write_secret(&site.path("secret"), b"canary5f2d77c0-renewed\n");
    for tenant in 1..=3 {
        until("a tenant is at work again", async || stored(&pool, tenant).await == 6).await;
    }
    assert_eq!(metric(&daemon, "incident_sync_credential_refused", "first").await.unwrap(), "0");
    until("the new secret has no known expiry", async || {
        metric(&daemon, "incident_sync_credential_expiry_timestamp_seconds", "first").await.unwrap()
            == "NaN"
    })
    .await;
    let alarms = alarms(&daemon);
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(
        (&alarms[0]["level"], &alarms[0]["owner"]),
        (&Value::from("ERROR"), &Value::from("operator"))
    );
    let soon: Vec<_> =
        events(&daemon.stderr()).into_iter().filter(|event| event["days"] == 7).collect();
    assert_eq!((soon.len(), &soon[0]["level"]), (1, &Value::from("WARN")), "{soon:?}");
    // The end was that of the secret before.
    let end = metric(&daemon, "incident_sync_credential_expiry_timestamp_seconds", "first").await;
    assert_eq!(end.as_deref(), Some("NaN"));
    let (_, page) = daemon.get("/").await;
    assert!(!page.contains("A credential expires soon."), "{page}");
    let loud: Vec<_> =
        events(&daemon.stderr()).into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert_eq!(loud.len(), 1, "another line is an error: {loud:#?}");
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn next_credential_replaces_expired_without_failure() {
    let certificate = "client_certificate_file = \"client.crt.pem\"\nclient_private_key_file = \"secret.key.pem\"";
    let site = site_by("client_secret_file = \"secret\"", 2).await;
    std::fs::write(site.path("client.crt.pem"), data("second.crt.pem")).unwrap();
    write_secret(&site.path("secret.key.pem"), &data("second.key.pem"));
    register(&site, "second");
    let app = format!("client_secret_file = \"secret\"\n[app.next]\n{certificate}");
    site.configure(&Settings { app, tenants: vec![1, 2], ..site.settings() });
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the first rows", async || stored(&pool, 2).await == 5).await;
    assert_eq!(metric(&daemon, "incident_sync_credential_in_use", "first").await.unwrap(), "1");
    site.world().expire_client_secret("canary5f2d77c0-of-somebody-else");
    expire_tokens(&site, 2);
    for tenant in 1..=2 {
        site.world().create(id(tenant));
        until("the tenant is read again", async || stored(&pool, tenant).await == 6).await;
    }
    assert_eq!(number(&pool, FAILED).await, 0);
    assert_eq!(metric(&daemon, "incident_sync_credential_in_use", "next").await.unwrap(), "1");
    assert_eq!(metric(&daemon, "incident_sync_credential_in_use", "first").await.unwrap(), "0");
    let expiry = metric(&daemon, "incident_sync_credential_expiry_timestamp_seconds", "next").await;
    assert!(expiry.is_some_and(|seconds| seconds.parse::<f64>().unwrap() > 4e9));
    assert_eq!(alarms(&daemon).len(), 1);
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_certificate_is_used_once_its_key_matches() {
    let certificate = "client_certificate_file = \"client.crt.pem\"\nclient_private_key_file = \"secret.key.pem\"";
    let site = site_by(certificate, 1).await;
    let put = |name: &str| {
        std::fs::write(site.path("client.crt.pem"), data(&format!("{name}.crt.pem"))).unwrap();
    };
    put("first");
    write_secret(&site.path("secret.key.pem"), &data("first.key.pem"));
    register(&site, "first");
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the first rows", async || stored(&pool, 1).await == 5).await;
    register(&site, "second");
    put("second");
    daemon.logs("Credential files cannot be used; keeping the previous credential").await;
    expire_tokens(&site, 1);
    site.world().create(id(1));
    until("the old pair is still used", async || stored(&pool, 1).await == 6).await;
    site.world().remove_certificates();
    register(&site, "second");
    write_secret(&site.path("secret.key.pem"), &data("second.key.pem"));
    daemon.logs("Credential files changed; using the new credential").await;
    expire_tokens(&site, 1);
    site.world().create(id(1));
    until("the new pair is used", async || stored(&pool, 1).await == 7).await;
    assert_eq!((number(&pool, FAILED).await, alarms(&daemon).len()), (0, 0));
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

/// Under the application's own `client_id`, where Entra could not distinguish it from that of `[app]` either.
#[tokio::test(flavor = "multi_thread")]
async fn own_credential_of_tenant_is_watched_separately() {
    let site = site_by("client_secret_file = \"secret\"", 3).await;
    let soon = site.world().now() + TimeDelta::days(5);
    let own = format!(
        "client_secret_file = \"secret-own\"\nclient_secret_expires = {}\n",
        soon.format("%Y-%m-%d")
    );
    write_secret(&site.path("secret-own"), b"canary5f2d77c0-wrong\n");
    let settings = Settings {
        app: "client_secret_file = \"secret\"".to_owned(),
        tenants: vec![1, 2, 3],
        ..site.settings()
    };
    site.configure(&Settings { more: own, ..settings });
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    until("the others are read", async || stored(&pool, 1).await + stored(&pool, 2).await == 10)
        .await;
    until("its own is refused", async || number(&pool, PARKED).await > 0).await;
    for round in 6..=7 {
        daemon.signal(Signal::SIGHUP);
        let runs = number(&pool, PARKED).await;
        until("its own is refused again", async || number(&pool, PARKED).await > runs).await;
        expire_tokens(&site, 2);
        for tenant in 1..=2 {
            site.world().create(id(tenant));
            until("the others are still read", async || stored(&pool, tenant).await == round).await;
        }
    }
    let own = "credential=\"first\",tenant=\"tenant-3\"}";
    assert_eq!(metric_with(&daemon, "incident_sync_credential_refused", own).await.unwrap(), "1");
    assert_eq!(metric(&daemon, "incident_sync_credential_refused", "first").await.unwrap(), "0");
    assert!(
        metric_with(&daemon, "incident_sync_credential_expiry_timestamp_seconds", own)
            .await
            .is_some()
    );
    assert_eq!(
        metric(&daemon, "incident_sync_credential_expiry_timestamp_seconds", "first").await,
        None
    );
    let ends = events_starting_with(
        &daemon,
        "A credential expires soon: first credential of tenant tenant-3, app ",
    );
    assert_eq!((ends.len(), &ends[0]["tenant.name"]), (1, &Value::from("tenant-3")), "{ends:?}");
    assert!(site.run(&["status"]).stdout.contains("first credential of tenant tenant-3"));

    write_secret(&site.path("secret-own"), &std::fs::read(site.path("secret")).unwrap());
    until("it is read once its file is fixed", async || stored(&pool, 3).await == 5).await;
    until("the metric, which is rendered once a second", async || {
        let refused = metric_with(&daemon, "incident_sync_credential_refused", own).await;
        refused.as_deref() == Some("0")
    })
    .await;
    let own = events_starting_with(&daemon, "the tenant's own credential was refused: first (");
    assert_eq!((own.len(), &own[0]["tenant.name"]), (1, &Value::from("tenant-3")), "{own:?}");
    assert_eq!(alarms(&daemon).len(), 0);
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_credential_file_delays_no_tenant() {
    let inline = "client_secret = \"Qx8~canary5f2d77c0.~\"";
    let site = site_by(inline, 2).await;
    let own = "client_secret_file = \"secret-own\"\n".to_owned();
    write_secret(&site.path("secret-own"), &std::fs::read(site.path("secret")).unwrap());
    site.configure(&Settings {
        app: inline.to_owned(),
        tenants: vec![1, 2],
        more: own,
        ..site.settings()
    });
    let mut command = site.command(&["run", "--log-format", "json"]);
    // Only the file of the second tenant is read again, and the first time never ends.
    command.env("INCIDENT_SYNC_FAILPOINTS", "credential.read=pause");
    let daemon = Running::start(command, site.folder.path());
    let pool = site.connect().await;
    for round in 5..=6 {
        for tenant in 1..=2 {
            until("all are read", async || stored(&pool, tenant).await == round).await;
            site.world().create(id(tenant));
        }
        expire_tokens(&site, 2);
    }
    let unusable = "Credential files cannot be used; keeping the previous credential";
    let event = daemon.logs(unusable).await;
    let error = event["error"].as_str().unwrap();
    assert!(
        error.contains("tenants[1] (tenant-2).client_secret_file: reading the file timed out"),
        "{error}"
    );
    assert_eq!(
        (&event["tenant.name"], &event["credential"]),
        (&Value::from("tenant-2"), &Value::from("first"))
    );
    let own = "credential=\"first\",tenant=\"tenant-2\"}";
    let gauge = "incident_sync_credential_files_unusable";
    until("the gauge", async || metric_with(&daemon, gauge, own).await.as_deref() == Some("1"))
        .await;
    assert_eq!(metric(&daemon, gauge, "first").await.unwrap(), "0");
    assert_eq!(
        (events_starting_with(&daemon, unusable).len(), number(&pool, FAILED).await),
        (1, 0)
    );
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_credential_file_is_shown_until_fixed() {
    let site = site_by("client_secret_file = \"secret\"", 1).await;
    let secret = std::fs::read(site.path("secret")).unwrap();
    let daemon = site.start_daemon();
    let gauge = "incident_sync_credential_files_unusable";
    until("a look", async || metric(&daemon, gauge, "first").await.as_deref() == Some("0")).await;
    std::fs::set_permissions(
        site.path("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let event =
        daemon.logs("Credential files cannot be used; keeping the previous credential").await;
    let error = event["error"].as_str().unwrap();
    let folder = site.folder.path().display();
    let expected = format!(
        "{}: app.client_secret_file: the file of that name in {folder}/credentials or {folder} is open to other users. Close it with `chmod 600`",
        site.config().display()
    );
    assert_eq!((error, &event["credential"]), (expected.as_str(), &Value::from("first")));
    assert!(event["app"].is_string(), "{event}");
    until("the gauge", async || metric(&daemon, gauge, "first").await.as_deref() == Some("1"))
        .await;
    let (_, page) = daemon.get("/").await;
    assert!(
        page.contains("A credential cannot be re-read.") && page.contains("app.client_secret_file"),
        "{page}"
    );
    write_secret(&site.path("secret"), &secret);
    until("the file is fixed", async || {
        metric(&daemon, gauge, "first").await.as_deref() == Some("0")
    })
    .await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_identity_service_is_one_operator_alarm() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let identity = format!(
        "managed_identity = true\nmanaged_identity_client_id = \"{IDENTITY}\"\n\
         managed_identity_endpoint = \"http://127.0.0.1:{port}\""
    );
    let site = site_by(&identity, 3).await;
    let daemon = site.start_daemon();
    let pool = site.connect().await;
    let failing = "SELECT count(*) FROM defender.sync_state WHERE error_class = 'transport'";
    until("all tenants fail", async || number(&pool, failing).await == 3).await;
    let loud: Vec<_> =
        events(&daemon.stderr()).into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert_eq!(loud.len(), 1, "{loud:#?}");
    let message = "the application's credential is temporarily unusable: first (managed identity)";
    assert_eq!(
        (&loud[0]["message"], &loud[0]["owner"]),
        (&Value::from(message), &Value::from("operator"))
    );
    assert!(
        loud[0]["advice"].as_str().unwrap().contains("Only Azure machines have one"),
        "{loud:?}"
    );
    pool.close().await;
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
