//! The database: transactions with one role and a deadline each, statements in `sql/`, and errors without row data.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::error::SyncError;

pub mod alerts;
mod audit;
pub mod bounds;
pub mod clock;
pub mod compare;
mod connections;
mod database_error;
pub mod feed;
pub mod gaps;
pub mod inspect;
pub mod isolation;
pub mod lease;
mod migrate;
pub mod park;
pub mod quarantine;
pub mod quota;
pub mod readers;
mod records;
pub mod retention;
pub mod runs;
mod search_path;
pub mod source;
mod statement;
pub mod status;
pub mod stored_versions;
pub mod summaries;
pub mod tenant_data;
pub mod tenants;
mod transaction;
pub mod write_page;
mod write_rows;

pub use audit::RowCounts;
pub use clock::DatabaseClock;
use connections::{CONNECT_DEADLINE, ConnectionHealth, ours};
pub(crate) use database_error::database_error;
pub use lease::{Claim, Lease};
use migrate::newest_migration;
pub use migrate::{MIGRATIONS, apply_migrations};
pub(crate) use transaction::DbRole;

/// How long a lease lasts without renewal.
pub const LEASE_TERM: Duration = Duration::from_secs(60);

/// A handle on the database.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// This process in `lease_owner` and `sync_runs.instance`: unique to it.
    pub(crate) instance: String,
    pub(crate) lease_term: Duration,
    /// Limits every deadline, in tests.
    patience: Duration,
    /// Whether new changes are announced by NOTIFY.
    notifies: bool,
    /// Whether a pooler in transaction mode is between us and the server.
    is_pooled: bool,
    health: Arc<ConnectionHealth>,
}

impl Store {
    /// Checks the schema, after migrating it if `migrate` is set. `instance` must be unique to this process.
    pub async fn open(
        options: &PgConnectOptions,
        max_connections: u32,
        instance: String,
        migrate: bool,
    ) -> Result<Self, SyncError> {
        let store = Self::unchecked(options, max_connections, instance);
        if migrate {
            // This checks the owners of the schema as well, which takes as long as a poll.
            apply_migrations(&ours(options)).await?;
            store.check_version().await?;
        } else {
            store.check_schema().await?;
        }
        store.check_isolation().await?;
        Ok(store)
    }

    /// A store with an unknown schema, for the doctor. It connects with its first transaction.
    pub fn unchecked(options: &PgConnectOptions, max_connections: u32, instance: String) -> Self {
        let options = ours(options);
        let is_pooled = connections::is_pooled(&options);
        let health = Arc::new(ConnectionHealth::default());
        Self {
            pool: connections::pool(options, max_connections, &health),
            instance,
            lease_term: LEASE_TERM,
            patience: Duration::MAX,
            notifies: false,
            is_pooled,
            health,
        }
    }

    /// The same store with another lease term, for tests that wait for leases to expire.
    #[must_use]
    pub fn with_lease_term(self, lease_term: Duration) -> Self {
        Self { lease_term, ..self }
    }

    /// The same store that waits no longer than this for an answer, for tests that freeze the server.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same store with or without NOTIFY for new changes.
    #[must_use]
    pub fn with_notifications(self, notifies: bool) -> Self {
        Self { notifies, ..self }
    }

    /// Whether the server refused user or password since the last call.
    pub fn take_refusal(&self) -> bool {
        self.health.take_refusal()
    }

    /// Uses these options for new connections, as after a change of the password.
    pub fn reconnect_with(&self, options: &PgConnectOptions) {
        self.pool.set_connect_options(ours(options));
    }

    /// The pool, for reports.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Fails if the database does not answer.
    pub async fn ping(&self) -> Result<(), SyncError> {
        let ping = include_str!("sql/ping.sql");
        self.statement("reaching the database", DbRole::Reader, ping).execute().await
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}
