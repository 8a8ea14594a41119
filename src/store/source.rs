//! The API that a tenant is read from, and what a new one must agree with.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::audit::{RowCounts, audit};
use super::lease::Durability;
use super::{Claim, DbRole, Store};
use crate::error::SyncError;
use crate::tenant::{Source, TenantId};

/// How much of a tenant is stored.
#[derive(Debug, Clone, Copy, FromRow)]
pub struct StoredExtent {
    /// The latest `lastUpdateTime` of its incidents; `None` without incidents.
    pub newest: Option<DateTime<Utc>>,
    pub has_alerts: bool,
}

/// How a stored incident is identified.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredIdentity {
    pub incident_id: i64,
    pub created_time: Option<DateTime<Utc>>,
    pub last_update_time: DateTime<Utc>,
    /// Ids of its alerts.
    pub alerts: Vec<String>,
    /// Those that the stored version listed.
    pub current_alerts: Vec<String>,
}

impl Store {
    /// How much of the tenant is stored.
    pub async fn stored_extent(&self, tenant: TenantId) -> Result<StoredExtent, SyncError> {
        let stored_extent = include_str!("sql/stored_extent.sql");
        self.statement("looking for stored incidents", DbRole::Writer(tenant), stored_extent)
            .bind(tenant.0)
            .fetch_one()
            .await
    }

    /// Those of these incidents that are stored.
    pub async fn stored_identities(
        &self,
        tenant: TenantId,
        incidents: &[i64],
    ) -> Result<Vec<StoredIdentity>, SyncError> {
        let step = "reading ids of stored incidents";
        self.statement(step, DbRole::Writer(tenant), include_str!("sql/stored_identities.sql"))
            .bind(tenant.0)
            .bind(incidents)
            .fetch_all()
            .await
    }

    /// Makes `source` the one that the tenant is read from, and returns the claim as it is then. `was_read` is false before
    /// the first page of a new tenant.
    pub async fn switch_source(
        &self,
        claim: &Claim,
        source: Source,
        was_read: bool,
    ) -> Result<Claim, SyncError> {
        let switch = async |connection: &mut PgConnection| {
            sqlx::query_as(include_str!("sql/switch_source.sql"))
                .bind(claim.lease.tenant.0)
                .bind(source.as_str())
                .bind(was_read)
                .fetch_one(connection)
                .await
        };
        let step = "changing the source of a tenant";
        let (watermark, source_since): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
            self.transact_leased(step, &claim.lease, Durability::Immediate, switch).await?;
        // A watermark that the claim ignored stays ignored.
        let watermark = claim.watermark.and(watermark);
        Ok(Claim { source, source_since, watermark, ..*claim })
    }

    /// Records that an operator wrote another source into the tenant's configuration.
    pub async fn audit_source(
        &self,
        tenant: TenantId,
        source: Source,
        actor: &str,
    ) -> Result<(), SyncError> {
        let action = format!("source set to {}", source.as_str());
        let record = async |connection: &mut PgConnection| {
            audit(connection, tenant, &action, actor, &RowCounts::new()).await
        };
        self.transact("recording a move", DbRole::Writer(tenant), record).await
    }
}
