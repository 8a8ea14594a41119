//! `status` as an operator in trouble reads it: at 80 and at 120 columns, filtered, as a spreadsheet, and refreshed.

use nix::sys::signal::Signal;
use simulator::{Behaviour, TenantSpec};

use crate::support::golden::assert_golden;
use crate::support::installation::{
    Installation, Running, Settings, id, spec, until, write_secret,
};
use crate::support::redact::{redact, replace};

/// Standard output at a width, without what differs from run to run.
fn shown(site: &Installation, width: &str, arguments: &[&str]) -> String {
    let mut command = site.command(arguments);
    command.env("COLUMNS", width).env("RUST_LOG", "off");
    let done = Running::start(command, site.folder.path()).ends();
    let widest = done.stdout.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    assert!(widest <= width.parse().unwrap(), "{widest} columns:\n{}", done.stdout);
    let text = format!("exit status {}\n{}{}", done.code().unwrap(), done.stdout, done.stderr);
    let text =
        replace(&text, r"\d+ tenants? uses? the\s[^.]*\.\s[^.]*\.md\n", "[retirement notice]\n");
    let text = replace(&text, r"data as of: \d+s ago", "data as of: [age] ago");
    let text = replace(&text, r"┆ \d+s ago +┆", "┆ [age] ago  ┆");
    redact(&text, site.folder.path())
}

fn assert_status(site: &Installation, name: &str) {
    for width in ["80", "120"] {
        assert_golden("status", &format!("{name}_{width}"), &shown(site, width, &["status"]));
    }
}

fn without_consent() -> Behaviour {
    Behaviour { consent_missing: true, ..Behaviour::default() }
}

/// Of a server that runs already, which is quicker.
async fn site_of(specs: Vec<TenantSpec>) -> (Installation, incident_sync::postgres::Embedded) {
    let count = specs.len();
    let site = Installation::with(specs).await;
    let (embedded, pool) = site.open_database().await;
    pool.close().await;
    let tenants = (1..=u128::try_from(count).unwrap()).collect();
    site.configure(&Settings { database: site.shared_database(), tenants, ..site.settings() });
    (site, embedded)
}

#[tokio::test(flavor = "multi_thread")]
async fn status_groups_tenants_by_problem() {
    let (site, embedded) = site_of((1..=3).map(|number| spec(number, 5)).collect()).await;
    site.run(&["sync"]).success();
    assert_status(&site, "all_well");

    site.world().set_behaviour(id(2), without_consent());
    assert_eq!(site.run(&["sync"]).code(), Some(1));
    assert_status(&site, "one_customer");
    assert_golden("status", "one_customer_all", &shown(&site, "80", &["status", "--all"]));
    let healthy = site.run(&["status", "--state", "ok", "--json"]);
    assert_eq!((healthy.code(), healthy.tenants().as_array().unwrap().len()), (Some(0), 2));
    let unknown = site.run(&["status", "--tenant", "tenant-7"]);
    assert!(unknown.code() == Some(2) && unknown.stderr.contains("tenant-7"), "{}", unknown.stderr);

    let sheet = site.run(&["status", "--owner", "customer_admin", "--csv"]).stdout;
    let lines: Vec<&str> = sheet.lines().collect();
    assert_eq!(lines.len(), 2, "{sheet}");
    assert!(lines[0].starts_with("tenant,tenant_id,state,owner,class,what,consent_url,"));
    let link = format!("/{}/v2.0/adminconsent?client_id=", id(2));
    assert!(lines[1].starts_with("tenant-2,") && lines[1].contains(&link), "{sheet}");
    embedded.stop().await;
    assert_golden("status", "database_away", &shown(&site, "80", &["status"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_outage_of_200_fits_a_screen() {
    let (site, embedded) = site_of((1..=200).map(|number| spec(number, 1)).collect()).await;
    write_secret(&site.path("secret"), b"not-the-secret\n");
    assert_eq!(site.run(&["sync"]).code(), Some(1));
    assert_status(&site, "credential_outage");
    let lines = shown(&site, "80", &["status"]).lines().count();
    assert!(lines <= 20, "{lines} lines");
    let listed = shown(&site, "80", &["status", "--owner", "operator"]);
    assert!(listed.matches("data as of: never").count() == 200, "{listed}");
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_status_shows_changes() {
    let (site, embedded) =
        site_of(vec![TenantSpec { behaviour: without_consent(), ..spec(1, 5) }]).await;
    site.run(&["migrate"]).success();
    let watch = Running::start(site.command(&["status", "--watch", "200ms"]), site.folder.path());
    until("the state before", async || watch.stdout().contains("1 never run")).await;
    assert_eq!(site.run(&["sync"]).code(), Some(1));
    until("the state after", async || watch.stdout().contains("1 parked")).await;
    watch.ends_on(Signal::SIGINT);
    embedded.stop().await;
}
