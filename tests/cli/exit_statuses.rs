//! The exit status of each command in each situation, as one table.

use std::fmt::Write as _;

use simulator::{Behaviour, TenantSpec};

use crate::support::golden::assert_golden;
use crate::support::installation::{Installation, Settings, spec};

const COMMANDS: [&str; 21] = [
    "run",
    "sync",
    "status",
    "verify",
    "retry-rejected",
    "check",
    "health --address 127.0.0.1:1",
    "migrate",
    "grant-reader analyst --all-tenants",
    "config check",
    "config show",
    "tenant list",
    "tenant park tenant-1",
    "tenant resume tenant-1",
    "tenant purge tenant-1 --yes",
    "tenant erase-person tenant-1 --upn ann@example.com",
    "tenant export tenant-1 --to EXPORT",
    "tenant import EXPORT",
    "consent-url",
    "completions bash",
    "man MAN",
];
/// They do not end, or make the database that the others miss.
const NOT_RUN: [(&str, &str); 6] = [
    ("no database yet", "run"),
    ("no database yet", "sync"),
    ("no database yet", "migrate"),
    ("no server", "run"),
    ("a tenant fails", "run"),
    ("all is well", "run"),
];

/// The statuses of all commands, in their order.
fn statuses(site: &Installation, situation: &str, more: &[&str]) -> Vec<String> {
    let status = |command: &&str| {
        if NOT_RUN.contains(&(situation, command)) {
            return "-".to_owned();
        }
        let path = |word: &str| match word {
            "EXPORT" | "MAN" => site.path(word).display().to_string(),
            _ => word.to_owned(),
        };
        let arguments: Vec<String> = command.split(' ').map(path).collect();
        let arguments: Vec<&str> =
            arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let done = site.run(&arguments);
        assert!(!done.stderr.contains("panicked"), "{command}: {}", done.stderr);
        done.code().unwrap().to_string()
    };
    COMMANDS.iter().map(status).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_statuses_of_commands_match_snapshot() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let parked = TenantSpec { behaviour: without_consent, ..spec(2, 5) };
    let site = Installation::with(vec![spec(1, 3), parked]).await;
    let usage = statuses(&site, "usage", &["--frobnicate"]);
    let missing = statuses(&site, "no database yet", &[]);
    let configure = |database: String, tenants: &[u128], more: &str| {
        let (tenants, more) = (tenants.to_vec(), more.to_owned());
        site.configure(&Settings { database, tenants, more, ..site.settings() });
    };
    configure(site.settings().database, &[1], "[sink]\n");
    let refused = statuses(&site, "configuration", &[]);
    configure("url = \"postgres://nobody@127.0.0.1:1/none\"".to_owned(), &[1], "");
    let no_server = statuses(&site, "no server", &[]);
    let (embedded, pool) = site.open_database().await;
    configure(site.shared_database(), &[1, 2], "");
    site.run(&["migrate"]).success();
    let failing = statuses(&site, "a tenant fails", &[]);
    configure(site.shared_database(), &[1], "");
    std::fs::remove_dir_all(site.path("EXPORT")).unwrap();
    let well = statuses(&site, "all is well", &[]);
    pool.close().await;
    embedded.stop().await;

    let situations =
        ["usage", "configuration", "no database", "no server", "tenant fails", "all is well"];
    let columns = [usage, refused, missing, no_server, failing, well];
    let mut table = format!("{:52}", "");
    situations.iter().for_each(|situation| write!(table, "{situation:15}").unwrap());
    for (number, command) in COMMANDS.iter().enumerate() {
        write!(table, "\n{command:52}").unwrap();
        columns.iter().for_each(|column| write!(table, "{:15}", column[number]).unwrap());
    }
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    assert_golden("text", "exit_statuses", &lines.join("\n"));
}
