//! A tenant's rows on their way out and back, as JSON: one transaction each, which shows one moment or happens as a whole.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, Transaction};

use super::purge::{RowCounts, audit};
use super::{Rights, Store, within};
use crate::error::SyncError;
use crate::tenant::TenantId;

/// About so much is read or written at once.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
const BATCH_ROWS: usize = 1_000;
const READING: &str = "reading a tenant's rows";
const TABLES: &str = include_str!("sql/exported_tables.sql");
const RESTORING: &str = "restoring a tenant's rows";

/// A table that an export takes along.
#[derive(Debug, FromRow)]
pub struct ExportedTable {
    /// Without its schema.
    pub name: String,
    /// Those that are restored.
    pub columns: Vec<String>,
    key: String,
}

/// A tenant's rows at one moment.
#[derive(Debug)]
pub struct Snapshot {
    transaction: Transaction<'static, Postgres>,
    tenant: TenantId,
    /// The newest migration of the database.
    pub schema: i64,
    /// The moment.
    pub taken_at: DateTime<Utc>,
    /// What there is to read.
    pub tables: Vec<ExportedTable>,
}

/// Rows of a tenant that are about to be there again.
#[derive(Debug)]
pub struct Restore {
    transaction: Transaction<'static, Postgres>,
    tenant: TenantId,
    /// The newest migration of the database.
    pub schema: i64,
    /// What can be restored.
    pub tables: Vec<ExportedTable>,
}

impl Store {
    /// Fixes the moment. Whoever writes the tenant goes on.
    pub async fn snapshot(&self, tenant: TenantId) -> Result<Snapshot, SyncError> {
        let schema = self.schema_version().await?;
        let begin = async {
            let mut transaction = self.begin_at("REPEATABLE READ READ ONLY", Rights::Writer(tenant)).await?;
            let taken_at = sqlx::query_scalar("SELECT now()").fetch_one(&mut *transaction).await?;
            let tables = sqlx::query_as(TABLES).fetch_all(&mut *transaction).await?;
            Ok(Snapshot { transaction, tenant, schema, taken_at, tables })
        };
        within(READING, Rights::Writer(tenant).deadline(), begin).await
    }

    /// Nothing is there before [`Restore::finish`].
    pub async fn restore(&self, tenant: TenantId) -> Result<Restore, SyncError> {
        let schema = self.schema_version().await?;
        let begin = async {
            let mut transaction = self.begin(Rights::Writer(tenant)).await?;
            let tables = sqlx::query_as(TABLES).fetch_all(&mut *transaction).await?;
            Ok(Restore { transaction, tenant, schema, tables })
        };
        within(RESTORING, Rights::Writer(tenant).deadline(), begin).await
    }

    async fn schema_version(&self) -> Result<i64, SyncError> {
        let read = async |connection: &mut PgConnection| {
            let newest = "SELECT max(version) FROM _sqlx_migrations WHERE success";
            sqlx::query_scalar(newest).fetch_one(connection).await
        };
        self.transact("reading the schema's version", Rights::Reader, read).await
    }
}

impl Snapshot {
    /// Calls `each` with every row of the table, a JSON object in one line, in the order of the key.
    pub async fn read<E: From<SyncError>>(
        &mut self,
        table: usize,
        mut each: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        let ExportedTable { name, key, .. } = &self.tables[table];
        let declare = format!(
            "DECLARE exported NO SCROLL CURSOR FOR
             SELECT row_to_json(t)::text FROM defender.{name} t WHERE tenant_id = '{}' ORDER BY {key}",
            self.tenant
        );
        self.execute(declare).await?;
        let mut largest = BATCH_BYTES / 16;
        loop {
            let fetch = format!("FETCH {} FROM exported", (BATCH_BYTES / largest).clamp(1, BATCH_ROWS));
            let rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(fetch)).persistent(false);
            let rows = rows.fetch_all(&mut *self.transaction);
            let rows = within(READING, Rights::Writer(self.tenant).deadline(), rows).await?;
            let Some(longest) = rows.iter().map(String::len).max() else { break };
            largest = longest.max(1);
            rows.iter().try_for_each(|row| each(row))?;
        }
        self.execute("CLOSE exported".to_owned()).await?;
        Ok(())
    }

    async fn execute(&mut self, statement: String) -> Result<(), SyncError> {
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *self.transaction);
        within(READING, Rights::Writer(self.tenant).deadline(), done).await.map(drop)
    }
}

impl Restore {
    /// The tables that have rows of the tenant already.
    pub async fn occupied(&mut self) -> Result<Vec<String>, SyncError> {
        let tenant = self.tenant;
        let look = async {
            let tables: Vec<String> =
                sqlx::query_scalar(include_str!("sql/tenant_tables.sql")).fetch_all(&mut *self.transaction).await?;
            let mut occupied = Vec::new();
            for table in tables {
                let query = format!("SELECT EXISTS (SELECT FROM defender.{table} WHERE tenant_id = $1)");
                let query = sqlx::query_scalar(AssertSqlSafe(query)).bind(tenant.0);
                if query.fetch_one(&mut *self.transaction).await? {
                    occupied.push(table);
                }
            }
            Ok(occupied)
        };
        within(RESTORING, Rights::Writer(tenant).deadline(), look).await
    }

    /// Adds rows, a JSON array of objects. The policies refuse those of another tenant.
    pub async fn insert(&mut self, table: usize, columns: &[String], rows: &str) -> Result<u64, SyncError> {
        let ExportedTable { name, columns: known, .. } = &self.tables[table];
        let named: Vec<&str> = known.iter().filter(|column| columns.contains(column)).map(String::as_str).collect();
        let named = named.join(", ");
        let insert = format!(
            "INSERT INTO defender.{name} ({named}) SELECT {named} FROM json_populate_recordset(NULL::defender.{name}, $1::json)"
        );
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(rows).execute(&mut *self.transaction);
        let inserted = within(RESTORING, Rights::Writer(self.tenant).deadline(), insert).await?;
        Ok(inserted.rows_affected())
    }

    /// From now on the rows are there, and nobody works on them yet.
    pub async fn finish(mut self, actor: &str, counts: &RowCounts) -> Result<(), SyncError> {
        let tenant = self.tenant;
        let finish = async {
            let free =
                "UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL WHERE tenant_id = $1";
            sqlx::query(free).bind(tenant.0).execute(&mut *self.transaction).await?;
            audit(&mut self.transaction, tenant, "restored", actor, counts).await?;
            self.transaction.commit().await
        };
        within(RESTORING, Rights::Writer(tenant).deadline(), finish).await
    }
}
