//! What the API could not serve. A hole is stored before the watermark passes it, and goes when it was read.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Lease, Rights, Store};
use crate::defender::paging::Hole;
use crate::error::SyncError;
use crate::tenant::TenantId;

impl Store {
    /// The tenant's holes, those that were not tried for the longest time first.
    pub async fn holes(&self, tenant: TenantId) -> Result<Vec<Hole>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            let query = sqlx::query_as::<_, (DateTime<Utc>, DateTime<Utc>)>(include_str!("sql/known_holes.sql"));
            query.bind(tenant.0).fetch_all(connection).await
        };
        let rows = self.transact("looking up holes", Rights::Writer(tenant), look).await?;
        Ok(rows.into_iter().map(|(from, to)| Hole { from, to }).collect())
    }

    /// Remembers a hole and why it is one, or that it was tried again.
    pub async fn note_hole(&self, lease: &Lease, hole: Hole, why: &SyncError) -> Result<(), SyncError> {
        let (class, message) = (why.verdict().class, why.to_string());
        let note = async |connection: &mut PgConnection| {
            if !self.holds(lease, true, connection).await? {
                return Ok(false);
            }
            let upsert = sqlx::query(include_str!("sql/upsert_hole.sql"));
            let upsert = upsert.bind(lease.tenant.0).bind(hole.from).bind(hole.to).bind(class).bind(message);
            upsert.execute(connection).await.map(|_| true)
        };
        let noted = self.transact("noting a hole", Rights::Writer(lease.tenant), note).await?;
        if noted { Ok(()) } else { Err(SyncError::LeaseLost) }
    }

    /// Forgets a hole that was read. What was read of it is on the disk with this.
    pub async fn forget_hole(&self, lease: &Lease, hole: Hole) -> Result<(), SyncError> {
        let forget = async |connection: &mut PgConnection| {
            if !self.holds(lease, true, connection).await? {
                return Ok(false);
            }
            let delete = sqlx::query(include_str!("sql/delete_hole.sql")).bind(lease.tenant.0).bind(hole.from);
            delete.execute(connection).await.map(|_| true)
        };
        let forgotten = self.transact("forgetting a hole", Rights::Writer(lease.tenant), forget).await?;
        if forgotten { Ok(()) } else { Err(SyncError::LeaseLost) }
    }
}
