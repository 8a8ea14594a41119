//! Restores and changes the rows of a tenant from JSON.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};

use super::rows::{TenantRows, TenantTable};
use crate::error::SyncError;

impl TenantRows {
    /// Adds rows, a JSON array of objects. Policies refuse rows of another tenant. Rows with a time that clients cannot
    /// show, such as infinity, are left out.
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

    /// Adds the tenant's state, a JSON array of one object, as far as it is valid for an export of that time.
    pub async fn insert_state(
        &mut self,
        rows: &str,
        taken_at: DateTime<Utc>,
    ) -> Result<u64, SyncError> {
        let restore = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("../sql/restore_sync_state.sql"))
                .bind(rows)
                .bind(taken_at)
                .execute(connection)
                .await
        };
        Ok(self.within(restore).await?.rows_affected())
    }

    /// Removes terminal control characters from the tenant's name.
    pub async fn clean_name(&mut self) -> Result<(), SyncError> {
        self.execute_for_tenant(include_str!("../sql/clean_tenant_name.sql")).await
    }

    /// Writes changed rows over the old ones, a JSON array of objects. A key that is a hash of the old content becomes a
    /// random one: with the hash, the old content could be guessed.
    pub async fn update(&mut self, table: usize, rows: &str) -> Result<u64, SyncError> {
        let TenantTable { name, columns, key, hashes, .. } = &self.tables[table];
        let values = columns
            .iter()
            .filter(|column| !key.contains(column))
            .map(|column| format!("{column} = n.{column}"));
        let random_hashes =
            hashes.iter().map(|column| format!("{column} = sha256(uuid_send(gen_random_uuid()))"));
        let assignments: Vec<String> = values.chain(random_hashes).collect();
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
        let write = async |connection: &mut PgConnection| {
            sqlx::query(AssertSqlSafe(statement)).bind(rows).execute(connection).await
        };
        let written = self.within(write).await;
        let name = &self.tables[table].name;
        Ok(written.map_err(|error| error.at(&format!("in defender.{name}")))?.rows_affected())
    }

    /// Writes the summaries again, so that they contain only what the rows contain.
    pub async fn summarise(&mut self) -> Result<(), SyncError> {
        self.execute_for_tenant(include_str!("../sql/summarise.sql")).await
    }

    async fn execute_for_tenant(&mut self, statement: &'static str) -> Result<(), SyncError> {
        let tenant = self.tenant;
        let execute = async |connection: &mut PgConnection| {
            sqlx::query(statement).bind(tenant.0).execute(connection).await
        };
        self.within(execute).await.map(drop)
    }
}
