//! The configuration: one TOML file, optionally one file for each tenant, overridden by the environment.
//!
//! A load reports all errors together, each with file, key and fix. No other module reads the environment.

mod credentials;
pub mod cron;
mod database;
mod environment;
mod errors;
mod http;
mod http_client;
mod load;
mod retention;
mod schedule;
mod secrets;
mod section;
mod state_dir;
mod sync;
mod tenant_source;
mod tenants;
mod tenants_dir;
#[cfg(test)]
mod tests;
mod toml_file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::{Map, Value};
use uuid::Uuid;

pub use database::{Database, DatabaseServer, DatabaseUrl};
pub use errors::{ConfigError, ConfigErrors};
pub use http::Http;
pub use schedule::Schedule;
pub use secrets::Purpose;
pub use section::Setting;
pub use state_dir::state_dir;
pub use sync::{CallLimits, Sync};
pub use tenant_source::{own_addresses, with_source};
pub use tenants::OnboardingDefaults;
pub(crate) use tenants::is_printable_name;
pub use tenants_dir::{Fingerprint, TenantsDir};

use crate::entra::Tenant;
use crate::http_client::Route;
use environment::process_environment;
use load::{listen_with, load_with};
use toml_file::find_file;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The validated content of the main file, `tenants_dir` and the environment.
#[derive(Debug)]
pub struct Config {
    /// The main file; `None` for the built-in defaults.
    pub file: Option<PathBuf>,
    /// `[database]`
    pub database: Database,
    /// `[schedule]`
    pub schedule: Schedule,
    /// `[sync]`
    pub sync: Sync,
    /// `[http]`
    pub http: Http,
    /// `[http_client]`
    pub http_client: Route,
    /// The content of the main file.
    pub main: MainFile,
    /// The tenants of the main file and of `tenants_dir`, disabled ones included.
    pub tenants: Vec<Arc<Tenant>>,
    /// `tenants_dir`, and which tenant each of its files is.
    pub tenants_dir: Option<TenantsDir>,
    /// The errors of invalid files in `tenants_dir`, which were left out.
    pub tenants_dir_errors: Vec<ConfigError>,
    /// Settings of tenants that are not configured yet.
    pub onboarding: OnboardingDefaults,
    /// The effective value of each key that is set or has a default.
    pub settings: Vec<Setting>,
    /// What works but should be changed, as sentences for the log.
    pub warnings: Vec<String>,
}

impl Config {
    /// The tenant of this name or id.
    pub fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        let id = name.parse::<Uuid>().ok();
        self.tenants.iter().find(|tenant| tenant.name == name || Some(tenant.id.0) == id)
    }
}

/// The content of a valid main file. It may contain secrets.
#[derive(Clone)]
pub struct MainFile(Map<String, Value>);

impl MainFile {
    /// What differs and is not applied by a reload.
    pub fn keys_for_restart(&self, before: &Self) -> Vec<String> {
        let sections = ["database", "http", "http_client"].into_iter();
        let changed = sections.filter(|section| self.0.get(*section) != before.0.get(*section));
        let limits = [
            "calls_per_minute",
            "calls_per_hour",
            "graph_calls_per_minute",
            "graph_calls_per_hour",
        ];
        let limit = |main: &Self, key: &str| {
            main.0.get("sync").and_then(|sync| sync.clone().into_table().ok()?.remove(key))
        };
        let limits = limits.into_iter().filter(|key| limit(self, key) != limit(before, key));
        changed
            .map(|section| format!("[{section}]"))
            .chain(limits.map(|key| format!("sync.{key}")))
            .collect()
    }
}

impl std::fmt::Debug for MainFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MainFile")
    }
}

/// Loads and validates everything. `file` is the one of the command line; without it `$INCIDENT_SYNC_CONFIG` applies, then
/// the file in `/etc` if it exists, then the defaults.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigErrors> {
    load_with(file, None, &process_environment())
}

/// Like [`load()`], for a command that does not run the service.
pub fn load_for(purpose: Purpose, file: Option<&Path>) -> Result<Config, ConfigErrors> {
    load::load_for(purpose, file, None, &process_environment())
}

/// Loads the current files of `tenants_dir` and of secrets with a main file that was read earlier: a change of `tenants_dir`
/// must not activate an edit of the main file that no reload has requested.
pub fn load_beside(file: Option<&Path>, main: &MainFile) -> Result<Config, ConfigErrors> {
    load_with(file, Some(main), &process_environment())
}

/// Like [`load()`], in a thread for blocking calls: files may hang, as on an unreachable file server.
///
/// # Panics
/// When a load panics.
pub async fn load_apart(file: Option<PathBuf>) -> Result<Config, ConfigErrors> {
    let load = tokio::task::spawn_blocking(move || load(file.as_deref()));
    load.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// The file that [`load()`] reads.
pub fn file(named: Option<&Path>) -> Option<PathBuf> {
    find_file(named, &process_environment())
}

/// `http.listen` alone, as far as it is readable: `health` must reach a running daemon also when the rest of the file is
/// invalid.
pub fn listen(file: Option<&Path>) -> SocketAddr {
    listen_with(file, &process_environment())
}
