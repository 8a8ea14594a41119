//! Summaries of a tenant, from which the views answer questions about all tenants: see `migrations/0004_summaries.sql`.

use uuid::Uuid;

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::tenant::TenantId;

impl Store {
    /// The first tenant after the given one whose summaries are not current and that no run works on.
    pub async fn next_unsummarised(&self, after: TenantId) -> Result<Option<TenantId>, SyncError> {
        let step = "looking for summaries that are not current";
        let found: Option<Uuid> = self
            .statement(step, DbRole::Dispatcher, include_str!("sql/next_unsummarised.sql"))
            .bind(after.0)
            .fetch_optional_scalar()
            .await?;
        Ok(found.map(TenantId))
    }

    /// Brings the summaries of a tenant up to date.
    pub async fn summarise(&self, tenant: TenantId) -> Result<(), SyncError> {
        let summarise = include_str!("sql/summarise.sql");
        self.statement("writing summaries", DbRole::Writer(tenant), summarise)
            .bind(tenant.0)
            .execute()
            .await
    }
}
