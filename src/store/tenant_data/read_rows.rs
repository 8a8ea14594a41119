//! Reads the tables of a tenant as JSON, a batch at a time.

use sqlx::{AssertSqlSafe, PgConnection};

use super::rows::{BATCH_BYTES, Cursor, TenantRows, TenantTable};
use crate::error::{SyncError, visible};
use crate::http_client::field;

const BATCH_ROWS: usize = 1_000;

impl TenantRows {
    /// Begins to read a table, in the order of its key.
    pub async fn open(&mut self, table: usize) -> Result<(), SyncError> {
        let TenantTable { name, key, .. } = &self.tables[table];
        let declare = format!(
            "DECLARE rows NO SCROLL CURSOR FOR
             SELECT row_to_json(t)::text FROM defender.{name} t WHERE tenant_id = '{}' ORDER BY {}",
            self.tenant,
            key.join(", ")
        );
        let place = format!("in defender.{name}, in one of its first rows");
        self.cursor = Cursor { table, longest: BATCH_BYTES / 16, place };
        self.execute(declare).await
    }

    /// The next rows of the open table, each a JSON object in one line; empty at its end.
    pub async fn next(&mut self) -> Result<Vec<String>, SyncError> {
        let count = (BATCH_BYTES / self.cursor.longest).clamp(1, BATCH_ROWS);
        let fetch = async |connection: &mut PgConnection| {
            sqlx::query_scalar(AssertSqlSafe(format!("FETCH {count} FROM rows")))
                .persistent(false)
                .fetch_all(connection)
                .await
        };
        let fetched = self.within(fetch).await;
        let mut rows: Vec<String> = fetched.map_err(|error| error.at(&self.cursor.place))?;
        // A payload may have line breaks between its values, as it was served.
        for row in rows.iter_mut().filter(|row| row.contains('\n')) {
            *row = row.replace('\n', " ");
        }
        if let Some(last) = rows.last() {
            let name = &self.tables[self.cursor.table].name;
            self.cursor.place =
                format!("in defender.{name}, in one of the rows after {}", self.name_row(last));
        }
        match rows.iter().map(String::len).max() {
            Some(longest) => self.cursor.longest = longest,
            None => self.execute("CLOSE rows".to_owned()).await?,
        }
        Ok(rows)
    }

    async fn execute(&mut self, statement: String) -> Result<(), SyncError> {
        let execute = async |connection: &mut PgConnection| {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await
        };
        self.within(execute).await.map(drop)
    }

    /// Names a row of the open table by its key, without hashes of its content.
    pub fn name_row(&self, row: &str) -> String {
        let TenantTable { name, key, hashes, .. } = &self.tables[self.cursor.table];
        let is_shown = |column: &&String| *column != "tenant_id" && !hashes.contains(column);
        let named: Vec<String> = key
            .iter()
            .filter(is_shown)
            .filter_map(|column| Some(format!("{column} {}", field(row, column)?.get())))
            .collect();
        let key = visible(&named.join(", "));
        if key.is_empty() { format!("a row of {name}") } else { key }
    }

    /// The tables that have rows of the tenant.
    pub async fn occupied(&mut self) -> Result<Vec<String>, SyncError> {
        let tenant = self.tenant;
        let look = async |connection: &mut PgConnection| {
            let tables: Vec<String> = sqlx::query_scalar(include_str!("../sql/tenant_tables.sql"))
                .fetch_all(&mut *connection)
                .await?;
            let mut occupied = Vec::new();
            for table in tables {
                let has_rows =
                    format!("SELECT EXISTS (SELECT FROM defender.{table} WHERE tenant_id = $1)");
                let has_rows = sqlx::query_scalar(AssertSqlSafe(has_rows)).bind(tenant.0);
                if has_rows.fetch_one(&mut *connection).await? {
                    occupied.push(table);
                }
            }
            Ok(occupied)
        };
        self.within(look).await
    }
}
