//! Whether the database still separates the tenants: an administrator can take row-level security and policies away.

use sqlx::{FromRow, PgConnection};

use super::{DbRole, Store};
use crate::error::SyncError;

/// A table of customers' data.
#[derive(Debug, Clone, FromRow)]
pub struct TableIsolation {
    pub table: String,
    /// Whether row-level security applies to every user, the owner included.
    pub is_forced: bool,
    /// Policies of the migrations that are not there.
    pub missing_policies: Vec<String>,
}

pub(super) async fn inspect(
    connection: &mut PgConnection,
) -> Result<Vec<TableIsolation>, sqlx::Error> {
    sqlx::query_as(include_str!("sql/inspect_isolation.sql")).fetch_all(connection).await
}

impl Store {
    /// Fails when a table is not separated as the migrations did it.
    pub(super) async fn check_isolation(&self) -> Result<(), SyncError> {
        let look = async |connection: &mut PgConnection| inspect(connection).await;
        let tables = self.transact("looking at row-level security", DbRole::Login, look).await?;
        let mut missing = Vec::new();
        for TableIsolation { table, is_forced, missing_policies } in &tables {
            if !is_forced {
                missing.push(format!("row-level security of {table}"));
            }
            missing.extend(missing_policies.iter().map(|name| format!("policy {name} of {table}")));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("schema defender lacks {}. Restore them", missing.join(", "));
        Err(SyncError::Schema { what })
    }
}
