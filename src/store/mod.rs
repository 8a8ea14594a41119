//! The database: one connection pool, a deadline on every wait, and errors without row data.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, Postgres, Transaction,
};

use crate::error::{ConnectionFault, SyncError};
use crate::failpoint;
use crate::tenant::TenantId;

pub mod bounds;
pub mod clock;
pub mod compare;
pub mod feed;
pub mod gaps;
pub mod inspect;
pub mod isolation;
pub mod lease;
pub mod park;
pub mod quota;
pub mod readers;
mod records;
pub mod retention;
pub mod runs;
mod search_path;
pub mod status;
pub mod summaries;
pub mod tenant_data;
pub mod tenants;
pub mod write_page;

pub use clock::DatabaseClock;
pub use lease::{Claim, Lease};
use search_path::SEARCH_PATH;

/// The schema. Shipped with the binary; applied by `run`, `migrate` and every command that needs it. What a newer version has
/// applied besides is left alone: whether we can work with it is told by `schema_info`.
pub static MIGRATIONS: LazyLock<sqlx::migrate::Migrator> = LazyLock::new(|| {
    let mut migrator = search_path::guarded(&sqlx::migrate!());
    migrator.set_ignore_missing(true);
    migrator
});

/// How a URL says that statements do not outlive their transaction, because of a pooler in transaction mode.
const NO_STATEMENT_CACHE: (Cow<'_, str>, Cow<'_, str>) =
    (Cow::Borrowed("statement-cache-capacity"), Cow::Borrowed("0"));
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// For the shortest of all answers, before a connection is used again.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
const MIGRATE_DEADLINE: Duration = Duration::from_secs(120);

/// A handle on the database.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// Who we are in `lease_owner` and `sync_runs.instance`: unique to this process.
    pub(crate) instance: String,
    pub(crate) lease_term: Duration,
    patience: Duration,
    /// Whether new changes are announced by NOTIFY.
    notifies: bool,
    /// A pooler in transaction mode stands in between.
    is_pooled: bool,
    stale: Arc<ConnectionHealth>,
}

/// What happened to the server that its connections have not noticed.
#[derive(Debug, Default)]
struct ConnectionHealth {
    /// Connections from before this lead to a server that is the primary no more.
    before: Mutex<Option<Instant>>,
    /// The password was refused: it may have been changed.
    is_refused: AtomicBool,
}

impl ConnectionHealth {
    fn note(&self, error: &SyncError) {
        match error.sqlstate() {
            Some(READ_ONLY) => {
                *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            Some(code) if code.starts_with(AUTHORIZATION) => {
                self.is_refused.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn is_usable(&self, age: Duration) -> bool {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.is_none_or(|before| age < before.elapsed())
    }
}

/// SQLSTATE of a write on a standby.
const READ_ONLY: &str = "25006";
/// Class of the SQLSTATEs for a wrong user or password.
const AUTHORIZATION: &str = "28";

/// How long a lease lasts without renewal.
pub const LEASE_TERM: Duration = Duration::from_secs(60);

/// What a transaction may do. The connection's own user may be a superuser, whom no policy stops, so each transaction
/// takes on one of the roles of `migrations/0002_isolation.sql`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DbRole {
    /// The books of all tenants: names, due times, leases.
    Dispatcher,
    /// The data of one tenant.
    Writer(TenantId),
    /// Reading all tenants.
    Reader,
    /// The same for a person who waits for a page, or a monitor that gives up after ten seconds.
    ReaderInteractive,
    /// What the connection's user may do: for questions about the schema and for making roles.
    Login,
}

impl DbRole {
    /// A transaction's statement that takes longer is given up here and on the server: a frozen backend must not hold a
    /// tenant for ever, and the dispatcher hardly at all.
    fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::ReaderInteractive => 4,
            Self::Dispatcher => 10,
            Self::Writer(_) => 25,
            Self::Reader | Self::Login => 60,
        })
    }
}

impl Store {
    /// Connects, and brings the schema up to date when `migrate` is set. `instance` must be unique to this process.
    pub async fn open(
        options: &PgConnectOptions,
        max_connections: u32,
        instance: String,
        migrate: bool,
    ) -> Result<Self, SyncError> {
        if migrate {
            apply_migrations(&ours(options)).await?;
        }
        let store = Self::unchecked(options, max_connections, instance);
        store.check_schema().await?;
        store.check_isolation().await?;
        Ok(store)
    }

    /// A store of which nothing is known, for the doctor. It connects when it is asked something.
    pub fn unchecked(options: &PgConnectOptions, max_connections: u32, instance: String) -> Self {
        let options = ours(options);
        let is_pooled = options.to_url_lossy().query_pairs().any(|pair| pair == NO_STATEMENT_CACHE);
        let stale = Arc::new(ConnectionHealth::default());
        let usable = Arc::clone(&stale);
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(CONNECT_DEADLINE)
            // The pool's own test of a connection that was idle has no deadline, and would take that of the whole acquiring.
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let is_usable = usable.is_usable(meta.age);
                Box::pin(async move { Ok(is_usable && answers(connection).await) })
            })
            // The pool tests a connection that comes back, but without a deadline: one whose server is frozen would keep its
            // place for ever. And its buffer keeps the size of the largest page that it ever sent.
            .after_release(|connection, _| {
                connection.shrink_buffers();
                Box::pin(async move {
                    let answered = tokio::time::timeout(CONNECT_DEADLINE, connection.ping()).await;
                    answered.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
                })
            })
            .connect_lazy_with(options);
        Self {
            pool,
            instance,
            lease_term: LEASE_TERM,
            patience: Duration::MAX,
            notifies: false,
            is_pooled,
            stale,
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

    /// Whether the server has refused our user or password since the last time this was asked.
    pub fn take_refusal(&self) -> bool {
        self.stale.is_refused.swap(false, Ordering::Relaxed)
    }

    /// Uses these options for new connections, as after a change of the password.
    pub fn reconnect_with(&self, options: &PgConnectOptions) {
        self.pool.set_connect_options(ours(options));
    }

    /// The pool, for reports.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A transaction with these rights. All that it sets ends with it, so that a pooler in transaction mode may stand in
    /// between.
    ///
    /// Who waits for a lock must see what the other one did: a server may be set to another isolation.
    async fn begin(&self, rights: DbRole) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.begin_at("READ COMMITTED", rights).await
    }

    async fn begin_at(
        &self,
        isolation: &str,
        rights: DbRole,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let (role, tenant) = match rights {
            DbRole::Dispatcher => ("incident_sync_dispatcher", String::new()),
            DbRole::Writer(tenant) => ("incident_sync_writer", tenant.to_string()),
            DbRole::Reader | DbRole::ReaderInteractive => ("incident_sync_reader", String::new()),
            DbRole::Login => ("none", String::new()),
        };
        let seconds = rights.deadline().as_secs();
        // sqlx names every statement, cached or not, and others have left such names on the server that we share.
        let forget = if self.is_pooled { "; DEALLOCATE ALL" } else { "" };
        // A process that was frozen in the middle holds its tenant's row, and with it the tenant, until Postgres ends it.
        self.pool
            .begin_with(AssertSqlSafe(format!(
                "BEGIN ISOLATION LEVEL {isolation}; SET LOCAL search_path = {SEARCH_PATH}; SET LOCAL ROLE {role}; \
                 SET LOCAL incident_sync.tenant_id = '{tenant}'; SET LOCAL statement_timeout = '{seconds}s'; SET LOCAL idle_in_transaction_session_timeout = '{seconds}s'{forget}"
            )))
            .await
    }

    /// Does `work` in a transaction with these rights, and waits for it, but not for ever.
    pub(crate) async fn transact<T>(
        &self,
        step: &'static str,
        rights: DbRole,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, SyncError> {
        let whole = async {
            let mut transaction = self.begin(rights).await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        };
        let deadline = self.patience.min(rights.deadline() + CONNECT_DEADLINE);
        within(step, deadline, whole).await.inspect_err(|error| self.stale.note(error))
    }

    /// How long a question of the dispatcher takes at most, whether the database answers or not.
    pub fn dispatcher_wait(&self) -> Duration {
        self.patience.min(DbRole::Dispatcher.deadline() + CONNECT_DEADLINE)
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), SyncError> {
        let select =
            async |connection: &mut PgConnection| sqlx::query("SELECT 1").execute(connection).await;
        self.transact("reaching the database", DbRole::Reader, select).await.map(drop)
    }

    /// Whether this version can work with the schema that it finds.
    pub async fn check_schema(&self) -> Result<(), SyncError> {
        let step = "looking for the schema";
        let look = async |connection: &mut PgConnection| {
            let table = "SELECT to_regclass('defender.schema_info') IS NOT NULL";
            sqlx::query_scalar::<_, bool>(table).fetch_one(connection).await
        };
        let has_tables = self.transact(step, DbRole::Login, look).await?;
        search_path::no_foreign_owners(&self.foreign_owners().await?)?;
        if !has_tables {
            return Err(SyncError::Schema {
                what: "there are no tables of incident-sync".to_owned(),
            });
        }
        let read = async |connection: &mut PgConnection| {
            let info = "SELECT oldest_supported, (SELECT max(version) FROM public._sqlx_migrations WHERE success) FROM defender.schema_info";
            sqlx::query_as::<_, (i64, i64)>(info).fetch_one(connection).await
        };
        let (oldest_supported, applied) = self.transact(step, DbRole::Login, read).await?;
        let ours = newest_migration();
        if applied < ours {
            return Err(older_than(ours));
        }
        if ours < oldest_supported {
            let what = format!(
                "a newer version has changed it (migration {applied}) so that this one cannot go on; install the newest version"
            );
            return Err(SyncError::Schema { what });
        }
        Ok(())
    }

    /// How many migrations this binary knows that the database has not seen.
    pub async fn pending_migrations(&self) -> Result<usize, SyncError> {
        let read = async |connection: &mut PgConnection| {
            let versions = "SELECT version FROM public._sqlx_migrations WHERE success";
            sqlx::query_scalar::<_, i64>(versions).fetch_all(connection).await
        };
        let applied = self.transact("reading the schema's version", DbRole::Login, read).await?;
        Ok(MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)).count())
    }

    /// Closes the pool.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Whether the server still answers on this connection.
async fn answers(connection: &mut PgConnection) -> bool {
    tokio::time::timeout(ANSWER_DEADLINE, connection.ping())
        .await
        .is_ok_and(|answer| answer.is_ok())
}

fn ours(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().application_name("incident-sync").disable_statement_logging()
}

fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn older_than(version: i64) -> SyncError {
    SyncError::Schema {
        what: format!("it is older than this version, which needs migration {version}"),
    }
}

/// Applies what is missing of the schema. On a connection of its own: the migrator keeps its lock on the session when it
/// fails, and closing the session is what frees it.
pub async fn apply_migrations(options: &PgConnectOptions) -> Result<(), SyncError> {
    let step = "migrating the schema";
    // A statement timeout would cut long migrations short; the deadline here bounds the whole. The path is for the
    // migrator's own statements, which are in no transaction of ours.
    let settings = [
        ("statement_timeout", "0"),
        ("lock_timeout", "30s"),
        ("search_path", "pg_catalog,pg_temp"),
    ];
    let options = options.clone().options(settings).disable_statement_logging();
    let connect = sqlx::PgConnection::connect_with(&options);
    let mut connection = within("connecting to the database", CONNECT_DEADLINE, connect).await?;
    failpoint::reach("migration.begin").await;
    let migrate = async {
        if let Err(refusal) = search_path::refuse_foreign_owners(&mut connection).await? {
            return Ok(Err(refusal));
        }
        if !is_current(&mut connection).await {
            MIGRATIONS.run(&mut connection).await?;
        }
        search_path::restore_function_rights(&mut connection).await?;
        Ok(Ok(()))
    };
    let migrated = match tokio::time::timeout(MIGRATE_DEADLINE, migrate).await {
        Ok(Ok(done)) => done,
        Ok(Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))) => {
            Err(database_error(step, &error))
        }
        Ok(Err(error)) => Err(SyncError::Schema { what: error.to_string() }),
        Err(_) => Err(SyncError::Database {
            step,
            sqlstate: None,
            what: "another migration holds the lock".to_owned(),
            fault: None,
        }),
    };
    failpoint::reach("migration.end").await;
    drop(connection.close().await);
    migrated
}

/// Whether there is nothing to apply. The migrator's lock can be held by everybody who can log in, and its table be made by
/// the owner only: neither must keep a user from working who has nothing to migrate.
async fn is_current(connection: &mut PgConnection) -> bool {
    let applied = search_path::applied(connection).await.unwrap_or_default();
    let is_applied = |migration: &sqlx::migrate::Migration| {
        let same = |row: &(i64, Vec<u8>, bool)| {
            row.0 == migration.version && row.1 == *migration.checksum && row.2
        };
        applied.iter().any(same)
    };
    MIGRATIONS.iter().all(is_applied) && applied.iter().all(|(_, _, success)| *success)
}

/// Waits for the database, but not for ever.
async fn within<T>(
    step: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SyncError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done.map_err(|error| database_error(step, &error)),
        Err(_) => Err(SyncError::Database {
            step,
            sqlstate: None,
            what: "no answer within the deadline".to_owned(),
            fault: None,
        }),
    }
}

/// What may be shown of a database error. Messages of the classes 22 and 23 quote the refused values: customer data.
pub(crate) fn database_error(step: &'static str, error: &sqlx::Error) -> SyncError {
    let (sqlstate, what) = match error {
        sqlx::Error::Database(error) => {
            let code = error.code().map(|code| code.into_owned());
            let quotes_values = code
                .as_deref()
                .is_some_and(|code| code.starts_with("22") || code.starts_with("23"));
            let what = if quotes_values {
                format!("value refused, constraint {}", error.constraint().unwrap_or("unnamed"))
            } else {
                error.message().to_owned()
            };
            (code, what)
        }
        sqlx::Error::Io(error) => (None, format!("connection: {}", error.kind())),
        sqlx::Error::Tls(_) => {
            (None, "the TLS handshake failed; check sslmode and sslrootcert".to_owned())
        }
        sqlx::Error::PoolTimedOut => (None, "no connection became free in time".to_owned()),
        sqlx::Error::PoolClosed => (None, "the pool is closed".to_owned()),
        sqlx::Error::ColumnDecode { index, .. } => {
            (None, format!("column {index} has an unexpected type"))
        }
        _ => (None, "unexpected answer".to_owned()),
    };
    SyncError::Database { step, sqlstate, what, fault: ConnectionFault::of_tls(error) }
}
