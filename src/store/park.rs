//! Parks and resumes a tenant for an operator.

use sqlx::PgConnection;

use super::tenant_data::purge::{RowCounts, audit, lock};
use super::{DbRole, Store};
use crate::error::SyncError;
use crate::tenant::TenantId;

impl Store {
    /// Ends the tenant's lease and keeps it from being claimed until it is resumed. False for an unknown tenant.
    pub async fn park(
        &self,
        tenant: TenantId,
        actor: &str,
        reason: Option<&str>,
    ) -> Result<bool, SyncError> {
        let park = async |connection: &mut PgConnection| {
            lock(connection, tenant).await?;
            let park = sqlx::query(include_str!("sql/park_tenant.sql"))
                .bind(tenant.0)
                .bind(actor)
                .bind(reason);
            let parked = park.execute(&mut *connection).await?.rows_affected() > 0;
            audit(connection, tenant, "parked", actor, &RowCounts::new()).await?;
            Ok(parked)
        };
        self.transact("parking a tenant", DbRole::Writer(tenant), park).await
    }

    /// Makes a parked tenant due, whatever parked it. False where it was not parked.
    pub async fn resume(&self, tenant: TenantId, actor: &str) -> Result<bool, SyncError> {
        let resume = async |connection: &mut PgConnection| {
            let resume = sqlx::query(include_str!("sql/resume_tenant.sql")).bind(tenant.0);
            let resumed = resume.execute(&mut *connection).await?.rows_affected() > 0;
            if resumed {
                audit(connection, tenant, "resumed", actor, &RowCounts::new()).await?;
            }
            Ok(resumed)
        };
        self.transact("resuming a tenant", DbRole::Writer(tenant), resume).await
    }
}
