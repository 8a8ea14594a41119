//! What the doctor wants to know of a database of which nothing is known.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use super::feed::{Feed, ReaderLimits};
use super::isolation::{self, TableIsolation};
use super::{CONNECT_DEADLINE, DbRole, MIGRATIONS, Store, database_error, newest_migration, ours};
use crate::error::{ConnectionFault, SyncError, visible};

/// What a database is, tables or not.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The server's version as a number, such as 150014.
    pub version: i32,
    /// As the server writes it, such as `18.1 (Debian 18.1-1)`.
    pub version_name: String,
    /// The database's encoding.
    pub encoding: String,
    /// Whether it is a standby, where nothing can be written.
    pub is_standby: bool,
    /// Whether our transactions may write nothing, and which kind of setting says so, as `pg_settings.source` has it.
    pub read_only_by: Option<String>,
    /// The database's name.
    pub name: String,
    /// The role of the session, which may differ from that of the URL.
    pub user: String,
    /// The roles that transactions take on.
    pub roles: Vec<Role>,
    /// The tables of customers' data.
    pub isolation: Vec<TableIsolation>,
    /// The statements that keep PUBLIC and readers from creating objects.
    pub create_rights: Vec<String>,
    /// Objects of other users in the place of ours, each with its owner.
    pub foreign_owners: Vec<String>,
    /// Which migrations it has seen, if we may look; nothing where there are no tables.
    pub schema: Option<Result<SchemaState, SyncError>>,
}

/// A role that the migrations create.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: String,
    pub exists: bool,
    /// Whether our user may take it on.
    pub is_ours: bool,
    /// Whether row-level security does not hold for it.
    pub is_unbound: bool,
}

/// How far a schema is, and which rights were taken away from it.
#[derive(Debug, Clone, Default)]
pub struct SchemaState {
    pub applied: i64,
    /// The newest that this version knows.
    pub known: i64,
    /// How many of those that this version knows are missing.
    pub pending: usize,
    /// Versions whose newest migration is older than this one cannot run.
    pub oldest_supported: i64,
    /// The statements that give our roles back what they need and lack; not looked for while migrations are missing.
    pub missing_rights: Vec<String>,
    /// Readers whose grants have no effect; unknown where our user may not read them.
    pub dead_grants: Option<Vec<String>>,
    /// The statements that give functions the privileges of the migrations.
    pub function_rights: Vec<String>,
    /// What holds the change feed back.
    pub feed: Feed,
    /// The roles that read, and what limits them.
    pub readers: Vec<ReaderLimits>,
}

/// Connects once, without a pool that would hide why it cannot. The message holds neither password nor data: nothing was
/// asked yet.
pub async fn connect_once(options: &PgConnectOptions) -> Result<(), SyncError> {
    let step = "connecting";
    let failed = |what: String, fault: Option<ConnectionFault>| {
        let what = visible(&what).chars().take(MESSAGE_CHARS_MAX).collect();
        SyncError::Database { step, sqlstate: None, what, fault }
    };
    match tokio::time::timeout(CONNECT_DEADLINE, PgConnection::connect_with(&ours(options))).await {
        Ok(Ok(connection)) => {
            let _ = connection.close().await;
            Ok(())
        }
        Ok(Err(sqlx::Error::Io(error))) => {
            Err(failed(error.to_string(), ConnectionFault::of_tls(&error)))
        }
        Ok(Err(error @ sqlx::Error::Protocol(_))) => {
            Err(failed(error.to_string(), Some(ConnectionFault::NotPostgres)))
        }
        Ok(Err(error @ sqlx::Error::Tls(_))) => {
            // The driver has a text, no type, for a server that answers its request for TLS with no.
            let fault = ConnectionFault::of_tls(&error).unwrap_or(ConnectionFault::TlsNotOffered);
            Err(failed(error.to_string(), Some(fault)))
        }
        Ok(Err(error)) => Err(database_error(step, &error)),
        Err(_) => {
            let what = format!("connected, but no answer within {} s", CONNECT_DEADLINE.as_secs());
            Err(failed(what, Some(ConnectionFault::NoAnswer)))
        }
    }
}

/// The peer may send anything.
const MESSAGE_CHARS_MAX: usize = 300;

impl Store {
    /// Reads version, roles, schema and rights, for `check`.
    pub async fn inspect(&self) -> Result<Inspection, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let server: (i32, String, String, bool, bool, String, String, String, bool) =
                sqlx::query_as(include_str!("sql/inspect_server.sql"))
                    .fetch_one(&mut *connection)
                    .await?;
            let roles: Vec<(String, bool, bool, bool)> =
                sqlx::query_as(include_str!("sql/inspect_roles.sql"))
                    .fetch_all(&mut *connection)
                    .await?;
            let isolation = isolation::inspect(connection).await?;
            let create_rights = sqlx::query_scalar(include_str!("sql/create_rights.sql"))
                .fetch_all(connection)
                .await?;
            Ok((server, roles, isolation, create_rights))
        };
        let looked = self.transact("looking at the database", DbRole::Login, look).await?;
        let (server, roles, isolation, create_rights) = looked;
        let foreign_owners = self.foreign_owners().await?;
        let (
            version,
            version_name,
            encoding,
            is_standby,
            is_read_only,
            source,
            name,
            user,
            has_tables,
        ) = server;
        let read_only_by = is_read_only.then_some(source);
        let role = |(name, exists, is_ours, is_unbound)| Role { name, exists, is_ours, is_unbound };
        let roles = roles.into_iter().map(role).collect();
        // A table of another user is not read.
        let schema = if has_tables && foreign_owners.is_empty() {
            Some(self.schema_state().await)
        } else {
            None
        };
        Ok(Inspection {
            version,
            version_name,
            encoding,
            is_standby,
            read_only_by,
            name,
            user,
            roles,
            isolation,
            create_rights,
            foreign_owners,
            schema,
        })
    }

    async fn schema_state(&self) -> Result<SchemaState, SyncError> {
        let read = async |connection: &mut PgConnection| {
            let versions = "SELECT version FROM public._sqlx_migrations WHERE success";
            let applied: Vec<i64> =
                sqlx::query_scalar(versions).fetch_all(&mut *connection).await?;
            let oldest = "SELECT oldest_supported FROM defender.schema_info";
            Ok((applied, sqlx::query_scalar(oldest).fetch_one(connection).await?))
        };
        let (applied, oldest_supported) =
            self.transact("reading the schema's version", DbRole::Login, read).await?;
        let pending =
            MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)).count();
        let (applied, known) = (applied.into_iter().max().unwrap_or(0), newest_migration());
        let state =
            SchemaState { applied, known, pending, oldest_supported, ..SchemaState::default() };
        if pending > 0 {
            return Ok(state);
        }
        let rights = async |connection: &mut PgConnection| {
            sqlx::query_scalar(include_str!("sql/inspect_rights.sql")).fetch_all(connection).await
        };
        let missing_rights =
            self.transact("looking at the roles' rights", DbRole::Login, rights).await?;
        let dead_grants = self.dead_grants().await?;
        let function_rights = self.function_rights().await?;
        let (feed, readers) = (self.feed().await?, self.reader_limits().await?);
        Ok(SchemaState { missing_rights, dead_grants, function_rights, feed, readers, ..state })
    }

    /// Only the user that migrates reads the table of grants; a daemon of another user learns nothing here.
    async fn dead_grants(&self) -> Result<Option<Vec<String>>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let may_read = "SELECT has_table_privilege('defender.reader_tenants', 'SELECT')";
            if !sqlx::query_scalar::<_, bool>(may_read).fetch_one(&mut *connection).await? {
                return Ok(None);
            }
            sqlx::query_scalar(include_str!("sql/inspect_grants.sql"))
                .fetch_all(connection)
                .await
                .map(Some)
        };
        self.transact("looking at the readers' grants", DbRole::Login, look).await
    }
}
