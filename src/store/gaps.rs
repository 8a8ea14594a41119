//! The gaps of each tenant. A gap is stored before the watermark passes it, and deleted once it was read.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::lease::Durability;
use super::{DbRole, Lease, Store};
use crate::error::SyncError;
use crate::incident::gap::{Gap, GapReason};
use crate::tenant::TenantId;

impl Store {
    /// The tenant's gaps, the ones that were not tried for the longest time first.
    pub async fn gaps(&self, tenant: TenantId) -> Result<Vec<Gap>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let query = sqlx::query_as::<_, (DateTime<Utc>, DateTime<Utc>, String, String)>(
                include_str!("sql/known_gaps.sql"),
            );
            query.bind(tenant.0).fetch_all(connection).await
        };
        let rows = self.transact("looking up gaps", DbRole::Writer(tenant), look).await?;
        let gap =
            |(from, to, class, message)| Gap { from, to, reason: GapReason { class, message } };
        Ok(rows.into_iter().map(gap).collect())
    }

    /// Stores a gap, or that it was tried again.
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

    /// Deletes a gap that was read. This commit takes what was read of it to the disk.
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
