//! `check`: each problem that it can find, and a healthy installation.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use chrono::TimeDelta;
use serde_json::{Value, json};
use simulator::{Behaviour, Clock, Endpoint, ScriptedReply, TenantSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::installation::{
    Done, Installation, Running, Settings, found, id, number, spec, until, write_secret,
};
use crate::support::proxy;
use crate::support::tls::{acceptor, behind_tls, data, serve};

/// The result of the only row of a check.
fn result<'a>(report: &'a Value, check: &str) -> &'a str {
    let [row] = found(report, check)[..] else { panic!("one row of {check} in {report:#}") };
    row["result"].as_str().unwrap()
}

/// The only row of a check failed or warned: who must act, and these words.
fn assert_finding(report: &Value, check: &str, result: &str, who: &str, words: &[&str]) {
    let [row] = found(report, check)[..] else { panic!("one row of {check} in {report:#}") };
    assert_eq!((&row["result"], &row["who_must_act"]), (&json!(result), &json!(who)), "{row:#}");
    let text = format!("{} {}", row["advice"].as_str().unwrap(), row["error"]);
    for word in words {
        assert!(text.contains(word), "{word} is missing in {row:#}");
    }
}

fn checked(site: &Installation) -> (Option<i32>, Value) {
    let done = site.run(&["check", "--json"]);
    (done.code(), done.json())
}

async fn migrated(specs: Vec<TenantSpec>) -> Installation {
    let site = Installation::with(specs).await;
    site.run(&["migrate"]).success();
    site
}

/// Changes the private database.
async fn change(site: &Installation, statement: &'static str) {
    let (embedded, pool) = site.open_database().await;
    sqlx::query(statement).execute(&pool).await.unwrap();
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_installation_passes_every_check() {
    let site = migrated(vec![spec(1, 3), spec(2, 3)]).await;
    let (code, report) = checked(&site);
    assert_eq!((code, &report["ok"]), (Some(0), &json!(true)), "{report:#}");
    let once = [
        "file",
        "permissions",
        "expiry",
        "dns",
        "connection",
        "tls",
        "clock",
        "server",
        "version",
        "encoding",
    ];
    let database = ["roles", "owners", "create", "migrations", "isolation", "rights", "grants"];
    for check in once.into_iter().chain(database).chain(["change_feed", "readers"]) {
        let rows = found(&report, check);
        let rows: Vec<_> = rows.into_iter().filter(|row| row["group"] != "tenants").collect();
        assert_eq!(rows.len(), 1, "{check} in {report:#}");
        assert_eq!(rows[0]["result"], "ok", "{report:#}");
    }
    for check in ["token", "tid", "audience", "call"] {
        assert_eq!(
            found(&report, check).iter().filter(|row| row["result"] == "ok").count(),
            2,
            "{check}"
        );
    }
    let keys: Vec<&String> = report["findings"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["about", "advice", "check", "error", "group", "result", "who_must_act"]);
    // The site of these tests allows itself more calls than Microsoft does, of each API; and the end
    // of its API is announced.
    let findings = report["findings"].as_array().unwrap();
    let worse: Vec<_> = findings
        .iter()
        .filter(|row| row["result"] != "ok")
        .map(|row| (&row["check"], &row["result"]))
        .collect();
    let warning = json!("warning");
    let advice = json!("advice");
    let retirement = json!("retirement");
    assert_eq!(
        worse,
        [(&advice, &warning), (&advice, &warning), (&advice, &warning), (&retirement, &warning)],
        "{report:#}"
    );
    let table = site.run(&["check"]).success();
    assert!(table.contains("tenant-1, tenant-2"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_without_connection_limit_is_a_warning() {
    let site = migrated(vec![spec(1, 3)]).await;
    change(&site, "CREATE ROLE dashboards LOGIN IN ROLE incident_sync_reader").await;
    let (_, report) = checked(&site);
    assert_finding(
        &report,
        "readers",
        "warning",
        "operator",
        &["dashboards", "CONNECTION LIMIT", "temp_file_limit"],
    );
    change(&site, "ALTER ROLE dashboards CONNECTION LIMIT 10").await;
    assert_eq!(result(&checked(&site).1, "readers"), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clock_is_reported_with_side_and_cure() {
    let now = Installation::with(vec![]).await.world().now();
    // The service's clock stands still: there is time for a slow machine between these and the limits.
    for (ahead, code, expected, side) in [
        (280, 0, "warning", "s behind"),
        (4_000, 1, "failure", "s behind"),
        (-900, 1, "failure", "s ahead of"),
    ] {
        let site =
            Installation::at(Clock::Manual(now + TimeDelta::seconds(ahead)), vec![spec(1, 1)])
                .await;
        site.run(&["migrate"]).success();
        let (ended, report) = checked(&site);
        assert_finding(&report, "clock", expected, "operator", &[side, "timedatectl"]);
        assert_eq!(ended, Some(code), "{report:#}");
        assert_eq!(result(&report, "call"), "ok", "what can be tried is tried: {report:#}");
    }
}

/// One tenant whose authority and API are elsewhere.
fn elsewhere(site: &Installation, url: &str, more: &str) {
    let tenant = format!("[[tenants]]\nid = \"{}\"\nname = \"tenant-1\"\n", id(1));
    let more = format!("{tenant}authority = \"{url}\"\nbase_url = \"{url}\"\n{more}");
    site.configure(&Settings { more, ..site.settings() });
}

fn assert_nothing_of_the_tenant_was_tried(report: &Value) {
    let rows: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["group"] == "tenants")
        .collect();
    assert_eq!(rows.len(), 5, "{report:#}");
    assert!(rows.iter().all(|row| row["result"] == "not_tried"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_host_is_one_failure_rest_not_tried() {
    let site = migrated(vec![]).await;
    elsewhere(&site, "https://login.invalid", "");
    let (code, report) = checked(&site);
    assert_eq!(code, Some(1), "{report:#}");
    assert_finding(&report, "dns", "failure", "operator", &["does not resolve", "DNS"]);
    for check in ["connection", "tls", "clock"] {
        assert_eq!(result(&report, check), "not_tried");
    }
    assert_nothing_of_the_tenant_was_tried(&report);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    elsewhere(&site, &format!("https://{free}"), "");
    let report = checked(&site).1;
    assert_finding(&report, "connection", "failure", "operator", &["firewall", "refused"]);
    assert_eq!((result(&report, "dns"), result(&report, "tls")), ("ok", "not_tried"));
    assert_nothing_of_the_tenant_was_tried(&report);

    elsewhere(
        &site,
        "https://login.invalid",
        &format!("[http_client]\nproxy = \"http://user@{free}\"\n"),
    );
    let report = checked(&site).1;
    assert_finding(&report, "proxy", "failure", "operator", &["http_client.proxy", "refused"]);
    assert_eq!((result(&report, "dns"), result(&report, "connection")), ("ok", "not_tried"));
    assert_nothing_of_the_tenant_was_tried(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_refusal_is_reported_with_cure() {
    let site = migrated(vec![]).await;
    site.world().add_tenant(spec(1, 1));
    write_secret(&site.path("secret-proxy"), proxy::PASSWORD.as_bytes());
    let url = behind_tls(&site).await;
    for (status, code, expected, words) in [
        ("200 OK", 0, "ok", ""),
        ("407 Proxy Authentication Required", 1, "failure", "proxy_password_file"),
        ("403 Forbidden", 1, "failure", "to allow the hosts"),
    ] {
        let (address, _) = proxy::connect_proxy(status).await;
        let lines = "proxy_password_file = \"secret-proxy\"\nca_file = \"company-ca.pem\"";
        proxy::route(&site, &url, &format!("proxy = \"http://user@{address}\"\n{lines}"));
        let (ended, report) = checked(&site);
        assert_eq!((ended, result(&report, "proxy")), (Some(code), "ok"), "{report:#}");
        assert!(
            found(&report, "dns")[0]["advice"].as_str().unwrap().contains("resolved by the proxy"),
            "{report:#}"
        );
        let connection = found(&report, "connection")[0];
        assert_eq!(connection["result"], expected, "{connection:#}");
        assert!(connection["advice"].as_str().unwrap().contains(words), "{connection:#}");
        assert_eq!(result(&report, "tls"), if code == 0 { "ok" } else { "not_tried" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_checked_for_issuer_dates_and_name() {
    let site = migrated(vec![]).await;
    let trusted = format!("[http_client]\nca_file = {:?}\n", data("ca.pem"));
    for (certificate, authorities, word) in [
        ("good.pem", "", "http_client.ca_file"),
        ("unknown.pem", trusted.as_str(), "http_client.ca_file"),
        ("selfsigned.pem", "", "http_client.ca_file"),
        ("future.pem", &trusted, "timedatectl set-ntp true"),
        ("expired.pem", &trusted, "has expired"),
        ("misnamed.pem", &trusted, "for another name"),
    ] {
        let (port, read) = serve(certificate).await;
        elsewhere(&site, &format!("https://127.0.0.1:{port}"), authorities);
        let report = checked(&site).1;
        assert_finding(&report, "tls", "failure", "operator", &[word]);
        assert_eq!((result(&report, "connection"), result(&report, "clock")), ("ok", "not_tried"));
        assert_nothing_of_the_tenant_was_tried(&report);
        assert_eq!(*read.lock().unwrap(), "", "{certificate}");
    }
    let (port, _) = serve("good.pem").await;
    elsewhere(&site, &format!("https://127.0.0.1:{port}"), &trusted);
    let report = checked(&site).1;
    assert_eq!(result(&report, "tls"), "ok");
    assert_eq!(result(&report, "clock"), "not_tried", "this server sends no time: {report:#}");
    assert_finding(
        &report,
        "token",
        "failure",
        "nobody",
        &["does not come from Microsoft's service"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn database_problem_exits_with_3_and_cure() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    change(&site, "SELECT 1").await; // It makes the database, and no tables.
    let (code, report) = checked(&site);
    assert_eq!(code, Some(3), "{report:#}");
    assert_finding(
        &report,
        "migrations",
        "failure",
        "operator",
        &["has no tables", "incident-sync migrate"],
    );
    assert_eq!(
        (result(&report, "isolation"), result(&report, "rights")),
        ("not_tried", "not_tried")
    );
    assert_eq!(result(&report, "call"), "ok", "tenants need no database: {report:#}");
    site.run(&["migrate"]).success();
    let newer =
        "INSERT INTO _sqlx_migrations SELECT 99990101, description, now(), true, checksum, 0
        FROM _sqlx_migrations WHERE version = 1";
    for (statement, check, expected, words) in [
        (
            "ALTER TABLE defender.alerts NO FORCE ROW LEVEL SECURITY",
            "isolation",
            "failure",
            "on: alerts. As the owner, run: ALTER TABLE defender.alerts ENABLE ROW LEVEL SECURITY, FORCE",
        ),
        ("ALTER TABLE defender.alerts FORCE ROW LEVEL SECURITY", "isolation", "ok", ""),
        (
            "ALTER POLICY reader ON defender.alerts RENAME TO another",
            "isolation",
            "failure",
            "a healthy database: reader of defender.alerts",
        ),
        ("ALTER POLICY another ON defender.alerts RENAME TO reader", "isolation", "ok", ""),
        (newer, "migrations", "warning", "ahead: migration 99990101"),
        (
            "UPDATE defender.schema_info SET oldest_supported = 99990101",
            "migrations",
            "failure",
            "not supported by this one",
        ),
        (
            "DELETE FROM _sqlx_migrations WHERE version > 1",
            "migrations",
            "failure",
            "Run incident-sync migrate",
        ),
    ] {
        change(&site, statement).await;
        let (ended, report) = checked(&site);
        let row = found(&report, check)[0];
        assert_eq!(row["result"], expected, "{report:#}");
        assert!(row["advice"].as_str().unwrap().contains(words), "{row:#}");
        assert_eq!(ended, Some(if expected == "failure" { 3 } else { 0 }), "{report:#}");
    }
    let report = checked(&site).1;
    assert_eq!(result(&report, "rights"), "not_tried", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unwritable_database_stops_api_calls_with_cure() {
    let site = migrated(vec![spec(1, 1)]).await;
    let (embedded, pool) = site.open_database().await;
    let database = site.shared_database();
    site.configure(&Settings { database, tenants: vec![1], ..site.settings() });
    for (breaks, check, words, fixes) in [
        (
            "ALTER DATABASE incident_sync SET default_transaction_read_only = on",
            "server",
            "ALTER DATABASE incident_sync RESET default_transaction_read_only",
            "BEGIN READ WRITE; ALTER DATABASE incident_sync RESET default_transaction_read_only; COMMIT",
        ),
        (
            "ALTER ROLE incident_sync SET default_transaction_read_only = on",
            "server",
            "ALTER ROLE incident_sync RESET default_transaction_read_only",
            "BEGIN READ WRITE; ALTER ROLE incident_sync RESET default_transaction_read_only; COMMIT",
        ),
        (
            "ALTER ROLE incident_sync_writer BYPASSRLS",
            "isolation",
            "to incident_sync_writer. As a superuser, run: ALTER ROLE incident_sync_writer NOSUPERUSER NOBYPASSRLS",
            "ALTER ROLE incident_sync_writer NOSUPERUSER NOBYPASSRLS",
        ),
        (
            "REVOKE INSERT, UPDATE ON defender.sync_state FROM incident_sync_writer",
            "rights",
            "GRANT INSERT, UPDATE ON defender.sync_state TO incident_sync_writer",
            "GRANT INSERT, UPDATE ON defender.sync_state TO incident_sync_writer",
        ),
        (
            "REVOKE INSERT ON defender.evidence FROM incident_sync_writer",
            "rights",
            "run: GRANT INSERT ON defender.evidence TO incident_sync_writer",
            "GRANT INSERT ON defender.evidence TO incident_sync_writer",
        ),
    ] {
        sqlx::raw_sql(breaks).execute(&pool).await.unwrap();
        site.world().clear_calls(id(1));
        let (ended, report) = checked(&site);
        assert_eq!(ended, Some(3), "{breaks}: {report:#}");
        let failed =
            report["findings"].as_array().unwrap().iter().filter(|row| row["result"] == "failure");
        assert_eq!(failed.count(), 1, "{breaks}: {report:#}");
        let row = found(&report, check)[0];
        assert!(
            row["result"] == "failure" && row["advice"].as_str().unwrap().contains(words),
            "{row:#}"
        );
        if breaks.contains("read_only") || breaks.contains("sync_state") {
            assert_eq!(
                (result(&report, "call"), answered(&site, 1..=1)),
                ("not_tried", [0, 0]),
                "{report:#}"
            );
        } else {
            assert_eq!(result(&report, "call"), "ok", "{report:#}");
        }
        sqlx::raw_sql(fixes).execute(&pool).await.unwrap();
    }
    assert_eq!(checked(&site).0, Some(0), "everything is fixed");
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_to_run_foreign_code_fail_with_cure() {
    let site = migrated(vec![]).await;
    let (embedded, pool) = site.open_database().await;
    let database = site.shared_database();
    site.configure(&Settings { database, tenants: vec![], ..site.settings() });
    for (breaks, check, words, cure) in [
        (
            "GRANT EXECUTE ON FUNCTION defender.forget_readers TO PUBLIC",
            "rights",
            "Run incident-sync migrate, or as the owner of the functions, run: REVOKE EXECUTE ON ROUTINE defender.forget_readers() FROM PUBLIC",
            "REVOKE EXECUTE ON FUNCTION defender.forget_readers FROM PUBLIC",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO PUBLIC",
            "create",
            "As a superuser, run: REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        ),
        (
            "CREATE ROLE neighbour; GRANT CREATE ON DATABASE incident_sync TO neighbour; GRANT neighbour TO incident_sync_reader",
            "create",
            "As a superuser, run: REVOKE CREATE ON DATABASE incident_sync FROM neighbour",
            "REVOKE neighbour FROM incident_sync_reader; REVOKE CREATE ON DATABASE incident_sync FROM neighbour",
        ),
        (
            "ALTER SCHEMA reporting OWNER TO neighbour",
            "owners",
            "schema reporting (of neighbour). As a superuser, drop it, or review it and run ALTER ... OWNER TO incident_sync",
            "ALTER SCHEMA reporting OWNER TO incident_sync",
        ),
    ] {
        sqlx::raw_sql(breaks).execute(&pool).await.unwrap();
        let (ended, report) = checked(&site);
        let failed =
            report["findings"].as_array().unwrap().iter().filter(|row| row["result"] == "failure");
        assert_eq!((ended, failed.count()), (Some(3), 1), "{breaks}: {report:#}");
        assert_finding(&report, check, "failure", "operator", &[words]);
        sqlx::raw_sql(cure).execute(&pool).await.unwrap();
        assert_eq!(checked(&site).0, Some(0), "{cure}");
    }
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_encoding_or_missing_roles_are_reported() {
    let site = migrated(vec![spec(1, 1)]).await;
    let (embedded, pool) = site.open_database().await;
    let latin =
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    for statement in [latin, "CREATE ROLE stranger LOGIN"] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let on = |user: &str, database: &str| {
        let socket = site.path("pg/socket");
        let database =
            format!("url = \"postgres://{user}@localhost/{database}?host={}\"", socket.display());
        site.configure(&Settings { database, tenants: vec![1], ..site.settings() });
        checked(&site)
    };
    let (code, report) = on("incident_sync", "latin");
    assert_finding(&report, "encoding", "failure", "operator", &["LATIN1", "UTF8"]);
    assert_eq!(code, Some(3));
    let (_, report) = on("stranger", "incident_sync");
    let database = |check: &str| {
        let rows = found(&report, check).into_iter().filter(|row| row["group"] == "database");
        rows.map(|row| format!("{} {}", row["result"], row["advice"])).collect::<String>()
    };
    let advice = database("roles");
    assert!(
        advice.contains("GRANT incident_sync_dispatcher, incident_sync_reader")
            && advice.contains("TO stranger"),
        "{advice}"
    );
    assert!(database("migrations").contains("Postgres denied access"), "{report:#}");
    let (_, report) = on("nobody_knows_me", "incident_sync");
    assert_finding(
        &report,
        "server",
        "failure",
        "operator",
        &["SQLSTATE 28", "Check user, password"],
    );
    assert_eq!(result(&report, "encoding"), "not_tried");
    let nowhere = "url = \"postgres://sync@db.invalid/sync\"".to_owned();
    site.configure(&Settings { database: nowhere, ..site.settings() });
    let (code, report) = checked(&site);
    let dns = found(&report, "dns").into_iter().find(|row| row["group"] == "database").unwrap();
    assert!(
        dns["result"] == "failure" && dns["advice"].as_str().unwrap().contains("does not resolve"),
        "{dns:#}"
    );
    assert_eq!((code, result(&report, "server")), (Some(3), "not_tried"));
    pool.close().await;
    embedded.stop().await;
}

/// A server that is no Postgres: it sends this reply to whatever it receives, and shows a certificate if asked to.
async fn no_postgres(reply: &'static [u8], certificate: Option<&'static str>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 8];
            if socket.read_exact(&mut request).await.is_err() {
                continue; // A client that only tries the port.
            }
            socket.write_all(reply).await.unwrap();
            match certificate {
                Some(certificate) => {
                    let _ = acceptor(certificate).accept(socket).await;
                }
                None => open.push(socket),
            }
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_database_is_reported_by_failed_step() {
    let site = migrated(vec![]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let good = format!("\nsslrootcert = {:?}", data("ca.pem"));
    for (port, more, check, words) in [
        (free, "", "connection", ["Nothing accepts connections there", "refused"]),
        (
            no_postgres(b"", None).await,
            "",
            "server",
            ["does not respond like Postgres", "no answer within 5 s"],
        ),
        (
            no_postgres(b"HTTP/1.1 400 Bad Request\r\n\r\n", None).await,
            "",
            "server",
            ["not Postgres", "SSLRequest"],
        ),
        (no_postgres(b"N", None).await, "", "server", ["does not support TLS", "TLS"]),
        (
            no_postgres(b"S", Some("unknown.pem")).await,
            &good,
            "server",
            ["database.sslrootcert", "UnknownIssuer"],
        ),
        (
            no_postgres(b"S", Some("selfsigned.pem")).await,
            "",
            "server",
            ["self-signed", "CaUsedAsEndEntity"],
        ),
        (
            no_postgres(b"S", Some("future.pem")).await,
            &good,
            "server",
            ["timedatectl", "not valid yet"],
        ),
    ] {
        let url = format!(
            "url = \"postgres://sync:canary5f2d77c0@127.0.0.1:{port}/sync\"\nsslmode = \"verify-full\"{more}"
        );
        site.configure(&Settings { database: url, ..site.settings() });
        let (code, report) = checked(&site);
        let rows: Vec<_> =
            found(&report, check).into_iter().filter(|row| row["group"] == "database").collect();
        assert_eq!(
            (code, rows.len(), &rows[0]["result"]),
            (Some(3), 1, &json!("failure")),
            "{report:#}"
        );
        let text = format!("{} {}", rows[0]["advice"], rows[0]["error"]);
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        assert_eq!(result(&report, "encoding"), "not_tried");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tenant_is_reported_by_failed_step() {
    let behaving = |number, behaviour| TenantSpec { behaviour, ..spec(number, 1) };
    let site = migrated(vec![
        behaving(1, Behaviour { consent_missing: true, ..Behaviour::default() }),
        behaving(2, Behaviour { wrong_tid: Some(id(9)), ..Behaviour::default() }),
        behaving(3, Behaviour { no_roles: true, ..Behaviour::default() }),
        behaving(4, Behaviour { opaque_token: true, ..Behaviour::default() }),
        spec(5, 1),
        spec(6, 1),
    ])
    .await;
    let mut text = std::fs::read_to_string(site.config()).unwrap();
    text = text.replace(
        "name = \"tenant-6\"",
        "name = \"tenant-6\"\nscope = \"https://management.azure.com/.default\"",
    );
    std::fs::write(site.config(), text).unwrap();
    site.world().script(
        id(5),
        Endpoint::Incidents,
        vec![ScriptedReply::defender(500, "InternalServerError")],
    );
    site.world().script(
        id(6),
        Endpoint::Incidents,
        vec![ScriptedReply::defender(401, "Unauthorized")],
    );
    let (code, report) = checked(&site);
    assert_eq!(code, Some(1), "{report:#}");
    let steps = ["token", "tid", "roles", "audience", "call"];
    let expected = [
        ["failure", "not_tried", "not_tried", "not_tried", "not_tried"],
        ["ok", "failure", "not_tried", "not_tried", "not_tried"],
        ["ok", "ok", "failure", "ok", "failure"],
        ["ok", "warning", "not_tried", "not_tried", "ok"],
        ["ok", "ok", "ok", "ok", "failure"],
        ["ok", "ok", "ok", "failure", "failure"],
    ];
    let row = |tenant: usize, step: &str| {
        let rows = found(&report, step).into_iter();
        rows.filter(|row| row["group"] == "tenants").nth(tenant - 1).unwrap()
    };
    for (number, expected) in (1..).zip(expected) {
        let seen = steps.map(|step| row(number, step)["result"].as_str().unwrap());
        assert_eq!(seen, expected, "tenant-{number}");
    }
    for (tenant, step, who, word) in [
        (1, "token", "customer_admin", "consent"),
        (2, "tid", "operator", "another tenant"),
        (3, "roles", "customer_admin", "Incident.Read.All"),
        (5, "call", "nobody", "retrying"),
        (6, "audience", "operator", "management.azure.com"),
    ] {
        let row = row(tenant, step);
        assert_eq!(row["who_must_act"], who, "{row:#}");
        assert!(row["advice"].as_str().unwrap().contains(word), "{word}: {row:#}");
    }
    let calls = site.world().calls(id(2));
    assert!(
        calls.iter().all(|call| call.endpoint == Endpoint::Token),
        "no call with another tenant's token"
    );
}

/// Calls of the API that were answered, and those that hang.
fn answered(site: &Installation, numbers: std::ops::RangeInclusive<u128>) -> [usize; 2] {
    let calls = numbers.flat_map(|number| site.world().calls(id(number)));
    let calls: Vec<_> = calls.filter(|call| call.endpoint == Endpoint::Incidents).collect();
    [
        calls.iter().filter(|call| call.status == 200).count(),
        calls.iter().filter(|call| call.status == 0).count(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_tenants_delay_no_other_check() {
    let hanging = |number| {
        let behaviour = Behaviour { hang: true, ..Behaviour::default() };
        TenantSpec { behaviour, ..spec(number, 0) }
    };
    // One less than are called at the same time.
    let site =
        migrated((1..=15).map(hanging).chain((16..=60).map(|number| spec(number, 0))).collect())
            .await;
    let mut doctor = Running::start(site.command(&["check"]), site.folder.path());
    until("every healthy tenant has answered", async || answered(&site, 16..=60) == [45, 0]).await;
    assert_eq!(answered(&site, 1..=15), [0, 15], "these are asked at the same time");
    assert!(doctor.is_alive(), "they are waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_pause_is_a_warning_and_is_obeyed() {
    let site = migrated(vec![spec(1, 5), spec(2, 5)]).await;
    site.run(&["sync"]).success();
    site.world().script(id(1), Endpoint::Incidents, vec![ScriptedReply::throttled(600)]);
    let (code, report) = checked(&site);
    let call = |report: &Value, tenant: &str| {
        let row = found(report, "call").into_iter().find(|row| row["about"] == tenant).unwrap();
        (row["result"].as_str().unwrap().to_owned(), row["who_must_act"].clone())
    };
    assert_eq!(call(&report, "tenant-1"), ("warning".to_owned(), json!("nobody")), "{report:#}");
    assert_eq!((code, call(&report, "tenant-2").0.as_str()), (Some(0), "ok"));
    site.world().clear_calls(id(1));
    let (code, report) = checked(&site);
    assert_eq!(
        (code, call(&report, "tenant-1")),
        (Some(0), ("not_tried".to_owned(), json!("nobody"))),
        "{report:#}"
    );
    assert_eq!(answered(&site, 1..=1), [0, 0]);
    assert!(
        site.world().calls(id(1)).iter().all(|call| call.endpoint == Endpoint::Token),
        "the pause is obeyed"
    );
    let (embedded, pool) = site.open_database().await;
    let paused = "SELECT count(*) FROM defender.sync_state WHERE no_calls_before > now() + interval '5 minutes'";
    assert_eq!(number(&pool, paused).await, 1);
    pool.close().await;
    embedded.stop().await;
    // Entra throttles the application: later tenants are not tried.
    let throttled = ScriptedReply::Status { code: 429, body: "{}".to_owned(), headers: Vec::new() };
    site.world().script(id(1), Endpoint::Token, vec![throttled.clone()]);
    site.world().script(id(2), Endpoint::Token, vec![throttled]);
    let (code, report) = checked(&site);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(
        found(&report, "token")
            .iter()
            .all(|row| row["result"] != "ok" && row["result"] != "failure")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_page_costs_few_calls() {
    let site = migrated(vec![spec(1, 0), spec(2, 0)]).await;
    let large = format!("{{\"value\":[]{}}}", " ".repeat(5 * 1024 * 1024));
    for number in 1..=2 {
        site.world().script(
            id(number),
            Endpoint::Incidents,
            vec![ScriptedReply::Body(large.clone()); 2],
        );
    }
    let (code, report) = checked(&site);
    assert_eq!(code, Some(0), "{report:#}");
    // Only a page that meets another large one in memory is requested again.
    let [served, failed] = answered(&site, 1..=2);
    assert!((2..=3).contains(&served) && failed == 0, "{served} served, {failed} failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_credential_failure_is_one_row_few_calls() {
    let site = migrated((1..=100).map(|number| spec(number, 0)).collect()).await;
    site.world().expire_client_secret("canary5f2d77c0-other");
    let table: Done = site.run(&["check"]);
    assert_eq!(table.code(), Some(1), "{}", table.stderr);
    let asked: usize = (1..=100).map(|number| site.world().calls(id(number)).len()).sum();
    assert!(asked <= 3, "{asked} requests");
    let failures = table.stdout.lines().filter(|line| line.contains("FAILURE")).count();
    assert_eq!(failures, 1, "{}", table.stdout);
    assert!(
        (1..=100).all(|number| table.stdout.contains(&format!("tenant-{number}"))),
        "{}",
        table.stdout
    );
    assert!(
        table.stdout.contains("100 in all") && table.stdout.contains("has expired"),
        "{}",
        table.stdout
    );
    let report = checked(&site).1;
    let advice: std::collections::BTreeSet<_> =
        found(&report, "token").iter().map(|row| row["advice"].as_str()).collect();
    assert_eq!((advice.len(), found(&report, "token").len()), (1, 100), "{advice:?}");
}

/// A command of the user that the service runs as, which is not root.
fn as_service(site: &Installation, arguments: &[&str]) -> Done {
    let mut command = site.command(arguments);
    if nix::unistd::geteuid().is_root() {
        command.uid(65_534);
    }
    Running::start(command, site.folder.path()).ends()
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_file_is_reported_with_chmod() {
    let site = Installation::with(vec![]).await;
    let customers = site.path("tenants.d");
    let file = customers.join("contoso.toml");
    std::fs::create_dir(&customers).unwrap();
    std::fs::write(&file, format!("id = \"{}\"\nname = \"contoso\"\n", id(1))).unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = {customers:?}\n{text}")).unwrap();
    std::fs::remove_file(site.path("secret")).unwrap();
    for (closed, mode, cure) in [
        (&file, 0o644, format!("chmod go+r {}", file.display())),
        (&customers, 0o755, format!("chmod go+rx {}", customers.display())),
    ] {
        std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o0)).unwrap();
        let done = as_service(&site, &["config", "check"]);
        assert!(done.code() == Some(2) && done.stderr.contains(&cure), "{cure}: {}", done.stderr);
        assert!(!done.stderr.contains("create the directory"), "{}", done.stderr);
        std::fs::set_permissions(closed, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_or_writable_config_is_a_finding() {
    let site = migrated(vec![spec(1, 1)]).await;
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let customers = site.path("tenants.d");
    std::fs::create_dir(&customers).unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = {customers:?}\n{text}")).unwrap();
    let report = checked(&site).1;
    assert_eq!((result(&report, "permissions"), found(&report, "readable").len()), ("ok", 0));
    write_secret(&customers.join("key"), b"a key");
    open(&customers, 0o750);
    if nix::unistd::geteuid().is_root() {
        let cure = format!("chmod go+rX {}", customers.display());
        assert_finding(&checked(&site).1, "readable", "warning", "operator", &[&cure]);
    }
    std::fs::remove_file(customers.join("key")).unwrap();
    open(&customers, 0o777);
    let cure = format!("chmod go-w {}", customers.display());
    assert_finding(&checked(&site).1, "file", "failure", "operator", &["tenants_dir", &cure]);
    open(&customers, 0o1777);
    open(&site.config(), 0o666);
    let cure = format!("chmod go-w {}", site.config().display());
    assert_finding(&checked(&site).1, "permissions", "warning", "operator", &[&cure]);
    std::fs::write(customers.join("bad.toml"), "id = 1\n").unwrap();
    let (code, report) = checked(&site);
    let of_bad =
        found(&report, "file").into_iter().filter(|row| row["result"] == "failure").count();
    assert_eq!(
        (code, of_bad, result(&report, "token")),
        (Some(1), 2, "ok"),
        "the others are looked at: {report:#}"
    );
    std::fs::remove_file(customers.join("bad.toml")).unwrap();
    open(&site.path("secret"), 0o644);
    let (code, report) = checked(&site);
    assert_eq!(code, Some(2));
    assert_finding(&report, "file", "failure", "operator", &["client_secret_file", "chmod"]);
    for check in ["dns", "server", "token"] {
        assert_eq!(result(&report, check), "not_tried");
    }
}
