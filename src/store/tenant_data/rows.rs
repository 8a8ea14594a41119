//! All rows of a tenant, read, restored or changed as JSON: one transaction, which shows one moment or happens as a whole.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, Transaction};

use crate::error::{SyncError, visible};
use crate::http_client::field;
use crate::incident::person::PersonIds;
use crate::store::tenant_data::purge::{RowCounts, audit, lock};
use crate::store::{DbRole, Lease, Store, within};
use crate::tenant::TenantId;

/// About so much is read or written at once.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
const BATCH_ROWS: usize = 1_000;
const STEP: &str = "working on all rows of a tenant";

/// A table with rows of tenants, as an export takes it along.
#[derive(Debug, FromRow)]
pub struct TenantTable {
    /// Without its schema.
    pub name: String,
    /// Those that are restored.
    pub columns: Vec<String>,
    key: Vec<String>,
    /// Of the key, what is a hash over the row's content.
    hashes: Vec<String>,
    /// Those that hold a time.
    times: Vec<String>,
}

/// A transaction on all rows of one tenant. Dropped, it has changed nothing.
#[derive(Debug)]
pub struct TenantRows {
    transaction: Transaction<'static, Postgres>,
    tenant: TenantId,
    instance: String,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// The newest migration of the database.
    pub schema: i64,
    /// What there is to read and write.
    pub tables: Vec<TenantTable>,
    longest: usize,
    /// The open table, and the last row that was read of it.
    place: String,
    table: usize,
}

impl Store {
    /// The rows as they are at this moment, whoever goes on writing them.
    pub async fn snapshot_rows(&self, tenant: TenantId) -> Result<TenantRows, SyncError> {
        self.tenant_rows("REPEATABLE READ READ ONLY", tenant).await
    }

    /// The rows, to be changed or restored.
    pub async fn locked_rows(&self, tenant: TenantId) -> Result<TenantRows, SyncError> {
        self.tenant_rows("READ COMMITTED", tenant).await
    }

    async fn tenant_rows(
        &self,
        isolation: &str,
        tenant: TenantId,
    ) -> Result<TenantRows, SyncError> {
        let newest = async |connection: &mut PgConnection| {
            let newest = "SELECT max(version) FROM public._sqlx_migrations WHERE success";
            sqlx::query_scalar(newest).fetch_one(connection).await
        };
        let schema = self.transact("reading the schema's version", DbRole::Reader, newest).await?;
        let begin = async {
            let mut transaction = self.begin_at(isolation, DbRole::Writer(tenant)).await?;
            let began_at = sqlx::query_scalar("SELECT now()").fetch_one(&mut *transaction).await?;
            let tables = sqlx::query_as(include_str!("../sql/tenant_rows.sql"))
                .fetch_all(&mut *transaction)
                .await?;
            let instance = self.instance.clone();
            Ok(TenantRows {
                transaction,
                tenant,
                instance,
                began_at,
                schema,
                tables,
                longest: 0,
                place: String::new(),
                table: 0,
            })
        };
        within(STEP, DbRole::Writer(tenant).deadline(), begin).await
    }

    /// Takes the tenant from whoever works on it, for a quarter of an hour: a run in flight can write nothing any more.
    pub async fn take_lease(&self, tenant: TenantId) -> Result<Lease, SyncError> {
        let take_lease = async |connection: &mut PgConnection| {
            lock(connection, tenant).await?;
            let take_lease = sqlx::query_scalar(include_str!("../sql/seize_tenant.sql"))
                .bind(tenant.0)
                .bind(&self.instance);
            take_lease.fetch_one(connection).await
        };
        let fence = self
            .transact("taking a tenant from its holder", DbRole::Writer(tenant), take_lease)
            .await?;
        Ok(Lease { tenant, fence })
    }

    /// What the tenant's evidence says of who has this sign-in name.
    pub async fn person_ids(
        &self,
        tenant: TenantId,
        upn: &str,
    ) -> Result<Vec<PersonIds>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let known =
                sqlx::query_as(include_str!("../sql/known_of_person.sql")).bind(tenant.0).bind(upn);
            known.fetch_all(connection).await
        };
        self.transact("looking for a person", DbRole::Writer(tenant), look).await
    }
}

impl TenantRows {
    async fn execute(&mut self, statement: String) -> Result<(), SyncError> {
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *self.transaction);
        within(STEP, DbRole::Writer(self.tenant).deadline(), done).await.map(drop)
    }

    /// Begins to read a table, in the order of its key.
    pub async fn open(&mut self, table: usize) -> Result<(), SyncError> {
        let TenantTable { name, key, .. } = &self.tables[table];
        let declare = format!(
            "DECLARE rows NO SCROLL CURSOR FOR
             SELECT row_to_json(t)::text FROM defender.{name} t WHERE tenant_id = '{}' ORDER BY {}",
            self.tenant,
            key.join(", ")
        );
        self.place = format!("in defender.{name}, in one of its first rows");
        self.table = table;
        self.longest = BATCH_BYTES / 16;
        self.execute(declare).await
    }

    /// The next rows of the open table, each a JSON object in one line; none ends it.
    pub async fn next(&mut self) -> Result<Vec<String>, SyncError> {
        let fetch =
            format!("FETCH {} FROM rows", (BATCH_BYTES / self.longest).clamp(1, BATCH_ROWS));
        let rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(fetch)).persistent(false);
        let rows = rows.fetch_all(&mut *self.transaction);
        let rows = within(STEP, DbRole::Writer(self.tenant).deadline(), rows).await;
        let rows = rows.map_err(|error| error.at(&self.place))?;
        if let Some(last) = rows.last() {
            let name = &self.tables[self.table].name;
            self.place =
                format!("in defender.{name}, in one of the rows after {}", self.name_row(last));
        }
        match rows.iter().map(String::len).max() {
            Some(longest) => self.longest = longest,
            None => self.execute("CLOSE rows".to_owned()).await?,
        }
        Ok(rows)
    }

    /// A row of the open table by its key, without the content that a key may be a hash of.
    pub fn name_row(&self, row: &str) -> String {
        let TenantTable { name, key, hashes, .. } = &self.tables[self.table];
        let is_shown = |column: &&String| *column != "tenant_id" && !hashes.contains(column);
        let named = key.iter().filter(is_shown);
        let named =
            named.filter_map(|column| Some(format!("{column} {}", field(row, column)?.get())));
        let key = visible(&named.collect::<Vec<_>>().join(", "));
        if key.is_empty() { format!("a row of {name}") } else { key }
    }

    /// The tables that have rows of the tenant.
    pub async fn occupied(&mut self) -> Result<Vec<String>, SyncError> {
        let tenant = self.tenant;
        let look = async {
            let tables: Vec<String> = sqlx::query_scalar(include_str!("../sql/tenant_tables.sql"))
                .fetch_all(&mut *self.transaction)
                .await?;
            let mut occupied = Vec::new();
            for table in tables {
                let query =
                    format!("SELECT EXISTS (SELECT FROM defender.{table} WHERE tenant_id = $1)");
                let query = sqlx::query_scalar(AssertSqlSafe(query)).bind(tenant.0);
                if query.fetch_one(&mut *self.transaction).await? {
                    occupied.push(table);
                }
            }
            Ok(occupied)
        };
        within(STEP, DbRole::Writer(tenant).deadline(), look).await
    }

    /// Adds rows, a JSON array of objects. The policies refuse those of another tenant; one with a time that no client can
    /// show, infinity among them, is left out.
    pub async fn insert(
        &mut self,
        table: usize,
        columns: &[String],
        rows: &str,
    ) -> Result<u64, SyncError> {
        let TenantTable { name, columns: known, times, .. } = &self.tables[table];
        let named: Vec<&str> =
            known.iter().filter(|column| columns.contains(column)).map(String::as_str).collect();
        let named = named.join(", ");
        let bounds = times.iter().map(|time| {
            format!(" AND ({time} BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z') IS NOT FALSE")
        });
        let bounds: String = bounds.collect();
        let insert = format!(
            "INSERT INTO defender.{name} ({named}) SELECT {named}
             FROM json_populate_recordset(NULL::defender.{name}, $1::json) WHERE true{bounds}"
        );
        self.write(table, insert, rows).await
    }

    /// Adds the state of the tenant, a JSON array of one object, as far as an export of that moment can be believed.
    pub async fn insert_state(
        &mut self,
        rows: &str,
        taken_at: DateTime<Utc>,
    ) -> Result<u64, SyncError> {
        let write =
            sqlx::query(include_str!("../sql/restore_sync_state.sql")).bind(rows).bind(taken_at);
        let write = write.execute(&mut *self.transaction);
        let written = within(STEP, DbRole::Writer(self.tenant).deadline(), write).await?;
        Ok(written.rows_affected())
    }

    /// Takes out of the tenant's name what a terminal would obey.
    pub async fn clean_name(&mut self) -> Result<(), SyncError> {
        let clean = sqlx::query(include_str!("../sql/clean_tenant_name.sql")).bind(self.tenant.0);
        let clean = clean.execute(&mut *self.transaction);
        within(STEP, DbRole::Writer(self.tenant).deadline(), clean).await.map(drop)
    }

    /// Writes changed rows over the old ones, a JSON array of objects. A key that is a hash over the old content would tell
    /// it to who guesses, so it becomes a random one.
    pub async fn update(&mut self, table: usize, rows: &str) -> Result<u64, SyncError> {
        let TenantTable { name, columns, key, hashes, .. } = &self.tables[table];
        let values = columns
            .iter()
            .filter(|column| !key.contains(column))
            .map(|column| format!("{column} = n.{column}"));
        let hashes =
            hashes.iter().map(|column| format!("{column} = sha256(uuid_send(gen_random_uuid()))"));
        let assignments: Vec<String> = values.chain(hashes).collect();
        let same: Vec<String> =
            key.iter().map(|column| format!("t.{column} = n.{column}")).collect();
        let update = format!(
            "UPDATE defender.{name} t SET {} FROM json_populate_recordset(NULL::defender.{name}, $1::json) n WHERE {}",
            assignments.join(", "),
            same.join(" AND ")
        );
        self.write(table, update, rows).await
    }

    async fn write(
        &mut self,
        table: usize,
        statement: String,
        rows: &str,
    ) -> Result<u64, SyncError> {
        let write =
            sqlx::query(AssertSqlSafe(statement)).bind(rows).execute(&mut *self.transaction);
        let written = within(STEP, DbRole::Writer(self.tenant).deadline(), write).await;
        let written = written
            .map_err(|error| error.at(&format!("in defender.{}", self.tables[table].name)))?;
        Ok(written.rows_affected())
    }

    /// Counts the summaries anew, so that they hold nothing that is not in the rows.
    pub async fn summarise(&mut self) -> Result<(), SyncError> {
        let summarise = sqlx::query(include_str!("../sql/summarise.sql")).bind(self.tenant.0);
        let summarise = summarise.execute(&mut *self.transaction);
        within(STEP, DbRole::Writer(self.tenant).deadline(), summarise).await.map(drop)
    }

    /// From now on it holds, and nobody works on the tenant yet. Fails when a seized tenant is ours no more: somebody else
    /// may have written what we have not read.
    pub async fn finish(
        mut self,
        action: &str,
        actor: &str,
        counts: &RowCounts,
        seized: Option<Lease>,
    ) -> Result<(), SyncError> {
        let tenant = self.tenant;
        let finish = async {
            if let Some(lease) = seized {
                let fence = sqlx::query(include_str!("../sql/check_fence.sql"))
                    .bind(tenant.0)
                    .bind(lease.fence);
                let fence = fence
                    .bind(&self.instance)
                    .bind(true)
                    .fetch_optional(&mut *self.transaction)
                    .await?;
                if fence.is_none() {
                    return Ok(false);
                }
            }
            let free = "UPDATE defender.sync_state SET lease_owner = NULL, lease_expires_at = NULL WHERE tenant_id = $1";
            sqlx::query(free).bind(tenant.0).execute(&mut *self.transaction).await?;
            audit(&mut self.transaction, tenant, action, actor, counts).await?;
            self.transaction.commit().await.map(|()| true)
        };
        match within(STEP, DbRole::Writer(tenant).deadline(), finish).await? {
            true => Ok(()),
            false => Err(SyncError::LeaseLost),
        }
    }
}
