//! A load of all files with the environment.

use std::net::SocketAddr;
use std::path::Path;

use config::Map;
use nix::unistd::geteuid;

use super::environment::{self, Variables};
use super::errors::{ConfigError, ConfigErrors};
use super::secrets::{Purpose, SecretFiles};
use super::section::{Report, Section};
use super::state_dir::state_dir_of;
use super::tenants::{self, TenantsSection};
use super::toml_file::{find_file, parse_file};
use super::{Config, MainFile, database, http, http_client, retention, schedule, sync};

pub(super) fn load_with(
    file: Option<&Path>,
    main: Option<&MainFile>,
    environment: &Variables,
) -> Result<Config, ConfigErrors> {
    load_for(Purpose::Run, file, main, environment)
}

/// Loads until the rest is valid without the invalid files of `tenants_dir`: one invalid file must not stop the service for
/// all other tenants.
pub(super) fn load_for(
    purpose: Purpose,
    file: Option<&Path>,
    main: Option<&MainFile>,
    environment: &Variables,
) -> Result<Config, ConfigErrors> {
    let mut rejected = Vec::new();
    loop {
        let mut report = Report::default();
        let config = read(purpose, file, main, environment, &rejected, &mut report);
        let dir = report.tenants_dir.clone();
        if let (Some(config), true) = (config, report.is_clean()) {
            return Ok(Config {
                tenants_dir_errors: rejected,
                warnings: report.warnings,
                settings: report.settings,
                ..config
            });
        }
        let errors = report.into_errors().0;
        let can_leave_out = |error: &ConfigError| {
            let is_in_dir =
                dir.as_deref().is_some_and(|dir| Path::new(&error.file).parent() == Some(dir));
            // The main file may be in that directory too. It is not left out, so its errors return.
            let was_left_out =
                rejected.iter().any(|earlier: &ConfigError| earlier.file == error.file);
            is_in_dir && !was_left_out
        };
        let is_retried = errors.iter().all(can_leave_out);
        rejected.extend(errors);
        if !is_retried {
            return Err(ConfigErrors(rejected));
        }
    }
}

/// Reads everything but the rejected files of `tenants_dir`.
fn read(
    purpose: Purpose,
    file: Option<&Path>,
    main: Option<&MainFile>,
    environment: &Variables,
    rejected: &[ConfigError],
    report: &mut Report,
) -> Option<Config> {
    let file = find_file(file, environment);
    let parsed = match (main, file.as_deref()) {
        (Some(MainFile(tree)), _) => Ok(tree.clone()),
        (None, Some(file)) => parse_file(file),
        (None, None) => Ok(Map::new()),
    };
    let mut tree = parsed.map_err(|error| report.error(error)).ok()?;
    let main = MainFile(tree.clone());
    for error in environment::overlay(&mut tree, environment) {
        report.error(error);
    }
    let label = file
        .as_ref()
        .map_or_else(|| "built-in defaults".to_owned(), |file| file.display().to_string());
    let mut root = Section::new(&label, "", "", tree);
    let folder = file
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/etc/incident-sync"))
        .to_owned();
    let is_root = geteuid().is_root();
    let state_dir = state_dir_of(environment, is_root);
    let secrets = SecretFiles::new(folder, environment, &state_dir, is_root, purpose);

    let database = database::read(root.table("database"), &state_dir, &secrets, report);
    let schedule = schedule::read(root.table("schedule"), report);
    let sync = sync::read(root.table("sync"), report);
    let http = http::read(root.table("http"), report);
    let http_client = http_client::read(root.table("http_client"), &secrets, report);
    let retention = retention::read(root.table("retention"), &sync, report);
    let TenantsSection { tenants, dir: tenants_dir, onboarding } =
        tenants::read(&mut root, &secrets, retention, rejected, report);
    report.close(root);
    Some(Config {
        file,
        database,
        schedule,
        sync,
        http,
        http_client,
        main,
        tenants,
        tenants_dir,
        tenants_dir_errors: Vec::new(),
        onboarding,
        settings: Vec::new(),
        warnings: Vec::new(),
    })
}

pub(super) fn listen_with(file: Option<&Path>, environment: &Variables) -> SocketAddr {
    let file = find_file(file, environment);
    let mut tree = file.and_then(|file| parse_file(&file).ok()).unwrap_or_default();
    environment::overlay(&mut tree, environment);
    http::read(Section::new("", "", "", tree).table("http"), &mut Report::default()).listen
}
