//! What the statements rely on and a database administrator may have taken away.

use sqlx::PgConnection;

use super::{DbRole, Store};
use crate::error::SyncError;

/// A line for each column, key, index, policy and view, as `sql/schema_objects.sql` tells them of a database that was just migrated.
const REQUIRED: &str = include_str!("required_objects.txt");

/// What is missing of the schema.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MissingObjects {
    /// Nothing works without these.
    pub needed: Vec<&'static str>,
    /// Without these it works slowly.
    pub indexes: Vec<&'static str>,
    /// Without these reports fail.
    pub views: Vec<&'static str>,
}

impl Store {
    /// What the schema holds, in the words of [`Store::missing_objects`].
    pub async fn schema_objects(&self) -> Result<Vec<String>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            sqlx::query_scalar::<_, String>(include_str!("sql/schema_objects.sql"))
                .fetch_all(connection)
                .await
        };
        self.transact("looking for what the schema must hold", DbRole::Login, look).await
    }

    /// What is missing of the schema.
    pub async fn missing_objects(&self) -> Result<MissingObjects, SyncError> {
        let held = self.schema_objects().await?;
        let mut missing = MissingObjects::default();
        for line in REQUIRED.lines().filter(|line| !held.iter().any(|held| held == line)) {
            match line.split(' ').next() {
                Some("index") => missing.indexes.push(line),
                Some("view") => missing.views.push(line),
                _ => missing.needed.push(line),
            }
        }
        Ok(missing)
    }

    /// Fails when something is missing that nothing works without; tells of indexes and views.
    pub(super) async fn check_objects(&self) -> Result<(), SyncError> {
        let MissingObjects { needed: missing, indexes, views } = self.missing_objects().await?;
        for view in views {
            tracing::warn!(owner = "operator", "the {view} is missing; reports that ask it fail");
        }
        for index in indexes {
            tracing::warn!(
                owner = "operator",
                "{index} of the schema defender is missing; queries will be slow"
            );
        }
        if missing.is_empty() {
            return Ok(());
        }
        let what =
            format!("schema defender is missing objects: {}. Restore them", missing.join(", "));
        Err(SyncError::Schema { what })
    }
}
