//! From a configuration to the services of a command.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use sqlx::postgres::PgConnectOptions;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::ApiClient;
use crate::config::{CallLimits, Config, Database, DatabaseServer};
use crate::entra::TokenCache;
use crate::error::SyncError;
use crate::http_client::{self, Deadlines};
use crate::postgres::{Embedded, EmbeddedError, Hold};
use crate::store::Store;
use crate::store::quota::{Quota, Quotas};
use crate::store::tenants::RemovedTenants;
use crate::sync::engine::{SyncEngine, SyncSettings};
use crate::sync::fleet_change::{Confirmation, store_tenants};
use crate::sync::page_fetcher::{Services, writers};
use crate::sync::progress::Progress;
use crate::sync::retry::RetryPolicy;
use crate::sync::run_slots::RunSlots;
use crate::sync::schedule::Schedule;

const POOL_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a command could not start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The private Postgres did not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The database denied access or is unavailable.
    #[error("{server}{error}. {advice}", server = server.as_deref().unwrap_or_default(), advice = advice(error))]
    Database {
        /// The URL and a colon, if the database could not be opened.
        server: Option<String>,
        error: SyncError,
    },
}

impl From<SyncError> for SetupError {
    fn from(error: SyncError) -> Self {
        Self::Database { server: None, error }
    }
}

/// The advice for a command, which unlike the daemon does not retry.
fn advice(error: &SyncError) -> String {
    if let SyncError::Database { sqlstate: None, .. } = error {
        return "Postgres does not respond. Check that it runs, that database.url and sslmode are correct, and that you may access its \
                socket"
            .to_owned();
    }
    error.diagnosis().advice.into_owned()
}

/// The database of a command: a private child process, or a server.
#[derive(Debug)]
pub struct OpenDatabase {
    pub store: Store,
    /// The private server; `None` for `database.url`.
    pub embedded: Option<Embedded>,
}

impl OpenDatabase {
    /// Opens the configured database. `hold` is how long a private server is needed.
    pub async fn open(database: &Database, hold: Hold, migrate: bool) -> Result<Self, SetupError> {
        let (options, embedded) = Self::serve(database, hold).await?;
        let is_owner = embedded.as_ref().is_some_and(Embedded::is_owner);
        let opened =
            Store::open(&options, database.max_connections, instance(), migrate || is_owner).await;
        let store = match opened {
            Ok(store) => store.with_notifications(database.notify),
            Err(error) => {
                if let Some(embedded) = embedded {
                    embedded.stop().await;
                }
                let server = match &database.server {
                    DatabaseServer::Url(url) => Some(format!("{url}: ")),
                    DatabaseServer::Embedded(_) => None,
                };
                return Err(SetupError::Database { server, error });
            }
        };
        if is_owner {
            store.forget_leases().await?;
        }
        Ok(Self { store, embedded })
    }

    /// Opens the database for a command that needs existing data.
    pub async fn existing(database: &Database) -> Result<Self, SetupError> {
        must_exist(database)?;
        Self::open(database, Hold::Command, false).await
    }

    /// Opens the database for the doctor, which changes nothing and accepts any schema.
    pub async fn unchecked(database: &Database) -> Result<Self, EmbeddedError> {
        must_exist(database)?;
        let (options, embedded) = Self::serve(database, Hold::Command).await?;
        Ok(Self {
            store: Store::unchecked(&options, database.max_connections, instance()),
            embedded,
        })
    }

    /// Starts the private server if it is configured, and returns how to connect.
    async fn serve(
        database: &Database,
        hold: Hold,
    ) -> Result<(PgConnectOptions, Option<Embedded>), EmbeddedError> {
        Ok(match &database.server {
            DatabaseServer::Url(url) => (url.connect_options().clone(), None),
            DatabaseServer::Embedded(settings) => {
                let embedded = Embedded::start(settings, hold).await?;
                (embedded.connect_options(), Some(embedded))
            }
        })
    }

    /// Closes the connections and stops the private server.
    pub async fn close(self) {
        self.close_pool().await;
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }

    /// Like [`Self::close`], but kills the private server shortly before the deadline.
    pub async fn close_by(self, deadline: Instant) {
        self.close_pool().await;
        if let Some(embedded) = self.embedded {
            embedded.stop_by(deadline).await;
        }
    }

    async fn close_pool(&self) {
        // A run that did not stop in time keeps its connection until the process ends.
        let _ = tokio::time::timeout(POOL_CLOSE_TIMEOUT, self.store.close()).await;
    }
}

/// Fails if the private Postgres has no data yet.
pub fn must_exist(database: &Database) -> Result<(), EmbeddedError> {
    match &database.server {
        DatabaseServer::Embedded(settings) => Embedded::must_exist(settings),
        DatabaseServer::Url(_) => Ok(()),
    }
}

/// The name of this process in leases and runs.
pub(crate) fn instance() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    let unique = Uuid::new_v4().simple().to_string();
    format!("{host}/{}/{}", std::process::id(), &unique[..8])
}

/// The settings of runs.
///
/// # Panics
/// Never: the cron lines were validated with the configuration.
pub fn settings(config: &Config) -> SyncSettings {
    let lines = &config.schedule;
    let schedule = Schedule::new(&lines.poll, &lines.open_incidents, &lines.reconcile);
    SyncSettings {
        tenants: config.tenants.iter().map(|tenant| (tenant.id.0, Arc::clone(tenant))).collect(),
        are_all: config.tenants_dir_errors.is_empty(),
        concurrency: config.sync.concurrency,
        overlap: config.sync.overlap,
        recheck: config.sync.recheck,
        lookback: config.sync.lookback,
        reconcile: Duration::from_secs(u64::from(config.sync.reconcile_days) * 86_400),
        schedule: schedule.expect("cron lines were validated with the configuration"),
    }
}

/// The quota of each tenant.
pub fn quotas(config: &Config) -> Quotas {
    let of = |calls: &CallLimits| Quota::new(calls.per_minute, calls.per_hour);
    Quotas { defender: of(&config.sync.defender_calls), graph: of(&config.sync.graph_calls) }
}

/// Writes the configured tenants to the database and creates the engine.
pub async fn engine(
    config: &Config,
    store: Store,
    progress: Progress,
    stop: CancellationToken,
) -> Result<Arc<SyncEngine>, SyncError> {
    let removed = if config.tenants_dir_errors.is_empty() {
        RemovedTenants::AllOthers
    } else {
        RemovedTenants::Only(&[])
    };
    let tenants = &config.tenants;
    let change =
        store_tenants(&store, tenants, removed, Confirmation::None, &HashSet::new()).await?;
    let held = change.held.iter().map(|(id, _)| *id).collect();
    let engine = SyncEngine::new(services(config, store), settings(config), progress, stop);
    Ok(Arc::new(engine.with_held(held)))
}

/// The services of a configuration.
pub fn services(config: &Config, store: Store) -> Services {
    let client = http_client::client_on(&config.http_client, Deadlines::default());
    services_of(client, store, quotas(config), config.database.max_connections)
}

/// The services with the defaults of production. Tests replace single fields.
pub fn services_of(client: Client, store: Store, quotas: Quotas, max_connections: u32) -> Services {
    Services {
        tokens: TokenCache::new(client.clone()),
        api: ApiClient::new(client),
        store,
        quotas,
        retry_policy: RetryPolicy::default(),
        writers: writers(max_connections),
        slots: RunSlots::default(),
    }
}
