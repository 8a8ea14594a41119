//! Deletes all rows of a tenant, a few thousand at a time. What is left when it is interrupted, the next one deletes.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::error::SyncError;
use crate::store::{DbRole, Store};
use crate::tenant::TenantId;

const BATCH: i64 = 5_000;
/// Deleted together, by the last transaction: with the lease ends what keeps others away.
const LAST: [&str; 3] = ["sync_runs", "sync_state", "tenants"];

/// Rows by table.
pub type RowCounts = BTreeMap<String, u64>;

impl Store {
    /// Whether a daemon may work on the tenant, as its configuration says.
    pub async fn is_enabled(&self, tenant: TenantId) -> Result<bool, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let enabled =
                "SELECT enabled AND removed_at IS NULL FROM defender.tenants WHERE tenant_id = $1";
            sqlx::query_scalar(enabled).bind(tenant.0).fetch_optional(connection).await
        };
        let is_enabled = self.transact("looking up a tenant", DbRole::Writer(tenant), look).await?;
        Ok(is_enabled.unwrap_or(false))
    }

    /// Deletes the tenant wherever the catalog has a `tenant_id`. First takes it from whoever works on it: a run in flight
    /// can write nothing any more. `told` hears of each batch: the table, and how many of its rows are gone.
    pub async fn purge(
        &self,
        tenant: TenantId,
        actor: &str,
        mut told: impl FnMut(&str, u64),
    ) -> Result<RowCounts, SyncError> {
        self.begin_purge(tenant, actor).await?;
        let mut counts = RowCounts::new();
        let tables = self.tenant_tables(tenant).await?;
        for table in &tables {
            let count = counts.entry(table.clone()).or_default();
            while !LAST.contains(&table.as_str()) {
                let delete = async |connection: &mut PgConnection| {
                    delete(connection, tenant, table, BATCH).await
                };
                let deleted =
                    self.transact("deleting rows", DbRole::Writer(tenant), delete).await?;
                if deleted == 0 {
                    break;
                }
                *count += deleted;
                told(table, *count);
            }
        }
        let end = async |connection: &mut PgConnection| {
            lock(connection, tenant).await?;
            let lock_summaries =
                sqlx::query("SELECT FROM defender.tenants WHERE tenant_id = $1 FOR UPDATE");
            lock_summaries.bind(tenant.0).execute(&mut *connection).await?;
            let readers: i64 = sqlx::query_scalar("SELECT defender.forget_readers()")
                .fetch_one(&mut *connection)
                .await?;
            counts.insert("reader_tenants".to_owned(), readers.unsigned_abs());
            // All of them: the summaries may have been written again meanwhile.
            for table in &tables {
                *counts.entry(table.clone()).or_default() +=
                    delete(connection, tenant, table, i64::MAX).await?;
            }
            audit(connection, tenant, "purged", actor, &counts).await?;
            Ok(counts)
        };
        self.transact("ending a purge", DbRole::Writer(tenant), end).await
    }

    async fn begin_purge(&self, tenant: TenantId, actor: &str) -> Result<(), SyncError> {
        let begin = async |connection: &mut PgConnection| {
            lock(connection, tenant).await?;
            let take = sqlx::query(include_str!("../sql/begin_purge.sql"))
                .bind(tenant.0)
                .bind(&self.instance);
            take.execute(&mut *connection).await?;
            audit(connection, tenant, "purge begun", actor, &RowCounts::new()).await
        };
        self.transact("beginning a purge", DbRole::Writer(tenant), begin).await
    }

    /// Every table with rows of tenants, but for the audit.
    pub(crate) async fn tenant_tables(&self, tenant: TenantId) -> Result<Vec<String>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            sqlx::query_scalar(include_str!("../sql/tenant_tables.sql")).fetch_all(connection).await
        };
        self.transact("looking for tables", DbRole::Writer(tenant), look).await
    }
}

/// Waits for a page that is being written, whose transaction holds the row against claims.
pub(in crate::store) async fn lock(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<(), sqlx::Error> {
    let lock = sqlx::query("SELECT FROM defender.sync_state WHERE tenant_id = $1 FOR UPDATE");
    lock.bind(tenant.0).execute(connection).await.map(drop)
}

async fn delete(
    connection: &mut PgConnection,
    tenant: TenantId,
    table: &str,
    most: i64,
) -> Result<u64, sqlx::Error> {
    let delete = format!(
        "DELETE FROM defender.{table} WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM defender.{table} WHERE tenant_id = $1 LIMIT $2))"
    );
    let deleted =
        sqlx::query(AssertSqlSafe(delete)).bind(tenant.0).bind(most).execute(connection).await?;
    Ok(deleted.rows_affected())
}

/// What stays to tell of it.
pub(in crate::store) async fn audit(
    connection: &mut PgConnection,
    tenant: TenantId,
    action: &str,
    actor: &str,
    counts: &RowCounts,
) -> Result<(), sqlx::Error> {
    let write =
        sqlx::query(include_str!("../sql/write_audit.sql")).bind(tenant.0).bind(action).bind(actor);
    write.bind(Json(json!(counts))).execute(connection).await.map(drop)
}
