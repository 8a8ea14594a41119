//! The sample configuration and the defaults.

use super::*;
use crate::config::state_dir::state_dir_of;

#[test]
fn sample_as_shipped_is_valid_without_tenants() {
    let config = Etc::with(SAMPLE).file("tenants.d/README", "not a tenant").good();
    assert!(config.tenants.is_empty() && config.warnings.is_empty());
}

#[test]
fn sample_with_every_setting_shows_defaults() {
    let is_setting = |line: &str| {
        line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
    };
    let lines: Vec<&str> =
        SAMPLE.lines().map(|line| if is_setting(line) { &line[1..] } else { line }).collect();
    let etc = Etc::with(&lines.join("\n"))
        .file("postgres-ca.pem", "")
        .file("tenants.d/readme.md", "not a tenant");
    etc.secret("database-password", "x");
    let all = etc.good();
    let defaults = Etc::with("").good();
    assert_eq!(all.warnings, Vec::<String>::new());
    assert_eq!(
        (all.schedule, all.sync, all.http),
        (defaults.schedule, defaults.sync, defaults.http)
    );
    assert_eq!(all.database.max_connections, defaults.database.max_connections);
    assert_eq!(all.tenants[0].name, "Contoso");

    let plain = Etc::with(&format!("{APP}{CONTOSO}")).good();
    assert_eq!(all.tenants[0].endpoints, plain.tenants[0].endpoints);
}

#[test]
fn empty_file_gives_defaults_without_tenants() {
    let config = Etc::with("").set("STATE_DIRECTORY", "/run/a:/run/b").good();
    assert_eq!(config.sync.lookback, 180 * DAY);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9464");
    let DatabaseServer::Embedded(settings) = &config.database.server else {
        panic!("{:?}", config.database)
    };
    assert_eq!(settings.dir, Path::new("/run/a/postgres"));
}

#[test]
fn state_dir_follows_system_variables() {
    let of = |variables: &[(&str, &str)], is_root| {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        state_dir_of(&variables, is_root).display().to_string()
    };
    assert_eq!(of(&[("STATE_DIRECTORY", "/a:/b")], true), "/a");
    assert_eq!(of(&[("HOME", "/root")], true), "/var/lib/incident-sync");
    assert_eq!(of(&[("HOME", "/home/me"), ("XDG_STATE_HOME", "/s")], false), "/s/incident-sync");
    assert_eq!(of(&[("HOME", "/home/me")], false), "/home/me/.local/state/incident-sync");
}
