//! The doctor: checks everything between the configuration and a tenant's incidents and names who has to fix what.
//!
//! The probes collect facts, from which [`diagnose`] makes findings. A check whose prerequisite failed is reported as not
//! tried, not as another failure.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use crate::config::{Config, ConfigError, ConfigErrors, Database, DatabaseServer};
use crate::context::{self, OpenDatabase};
use crate::defender::DefenderClient;
use crate::entra::Tenant;
use crate::entra::TokenCache;
use crate::entra::expiry::{self, CredentialExpiry};
use crate::error::SyncError;
use crate::http_client::{self, Deadlines};
use crate::postgres::EmbeddedError;
use crate::store::inspect::{self, Inspection};
use crate::sync::progress::Progress;
use crate::tenant::TenantId;

pub mod diagnose;
pub mod network;
pub mod tenant;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// Nothing to do.
    Ok,
    /// Works, but needs attention.
    Warning,
    /// Does not work.
    Failure,
    /// An earlier step failed.
    NotTried,
}

impl CheckResult {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
            Self::NotTried => "not tried",
        }
    }
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Files and their permissions.
    Configuration,
    /// The ends of the applications' credentials.
    Credentials,
    /// The way to Microsoft.
    Network,
    /// The database.
    Database,
    /// The customers' tenants.
    Tenants,
}

impl Group {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Network => "network",
            Self::Database => "database",
            Self::Tenants => "tenants",
        }
    }
}

/// A row: what a check found. Scripts rely on these keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part.
    pub group: Group,
    /// The check; the same word in every release.
    pub check: &'static str,
    /// What was checked: a file, a host, a server, a tenant.
    pub about: String,
    /// How it ended.
    pub result: CheckResult,
    /// `None` where there is nothing to do.
    pub who_must_act: Option<&'static str>,
    /// The cause in plain words, and what to do.
    pub advice: String,
    /// The error of the component that failed.
    pub error: Option<ErrorText>,
}

/// The words of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorText {
    /// As they are.
    pub text: String,
    /// Equal for equal causes: without parts that vary, such as seconds and trace ids.
    pub cause: String,
}

impl From<String> for ErrorText {
    fn from(text: String) -> Self {
        Self { cause: text.clone(), text }
    }
}

impl From<&SyncError> for ErrorText {
    fn from(error: &SyncError) -> Self {
        let class = error.diagnosis().class.as_str();
        let cause = match error {
            SyncError::Entra { codes, status, error, .. } => codes.first().map_or_else(
                || format!("{class} {status} {error}"),
                |code| format!("{class} AADSTS{code}"),
            ),
            SyncError::CredentialBreaker { code } => format!("{class} AADSTS{code}"),
            SyncError::Api { status, code, .. } => format!("{class} {status} {code}"),
            SyncError::Transport { what, .. } => format!("{class} {what}"),
            SyncError::Database { sqlstate, .. } => format!("{class} {sqlstate:?}"),
            _ => class.to_owned(),
        };
        Self { text: error.to_string(), cause }
    }
}

impl Serialize for ErrorText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Finding {
    /// Whether it reports the same problem of another host or tenant.
    pub fn is_same_problem(&self, other: &Self) -> bool {
        let is_same_check =
            (self.group, self.check, self.result) == (other.group, other.check, other.result);
        let is_same_cause = match (&self.error, &other.error) {
            (Some(ours), Some(theirs)) => ours.cause == theirs.cause,
            (None, None) => self.advice == other.advice,
            _ => false,
        };
        is_same_check && self.who_must_act == other.who_must_act && is_same_cause
    }
}

/// All that was seen.
#[derive(Debug)]
pub struct Facts {
    /// Of the files.
    pub configuration: ConfigurationFacts,
    /// Of the credentials.
    pub expiries: Vec<CredentialExpiry>,
    /// How Microsoft is reached.
    pub egress: network::Egress,
    /// Of Microsoft's hosts.
    pub hosts: Vec<network::Host>,
    /// Of the database.
    pub database: DatabaseFacts,
    /// Of the tenants.
    pub tenants: Vec<tenant::TenantProbe>,
}

/// A configuration that is valid.
#[derive(Debug)]
pub struct ConfigurationFacts {
    /// Its name.
    pub file: String,
    /// How many tenants it names.
    pub tenants: usize,
    /// Its files that other users than their owner may write.
    pub open_to_writers: Vec<String>,
    /// Its files that only root may read, although the service runs as another user.
    pub closed_to_service: Vec<String>,
    /// What works but should not stay so.
    pub warnings: Vec<String>,
}

/// What was seen of the database.
#[derive(Debug)]
pub struct DatabaseFacts {
    /// Which one, without a password.
    pub server: String,
    /// How many addresses its name has; `None` for a socket.
    pub looked_up: Option<Result<usize, String>>,
    /// Whether it accepts connections; `None` for a socket or an unresolved name.
    pub connected: Option<Result<(), String>>,
    /// What it is; else what to do, and the error.
    pub inspection: Result<Inspection, (String, Option<ErrorText>)>,
}

/// Probes everything and diagnoses it.
pub async fn all(config: &Config, tenants: &[Arc<Tenant>], progress: &Progress) -> Vec<Finding> {
    // Without tenants, the network path is probed with the endpoints of [app].
    let placeholder = tenants.is_empty().then(|| onboarding_tenant(config)).flatten();
    let probe_tenants = placeholder.as_ref().map_or(tenants, std::slice::from_ref);
    let egress = network::egress(&config.http_client).await;
    let hosts = network::hosts(&config.http_client, &egress, probe_tenants).await;
    let opened = OpenDatabase::unchecked(&config.database).await;
    let database = probe_database(&config.database, opened.as_ref()).await;
    let has_schema =
        database.inspection.as_ref().is_ok_and(|seen| matches!(seen.schema, Some(Ok(_))));
    let client = http_client::client_on(&config.http_client, Deadlines::default());
    let (tokens, incidents) = (TokenCache::new(client.clone()), DefenderClient::new(client));
    let quota = opened
        .as_ref()
        .ok()
        .filter(|_| has_schema)
        .map(|open| (&open.store, context::quota(config)));
    let asked =
        tenant::ProbeContext { tokens: &tokens, incidents: &incidents, quota, hosts: &hosts };
    let seen = probe_all_tenants(tenants, &asked, config.sync.concurrency, progress).await;
    if let Ok(opened) = opened {
        opened.close().await;
    }
    let (configuration, expiries) =
        (inspect_configuration(config), expiry::expiries(probe_tenants).await);
    let facts = Facts { configuration, expiries, egress, hosts, database, tenants: seen };
    // Files of tenants_dir that were left out.
    config
        .tenants_dir_errors
        .iter()
        .map(refusal)
        .chain(diagnose::diagnose(&facts, expiry::now()))
        .collect()
}

/// A placeholder for the tenants that `[app]` will read.
fn onboarding_tenant(config: &Config) -> Option<Arc<Tenant>> {
    let app = config.onboarding.app.clone()?;
    Some(Arc::new(Tenant::with_defaults(
        TenantId(Uuid::nil()),
        "[app]",
        config.onboarding.endpoints(None),
        app,
    )))
}

/// The checks before a customer consents: the application's credential, the proxy and the hosts.
pub async fn connectivity(config: &Config, tenant: &Arc<Tenant>) -> Vec<Finding> {
    let tenants = std::slice::from_ref(tenant);
    let egress = network::egress(&config.http_client).await;
    let hosts = network::hosts(&config.http_client, &egress, tenants).await;
    diagnose::connectivity(&expiry::expiries(tenants).await, &egress, &hosts, expiry::now())
}

/// In the order of the configuration.
async fn probe_all_tenants(
    tenants: &[Arc<Tenant>],
    asked: &tenant::ProbeContext<'_>,
    concurrency: usize,
    progress: &Progress,
) -> Vec<tenant::TenantProbe> {
    let looks = tenants.iter().enumerate().map(|(place, each)| async move {
        let line = progress.tenant(&each.name);
        let seen = tenant::probe(each, asked, &line).await;
        line.finished();
        (place, seen)
    });
    // Boxed, or the compiler cannot see through the closures that all of this is Send.
    let looks = futures::stream::iter(looks).map(Box::pin);
    let mut seen: Vec<_> = looks.buffer_unordered(concurrency).collect().await;
    seen.sort_unstable_by_key(|(place, _)| *place);
    seen.into_iter().map(|(_, seen)| seen).collect()
}

/// The findings for an invalid configuration.
pub fn of_refused(errors: &ConfigErrors) -> Vec<Finding> {
    let rest = [(Group::Network, "dns"), (Group::Database, "server"), (Group::Tenants, "token")];
    let rest = rest.map(|(group, check)| Finding {
        group,
        check,
        about: String::new(),
        result: CheckResult::NotTried,
        who_must_act: None,
        advice: "the configuration is invalid".to_owned(),
        error: None,
    });
    errors.0.iter().map(refusal).chain(rest).collect()
}

fn refusal(error: &ConfigError) -> Finding {
    Finding {
        group: Group::Configuration,
        check: "file",
        about: error.file.clone(),
        result: CheckResult::Failure,
        who_must_act: Some("operator"),
        advice: if error.key.is_empty() {
            error.problem.clone()
        } else {
            format!("{}: {}", error.key, error.problem)
        },
        error: None,
    }
}

fn inspect_configuration(config: &Config) -> ConfigurationFacts {
    let file = config.file.as_deref();
    let dir = config.onboarding.dir.as_deref();
    let in_dir = dir
        .and_then(|dir| dir.read_dir().ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let paths = [file, file.and_then(Path::parent), dir]
        .into_iter()
        .flatten()
        .map(Path::to_owned)
        .chain(in_dir);
    let paths: Vec<PathBuf> = paths.collect();
    let those = |is_so: fn(&Path) -> bool| {
        paths.iter().filter(|path| is_so(path)).map(|path| path.display().to_string()).collect()
    };
    ConfigurationFacts {
        file: file
            .map_or_else(|| "built-in defaults".to_owned(), |file| file.display().to_string()),
        tenants: config.tenants.len(),
        open_to_writers: those(is_open_to_writers),
        closed_to_service: those(is_closed_to_service),
        warnings: config.warnings.clone(),
    }
}

/// Whether others than its owner may write a file, or put another one in its place.
fn is_open_to_writers(path: &Path) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode());
    mode & OTHERS_WRITE != 0 && mode & STICKY == 0
}

/// Whether only root may read a file or enter a directory. systemd allocates the user of the unit at its start, so no file
/// can be owned by it; an owner or group other than root may be that of another kind of service.
pub fn is_for_root_alone(path: &Path) -> bool {
    let Ok(about) = path.metadata() else { return false };
    let needed = if about.is_dir() { 0o5 } else { 0o4 };
    let by_others = about.mode() & needed == needed;
    let by_group = about.gid() != 0 && about.mode() >> 3 & needed == needed;
    about.uid() == 0 && !by_others && !by_group
}

/// Files with secrets may lie there too, and must stay closed.
fn is_closed_to_service(path: &Path) -> bool {
    let is_read = path.is_dir() || path.extension().is_some_and(|extension| extension == "toml");
    is_read && is_for_root_alone(path)
}

async fn probe_database(
    database: &Database,
    opened: Result<&OpenDatabase, &EmbeddedError>,
) -> DatabaseFacts {
    let opened = match opened {
        Ok(opened) => Ok(&opened.store),
        Err(error) => Err((error.to_string(), None)),
    };
    let (server, looked_up, connected, opened) = match &database.server {
        DatabaseServer::Embedded(settings) => {
            (format!("private Postgres in {}", settings.dir.display()), None, None, opened)
        }
        DatabaseServer::Url(url) => {
            let (looked_up, connected) = probe_database_host(url.connect_options()).await;
            let is_cut =
                [looked_up.as_ref().map(Result::is_ok), connected.as_ref().map(Result::is_ok)]
                    .contains(&Some(false));
            let opened = if is_cut {
                Err((String::new(), None)) // The finding of the failed step has the reason.
            } else {
                let once = inspect::connect_once(url.connect_options()).await;
                once.map_err(|error| diagnose::unreachable_database(&error)).and(opened)
            };
            (url.to_string(), looked_up, connected, opened)
        }
    };
    let inspection = match opened {
        Ok(store) => store.inspect().await.map_err(|error| diagnose::unreachable_database(&error)),
        Err(unopened) => Err(unopened),
    };
    DatabaseFacts { server, looked_up, connected, inspection }
}

/// How many addresses the server's name has and whether it accepts connections; `None` for a socket.
async fn probe_database_host(
    options: &PgConnectOptions,
) -> (Option<Result<usize, String>>, Option<Result<(), String>>) {
    let (host, port) = (options.get_host(), options.get_port());
    if options.get_socket().is_some() || host.starts_with('/') {
        return (None, None);
    }
    let looked_up = network::look_up_name(host, port).await;
    let connected = if looked_up.is_ok() { Some(network::connect(host, port).await) } else { None };
    (Some(looked_up), connected)
}
