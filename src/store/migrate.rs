//! The schema: applies migrations and checks that this version can work with what it finds.

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::Store;
use super::connections::CONNECT_DEADLINE;
use super::database_error::database_error;
use super::search_path;
use super::transaction::{DbRole, within};
use crate::error::SyncError;
use crate::failpoint;

/// The migrations of this version; `run`, `migrate` and every command that needs the schema apply them. Migrations of a
/// newer version are ignored: `schema_info` states whether this one can work with them.
pub static MIGRATIONS: LazyLock<sqlx::migrate::Migrator> = LazyLock::new(|| {
    let mut migrator = search_path::guarded(&sqlx::migrate!());
    migrator.set_ignore_missing(true);
    migrator
});

const MIGRATE_DEADLINE: Duration = Duration::from_secs(120);

impl Store {
    /// Fails if this version cannot work with the schema that it finds, or another user owns a part of it.
    pub async fn check_schema(&self) -> Result<(), SyncError> {
        search_path::no_foreign_owners(&self.foreign_owners().await?)?;
        self.check_version().await
    }

    /// Fails if this version cannot work with the schema that it finds.
    pub(super) async fn check_version(&self) -> Result<(), SyncError> {
        let step = "checking the schema";
        let has_tables: bool = self
            .statement(step, DbRole::Login, include_str!("sql/schema_exists.sql"))
            .fetch_scalar()
            .await?;
        if !has_tables {
            return Err(SyncError::Schema {
                what: "there are no tables of incident-sync".to_owned(),
            });
        }
        let (oldest_supported, applied): (i64, i64) = self
            .statement(step, DbRole::Login, include_str!("sql/schema_version.sql"))
            .fetch_one()
            .await?;
        let ours = newest_migration();
        if applied < ours {
            return Err(older_than(ours));
        }
        if ours < oldest_supported {
            let what = format!(
                "a newer version has changed it (migration {applied}) and this version is too old for it; install the newest version"
            );
            return Err(SyncError::Schema { what });
        }
        Ok(())
    }

    /// How many migrations of this version are not applied yet.
    pub async fn pending_migrations(&self) -> Result<usize, SyncError> {
        let applied: Vec<i64> = self
            .statement(
                "reading the schema's version",
                DbRole::Login,
                include_str!("sql/applied_versions.sql"),
            )
            .fetch_scalars()
            .await?;
        Ok(MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)).count())
    }
}

pub(super) fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn older_than(version: i64) -> SyncError {
    SyncError::Schema {
        what: format!("it is older than this version, which needs migration {version}"),
    }
}

/// Applies the missing migrations, on a connection of its own: a failed migrator keeps its session lock until the session
/// is closed.
pub async fn apply_migrations(options: &PgConnectOptions) -> Result<(), SyncError> {
    let step = "migrating the schema";
    // A statement timeout would cancel long migrations; MIGRATE_DEADLINE limits all of them together. The path is for the
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
        search_path::restore_function_rights(&mut connection, newest_migration()).await?;
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
    let _ = connection.close().await;
    migrated
}

/// Whether there is nothing to apply. Then the migrator is not needed: any user can hold its lock, and only the owner can
/// create its table.
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
