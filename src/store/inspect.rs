//! What the doctor wants to know of a database of which nothing is known.

use sqlx::PgConnection;

use super::{MIGRATIONS, Rights, Store, newest_migration};
use crate::error::SyncError;

/// What a database is, tables or not.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The server's version as a number, such as 150014.
    pub version: i32,
    /// The same in words.
    pub version_name: String,
    /// The database's encoding.
    pub encoding: String,
    /// Whether it is a standby, where nothing can be written.
    pub is_standby: bool,
    /// Who we are there.
    pub user: String,
    /// The roles that transactions take on.
    pub roles: Vec<Role>,
    /// The tables of customers' data, and whether row-level security is forced on each.
    pub isolation: Vec<(String, bool)>,
    /// Which migrations it has seen, if we may look; nothing where there are no tables.
    pub schema: Option<Result<SchemaState, SyncError>>,
}

/// A role of ours.
#[derive(Debug, Clone)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub exists: bool,
    /// Whether our user may take it on.
    pub is_ours: bool,
}

/// How far a schema is, and what was taken away from it.
#[derive(Debug, Clone)]
pub struct SchemaState {
    /// The newest migration applied.
    pub applied: i64,
    /// The newest that this version knows.
    pub known: i64,
    /// How many of those that this version knows are missing.
    pub pending: usize,
    /// Versions that know no newer migration than before this one cannot go on.
    pub oldest_supported: i64,
    /// Without these nothing works; not looked for while migrations are missing.
    pub missing: Vec<&'static str>,
    /// Without these it is slow.
    pub missing_indexes: Vec<&'static str>,
}

impl Store {
    /// Looks at the database.
    pub async fn inspect(&self) -> Result<Inspection, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let server: (i32, String, String, bool, String, bool) =
                sqlx::query_as(include_str!("sql/inspect_server.sql")).fetch_one(&mut *connection).await?;
            let roles: Vec<(String, bool, bool)> =
                sqlx::query_as(include_str!("sql/inspect_roles.sql")).fetch_all(&mut *connection).await?;
            let isolation = sqlx::query_as(include_str!("sql/inspect_isolation.sql")).fetch_all(connection).await?;
            Ok((server, roles, isolation))
        };
        let looked = self.transact("looking at the database", Rights::Login, look).await?;
        let ((version, version_name, encoding, is_standby, user, has_tables), roles, isolation) = looked;
        let roles = roles.into_iter().map(|(name, exists, is_ours)| Role { name, exists, is_ours }).collect();
        let schema = if has_tables { Some(self.schema_state().await) } else { None };
        Ok(Inspection { version, version_name, encoding, is_standby, user, roles, isolation, schema })
    }

    async fn schema_state(&self) -> Result<SchemaState, SyncError> {
        let read = async |connection: &mut PgConnection| {
            let versions = "SELECT version FROM _sqlx_migrations WHERE success";
            let applied: Vec<i64> = sqlx::query_scalar(versions).fetch_all(&mut *connection).await?;
            let oldest = "SELECT oldest_supported FROM defender.schema_info";
            Ok((applied, sqlx::query_scalar(oldest).fetch_one(connection).await?))
        };
        let (applied, oldest_supported) = self.transact("reading the schema's version", Rights::Login, read).await?;
        let pending = MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)).count();
        let (missing, missing_indexes) = if pending == 0 { self.missing_objects().await? } else { Default::default() };
        let (applied, known) = (applied.into_iter().max().unwrap_or(0), newest_migration());
        Ok(SchemaState { applied, known, pending, oldest_supported, missing, missing_indexes })
    }
}
