//! Summaries of a tenant, from which the views answer questions about all tenants; `migrations/0004_summaries.sql` says how.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::tenant::TenantId;

impl Store {
    /// The first tenant after the given one whose summaries are not current and that nobody works on.
    pub async fn next_unsummarised(&self, after: TenantId) -> Result<Option<TenantId>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let query = sqlx::query_scalar::<_, Uuid>(include_str!("sql/next_unsummarised.sql"));
            query.bind(after.0).fetch_optional(connection).await
        };
        let found = self
            .transact("looking for summaries that are not current", DbRole::Dispatcher, look)
            .await?;
        Ok(found.map(TenantId))
    }

    /// Brings the summaries of a tenant up to date.
    pub async fn summarise(&self, tenant: TenantId) -> Result<(), SyncError> {
        let write = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/summarise.sql")).bind(tenant.0).execute(connection).await
        };
        self.transact("writing summaries", DbRole::Writer(tenant), write).await.map(drop)
    }
}
