//! What the API could not serve. A gap is stored before the watermark passes it, and goes when it was read.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{DbRole, Lease, Store};
use crate::error::SyncError;
use crate::incident::gap::{Gap, GapReason};
use crate::tenant::TenantId;

impl Store {
    /// The tenant's gaps, those that were not tried for the longest time first.
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

    /// Remembers a gap and why it is one, or that it was tried again.
    pub async fn record_gap(&self, lease: &Lease, gap: &Gap) -> Result<(), SyncError> {
        let GapReason { class, message } = &gap.reason;
        let note = async |connection: &mut PgConnection| {
            if !self.holds(lease, true, connection).await? {
                return Ok(false);
            }
            let upsert = sqlx::query(include_str!("sql/upsert_gap.sql"));
            let upsert =
                upsert.bind(lease.tenant.0).bind(gap.from).bind(gap.to).bind(class).bind(message);
            upsert.execute(connection).await.map(|_| true)
        };
        let noted = self.transact("noting a gap", DbRole::Writer(lease.tenant), note).await?;
        if noted { Ok(()) } else { Err(SyncError::LeaseLost) }
    }

    /// Forgets a gap that was read. What was read of it is on the disk with this.
    pub async fn delete_gap(&self, lease: &Lease, gap: &Gap) -> Result<(), SyncError> {
        let forget = async |connection: &mut PgConnection| {
            if !self.holds(lease, true, connection).await? {
                return Ok(false);
            }
            let delete =
                sqlx::query(include_str!("sql/delete_gap.sql")).bind(lease.tenant.0).bind(gap.from);
            delete.execute(connection).await.map(|_| true)
        };
        let forgotten =
            self.transact("forgetting a gap", DbRole::Writer(lease.tenant), forget).await?;
        if forgotten { Ok(()) } else { Err(SyncError::LeaseLost) }
    }
}
