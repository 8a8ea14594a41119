//! Every `--json` document and what each command prints for people, as snapshots: of one installation with tenants in each
//! state.

use simulator::{Behaviour, TenantSpec};
use sqlx::PgPool;

use crate::support::golden::assert_golden;
use crate::support::installation::{Installation, Running, Settings, write_secret};
use crate::support::redact::{redact, replace};
use crate::support::tenants::{id, spec};

const DISABLED: &str =
    "enabled = false\nlabels = { tier = \"gold\", internal = { margin = \"low\" } }\n";

/// Healthy, without consent, with a gap, with a quarantined incident, disabled.
async fn site() -> Installation {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let parked = TenantSpec { behaviour: without_consent, ..spec(2, 5) };
    let site = Installation::with(vec![spec(1, 40), parked, spec(3, 130), spec(4, 5)]).await;
    site.world().poison(id(3), 40);
    let updated = site.world().now() - chrono::TimeDelta::days(1);
    let time = updated.format("%Y-%m-%dT%H:%M:%SZ");
    let raw = format!(r#"{{"incidentId":"no number","lastUpdateTime":"{time}"}}"#);
    site.world().add_raw(id(4), 5_000, updated, &raw);
    site.configure(&settings(&site));
    site
}

fn settings(site: &Installation) -> Settings {
    let more = format!("[[tenants]]\nid = \"{}\"\nname = \"tenant-5\"\n{DISABLED}", id(5));
    Settings { tenants: vec![1, 2, 3, 4], more, ..site.settings() }
}

/// The server's version, the seconds, and how many calls the search for a gap took depend on the machine and the time.
fn steady(site: &Installation, text: &str) -> String {
    let text = redact(text, site.folder.path());
    let text = replace(&text, r#""PostgreSQL \d[^"]*""#, "\"PostgreSQL x.y\"");
    // It may need a second line.
    let version = r"(database +┆ version +┆ ok +┆ +┆[^┆]+┆ )[^│]+│\n(│( +┆){4}[^┆]+┆ )[^│]+│\n";
    let row = format!("${{1}}{:43}│\n${{2}}{:43}│\n", "PostgreSQL x.y", "");
    let text = replace(&text, version, &row);
    let text = replace(&text, "parked by [^ :\"]+", "parked by [user]");
    let text = replace(&text, r#"("api_calls": )\d\d+"#, "${1}[many]");
    let text = replace(&text, r#"("incidents_seen": )\d{3}"#, "${1}[many]");
    let text = replace(&text, r"(tenant-3 ┆ ok +┆) \d+ +┆ \d{3} +┆", "${1} n     ┆ nnn       ┆");
    replace(&text, r"┆ \d+\.\d +┆", "┆ s.s     ┆")
}

/// The document of a command, and its exit status.
fn document(site: &Installation, name: &str, arguments: &[&str]) {
    let done = site.run(&[arguments, &["--json"]].concat());
    done.json();
    let text = format!("exit status {}\n{}", done.code().unwrap(), done.stdout);
    assert_golden("json", name, &steady(site, &text));
}

/// What the command prints without `--json`; the log is left out.
fn text(site: &Installation, name: &str, arguments: &[&str]) {
    let mut command = site.command(arguments);
    command.env("RUST_LOG", "off");
    let done = Running::start(command, site.folder.path()).ends();
    let code = done.code().unwrap();
    let text = format!(
        "exit status {code}\n--- standard output\n{}--- standard error\n{}",
        done.stdout, done.stderr
    );
    assert_golden("text", name, &steady(site, &text));
}

/// Both forms of a command that changes nothing.
fn both(site: &Installation, name: &str, arguments: &[&str]) {
    document(site, name, arguments);
    text(site, name, arguments);
}

/// Ages that do not change while the test runs.
async fn make_ages_steady(pool: &PgPool) {
    let statement = "UPDATE defender.sync_state SET last_success_at = now() - interval '2 hours 3 minutes 15 seconds'
        WHERE last_success_at IS NOT NULL";
    sqlx::query(statement).execute(pool).await.unwrap();
}

/// People whom the first tenant's evidence names.
async fn people(pool: &PgPool) -> Vec<String> {
    let query = "SELECT user_principal_name FROM defender.evidence
        WHERE tenant_id = $1 AND user_principal_name IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 2";
    sqlx::query_scalar(query).bind(id(1)).fetch_all(pool).await.unwrap()
}

/// Commands that change something are run once for each form.
fn changes(site: &Installation, people: &[String]) {
    let park = ["tenant", "park", "tenant-1", "--reason", "under repair"];
    for (number, print) in [document, text].into_iter().enumerate() {
        let role = format!("analyst_{number}");
        print(site, "grant_reader", &["grant-reader", &role, "--tenant", "tenant-1"]);
        print(site, "grant_reader_again", &["grant-reader", &role, "--tenant", "tenant-3"]);
        print(
            site,
            "grant_reader_all",
            &["grant-reader", &format!("all_{number}"), "--all-tenants"],
        );
        print(site, "tenant_park", &park);
        print(site, "sync_skipped", &["sync", "--tenant", "tenant-1"]);
        print(site, "tenant_resume", &["tenant", "resume", "tenant-1"]);
        let erase = ["tenant", "erase-person", "tenant-1", "--upn", &people[number]];
        print(site, "tenant_erase_person_dry_run", &[&erase[..], &["--dry-run"]].concat());
        print(site, "tenant_erase_person", &erase);
    }
    site.run(&park).success();
    document(site, "status_parked_by_person", &["status"]);
    site.run(&["tenant", "resume", "tenant-1"]).success();
    text(site, "tenant_resume_again", &["tenant", "resume", "tenant-1"]);
}

fn refused_configuration(site: &Installation) {
    let more = "[sink]\n[[tenants]]\nid = \"x\"\nname = \"\"\n".to_owned();
    site.configure(&Settings { poll: "every minute", tenants: vec![1], more, ..site.settings() });
    both(site, "config_check_refused", &["config", "check"]);
    both(site, "check_refused", &["check"]);
}

/// The data of a tenant that is disabled meanwhile leaves and comes back.
fn transfer(site: &Installation, database: String) {
    let more = format!("[[tenants]]\nid = \"{}\"\nname = \"tenant-4\"\n{DISABLED}", id(4));
    site.configure(&Settings { database, tenants: vec![1, 2, 3], more, ..site.settings() });
    site.run(&["sync", "--tenant", "tenant-1"]).success();
    for (number, print) in [document, text].into_iter().enumerate() {
        let folder = site.path(&format!("export-{number}")).display().to_string();
        print(site, "tenant_export", &["tenant", "export", "tenant-4", "--to", &folder]);
        print(site, "tenant_purge", &["tenant", "purge", "tenant-4", "--yes"]);
        print(site, "tenant_import", &["tenant", "import", &folder]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_tables_match_snapshots() {
    let site = site().await;
    text(&site, "status_without_database", &["status"]);
    text(&site, "tenant_unknown", &["sync", "--tenant", "tenant-9"]);
    text(&site, "time_unreadable", &["verify", "--since", "yesterday"]);
    both(&site, "migrate", &["migrate"]);
    both(&site, "check", &["check"]);
    // The rest asks a server that runs already, which is quicker.
    let (embedded, pool) = site.open_database().await;
    let database = site.shared_database();
    site.configure(&Settings { database: database.clone(), ..settings(&site) });
    both(&site, "status_before", &["status"]);
    both(&site, "verify_before", &["verify", "--tenant", "tenant-1"]);
    document(&site, "sync", &["sync"]);
    text(&site, "sync", &["sync", "--full"]);
    make_ages_steady(&pool).await;
    for (name, arguments) in [
        ("status", &["status"][..]),
        ("verify", &["verify"]),
        ("retry_rejected", &["retry-rejected"]),
        ("tenant_list", &["tenant", "list"]),
        ("config_check", &["config", "check"]),
        ("consent_url", &["consent-url", "--tenant", "tenant-2"]),
    ] {
        both(&site, name, arguments);
    }
    changes(&site, &people(&pool).await);
    transfer(&site, database);
    pool.close().await;
    embedded.stop().await;
    refused_configuration(&site);
}

const CONFIGURATION: &str = r#"
tenants_dir = "tenants.d"
[database]
url = "postgres://incident_sync@db.example.com/incidents"
password_file = "secret-database"
[app]
client_id = "cccc0000-0000-4000-8000-000000000001"
client_secret_file = "secret"
client_secret_expires = 2099-01-31
[http_client]
proxy = "http://user@proxy.example.com:3128"
proxy_password_file = "secret-proxy"
[retention]
incidents = "400d"
[[tenants]]
id = "aaaa0000-0000-4000-8000-000000000001"
name = "Contoso"
labels = { tier = "gold" }
[[tenants]]
id = "aaaa0000-0000-4000-8000-000000000002"
name = "Fabrikam"
cloud = "gcc-high"
enabled = false
client_id = "cccc0000-0000-4000-8000-000000000002"
client_secret_file = "secret-fabrikam"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn effective_configuration_matches_snapshots() {
    let site = Installation::with(vec![]).await;
    std::fs::write(site.config(), CONFIGURATION).unwrap();
    for secret in ["secret-database", "secret-proxy", "secret-fabrikam"] {
        write_secret(&site.path(secret), b"Qx8~canary5f2d77c0.~");
    }
    std::fs::create_dir(site.path("tenants.d")).unwrap();
    let tenant = format!("id = \"{}\"\nname = \"Northwind\"\nretention = \"500d\"\n", id(3));
    std::fs::write(site.path("tenants.d/northwind.toml"), tenant).unwrap();
    both(&site, "config_show", &["config", "show"]);
    both(&site, "config_check_valid", &["config", "check"]);
    both(&site, "tenant_list_of_clouds", &["tenant", "list"]);
}
