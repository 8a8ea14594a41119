//! Parks and resumes a tenant for an operator.

use sqlx::PgConnection;

use super::audit::{RowCounts, audit};
use super::lease::lock_tenant;
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
            lock_tenant(connection, tenant).await?;
            let park = sqlx::query(include_str!("sql/park_tenant.sql"))
                .bind(tenant.0)
                .bind(actor)
                .bind(reason);
            let is_known = park.execute(&mut *connection).await?.rows_affected() > 0;
            audit(connection, tenant, "parked", actor, &RowCounts::new()).await?;
            Ok(is_known)
        };
        self.transact("parking a tenant", DbRole::Writer(tenant), park).await
    }

    /// Makes a parked tenant due, whether an operator or an error parked it. False if it was not parked.
    pub async fn resume(&self, tenant: TenantId, actor: &str) -> Result<bool, SyncError> {
        let resume = async |connection: &mut PgConnection| {
            let resume = sqlx::query(include_str!("sql/resume_tenant.sql")).bind(tenant.0);
            let was_parked = resume.execute(&mut *connection).await?.rows_affected() > 0;
            if was_parked {
                audit(connection, tenant, "resumed", actor, &RowCounts::new()).await?;
            }
            Ok(was_parked)
        };
        self.transact("resuming a tenant", DbRole::Writer(tenant), resume).await
    }
}
