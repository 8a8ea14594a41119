//! What the statements rely on and a database administrator may have taken away.

use sqlx::PgConnection;

use super::{Rights, Store};
use crate::error::SyncError;

/// A line for each column, key, index and policy, as `sql/schema_objects.sql` tells them of a database that was just migrated.
const REQUIRED: &str = include_str!("required_objects.txt");

impl Store {
    /// What the schema holds, in the words of [`Store::missing_objects`].
    pub async fn schema_objects(&self) -> Result<Vec<String>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            sqlx::query_scalar::<_, String>(include_str!("sql/schema_objects.sql")).fetch_all(connection).await
        };
        self.transact("looking for what the schema must hold", Rights::Login, look).await
    }

    /// What is missing of the schema: first what nothing works without, then indexes, without which it works slowly.
    pub async fn missing_objects(&self) -> Result<(Vec<&'static str>, Vec<&'static str>), SyncError> {
        let held = self.schema_objects().await?;
        let missing = REQUIRED.lines().filter(|line| !held.iter().any(|held| held == line));
        Ok(missing.partition(|line| !line.starts_with("index ")))
    }

    /// Fails when something is missing that nothing works without; tells of indexes.
    pub(super) async fn check_objects(&self) -> Result<(), SyncError> {
        let (missing, indexes) = self.missing_objects().await?;
        for index in indexes {
            tracing::warn!(who = "operator", "{index} of the schema defender is missing; queries will be slow");
        }
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("somebody has taken away from the schema defender: {}; restore it", missing.join(", "));
        Err(SyncError::Schema { what })
    }
}
