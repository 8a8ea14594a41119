//! Keeps the code of other users out of our transactions: a safe search path, checked owners, restored privileges.
//!
//! A function that matches a call better than the built-in one replaces it if its schema is on the search path. In `public`
//! of an upgraded cluster every role may create such a function, and after `SET ROLE` the path's `"$user"` is a schema that
//! any role with CREATE on the database may have created.

use sqlx::migrate::{Migration, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr};

use super::{DbRole, Store};
use crate::error::SyncError;

/// The path of every transaction: only superusers create objects in `pg_catalog`. Temporary objects are last; if not named,
/// they would be first.
pub(super) const SEARCH_PATH: &str = "pg_catalog, pg_temp";
/// Begins a transaction on the migrator's connection, because a pooler ignores the path among the connection's options.
const BEGIN: &str = "BEGIN; SET LOCAL search_path = pg_catalog, pg_temp";
/// sqlx's table of the applied migrations.
const APPLIED_TABLE: &str = "public._sqlx_migrations";

/// The migrations, each with the safe path in its own transaction. The checksum stays that of the file.
pub(super) fn guarded(migrator: &Migrator) -> Migrator {
    let guard = |migration: &Migration| {
        let sql = format!("SET LOCAL search_path = {SEARCH_PATH};\n{}", migration.sql.as_str());
        Migration { sql: AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
    };
    let mut guarded = Migrator::with_migrations(migrator.iter().map(guard).collect());
    guarded.dangerous_set_table_name(APPLIED_TABLE);
    guarded
}

/// The versions and checksums in sqlx's table and whether each succeeded; fails if there is no such table.
pub(super) async fn applied(
    connection: &mut PgConnection,
) -> Result<Vec<(i64, Vec<u8>, bool)>, sqlx::Error> {
    // Outside a transaction, a pooler may use another server connection for each statement.
    let mut transaction = connection.begin_with(BEGIN).await?;
    sqlx::query_as(include_str!("sql/applied_migrations.sql"))
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await
}

/// Refuses a database in which another user owns a schema, table or function of incident-sync, or a function that one of
/// them calls: reading such a table runs code of its owner.
pub(super) async fn refuse_foreign_owners(
    connection: &mut PgConnection,
) -> Result<Result<(), SyncError>, sqlx::Error> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    let foreign = foreign_owners(&mut transaction).await?;
    transaction.rollback().await?;
    Ok(no_foreign_owners(&foreign))
}

/// Objects with names of ours that another user owns, each with its owner.
pub(super) async fn foreign_owners(
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(include_str!("sql/foreign_owners.sql"))
        .persistent(false)
        .fetch_all(connection)
        .await
}

/// The refusal of such a database.
pub(super) fn no_foreign_owners(foreign: &[String]) -> Result<(), SyncError> {
    if foreign.is_empty() {
        return Ok(());
    }
    let what = format!(
        "another user owns {}, whose code would run with the rights of incident-sync. Let a superuser drop it, or check \
         its content and run ALTER ... OWNER TO the user that migrates",
        foreign.join("; ")
    );
    Err(SyncError::Schema { what })
}

/// Restores the privileges on functions as the migrations granted them: after restoring a dump without privileges, PUBLIC
/// may call all of them. Does nothing to a schema with migrations newer than `newest`, and to functions of another owner.
pub(super) async fn restore_function_rights(
    connection: &mut PgConnection,
    newest: i64,
) -> Result<(), sqlx::Error> {
    let applied = applied(connection).await?;
    if applied.iter().map(|(version, ..)| *version).max() != Some(newest) {
        return Ok(());
    }
    let mut transaction = connection.begin_with(BEGIN).await?;
    if ours_of(function_rights(&mut transaction).await?).next().is_none() {
        return transaction.rollback().await;
    }
    sqlx::query(include_str!("sql/lock_schema.sql"))
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
    for statement in ours_of(function_rights(&mut transaction).await?) {
        tracing::warn!(
            owner = "operator",
            "Restoring the privileges of the migrations: {statement}"
        );
        sqlx::query(AssertSqlSafe(statement)).persistent(false).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// The statements that restore the privileges on functions, and whether our user may run each.
async fn function_rights(
    connection: &mut PgConnection,
) -> Result<Vec<(String, bool)>, sqlx::Error> {
    sqlx::query_as(include_str!("sql/function_rights.sql"))
        .persistent(false)
        .fetch_all(connection)
        .await
}

fn ours_of(statements: Vec<(String, bool)>) -> impl Iterator<Item = String> {
    statements.into_iter().filter(|(_, is_ours)| *is_ours).map(|(statement, _)| statement)
}

impl Store {
    /// The statements that restore the privileges on functions as the migrations granted them.
    pub async fn function_rights(&self) -> Result<Vec<String>, SyncError> {
        let look = async |connection: &mut PgConnection| function_rights(connection).await;
        let off =
            self.transact("looking at the functions' privileges", DbRole::Login, look).await?;
        Ok(off.into_iter().map(|(statement, _)| statement).collect())
    }

    /// Objects with names of ours that another user owns, each with its owner.
    pub async fn foreign_owners(&self) -> Result<Vec<String>, SyncError> {
        let look = async |connection: &mut PgConnection| foreign_owners(connection).await;
        self.transact("looking for the owners of the schema", DbRole::Login, look).await
    }
}
