//! Deletes all rows of a tenant, a few thousand at a time. An interrupted purge can be repeated.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::error::SyncError;
pub use crate::store::audit::RowCounts;
use crate::store::audit::audit;
use crate::store::lease::lock_tenant;
use crate::store::{DbRole, Store};
use crate::tenant::TenantId;

const BATCH: i64 = 5_000;
/// Deleted together by the last transaction: the lease in `sync_state` keeps other instances away until then.
const LAST: [&str; 3] = ["sync_runs", "sync_state", "tenants"];

impl Store {
    /// Whether the tenant is enabled in the configuration, so that a daemon may read it.
    pub async fn is_enabled(&self, tenant: TenantId) -> Result<bool, SyncError> {
        let is_enabled: Option<bool> = self
            .statement(
                "looking up a tenant",
                DbRole::Writer(tenant),
                include_str!("../sql/is_enabled.sql"),
            )
            .bind(tenant.0)
            .fetch_optional_scalar()
            .await?;
        Ok(is_enabled.unwrap_or(false))
    }

    /// Deletes the tenant's rows from every table with a `tenant_id`. First takes its lease: a run in progress can write
    /// nothing more. `on_batch` gets the table and the number of its deleted rows after each batch.
    pub async fn purge(
        &self,
        tenant: TenantId,
        actor: &str,
        mut on_batch: impl FnMut(&str, u64),
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
                on_batch(table, *count);
            }
        }
        let end = async |connection: &mut PgConnection| {
            lock_tenant(connection, tenant).await?;
            sqlx::query(include_str!("../sql/lock_summaries.sql"))
                .bind(tenant.0)
                .execute(&mut *connection)
                .await?;
            let readers: i64 = sqlx::query_scalar(include_str!("../sql/forget_readers.sql"))
                .fetch_one(&mut *connection)
                .await?;
            counts.insert("reader_tenants".to_owned(), readers.unsigned_abs());
            // All tables: the summaries may have been written again meanwhile.
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
            lock_tenant(connection, tenant).await?;
            sqlx::query(include_str!("../sql/begin_purge.sql"))
                .bind(tenant.0)
                .bind(&self.instance)
                .execute(&mut *connection)
                .await?;
            audit(connection, tenant, "purge begun", actor, &RowCounts::new()).await
        };
        self.transact("beginning a purge", DbRole::Writer(tenant), begin).await
    }

    /// Every table with rows of tenants, except the audit log.
    async fn tenant_tables(&self, tenant: TenantId) -> Result<Vec<String>, SyncError> {
        let tenant_tables = include_str!("../sql/tenant_tables.sql");
        self.statement("looking for tables", DbRole::Writer(tenant), tenant_tables)
            .fetch_scalars()
            .await
    }
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
