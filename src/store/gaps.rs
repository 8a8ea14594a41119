//! The gaps of each tenant. A gap is stored before the watermark passes it and deleted after it was read.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::lease::Durability;
use super::{DbRole, Lease, Store};
use crate::error::SyncError;
use crate::incident::gap::{Gap, GapReason};
use crate::tenant::TenantId;

impl Store {
    /// The tenant's gaps, in the order in which they were last tried.
    pub async fn gaps(&self, tenant: TenantId) -> Result<Vec<Gap>, SyncError> {
        let known_gaps = include_str!("sql/known_gaps.sql");
        let rows: Vec<(DateTime<Utc>, DateTime<Utc>, String, String)> = self
            .statement("looking up gaps", DbRole::Writer(tenant), known_gaps)
            .bind(tenant.0)
            .fetch_all()
            .await?;
        let gap =
            |(from, to, class, message)| Gap { from, to, reason: GapReason { class, message } };
        Ok(rows.into_iter().map(gap).collect())
    }

    /// Stores a gap, or the time at which it was tried again.
    pub async fn record_gap(&self, lease: &Lease, gap: &Gap) -> Result<(), SyncError> {
        let GapReason { class, message } = &gap.reason;
        let upsert = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/upsert_gap.sql"))
                .bind(lease.tenant.0)
                .bind(gap.from)
                .bind(gap.to)
                .bind(class)
                .bind(message)
                .execute(connection)
                .await
        };
        self.transact_leased("recording a gap", lease, Durability::Immediate, upsert)
            .await
            .map(drop)
    }

    /// Deletes a gap that was read. This commit makes the pages read in it durable.
    pub async fn delete_gap(&self, lease: &Lease, gap: &Gap) -> Result<(), SyncError> {
        let delete = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/delete_gap.sql"))
                .bind(lease.tenant.0)
                .bind(gap.from)
                .execute(connection)
                .await
        };
        self.transact_leased("deleting a gap", lease, Durability::Immediate, delete).await.map(drop)
    }
}
