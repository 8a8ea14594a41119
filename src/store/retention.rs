//! Deletes rows that are older than the retention allows, under the tenant's lease so that no page is written meanwhile.

use std::time::Duration;

use sqlx::PgConnection;

use super::audit::{RowCounts, audit};
use super::lease::{Durability, interval};
use super::{Lease, Store};
use crate::error::SyncError;
use crate::tenant::Retention;

/// About a second of work: a run that waits for the tenant's row waits no longer.
const INCIDENTS_AT_ONCE: i64 = 500;

impl Store {
    /// Deletes some of the closed incidents that were not updated for `age`, with their dependent rows; open ones stay at any
    /// age. Returns how many rows were deleted; none at the end.
    pub async fn retain_incidents(
        &self,
        lease: &Lease,
        age: Duration,
    ) -> Result<RowCounts, SyncError> {
        let tenant = lease.tenant.0;
        let delete = async |connection: &mut PgConnection| {
            let old: Vec<i64> = sqlx::query_scalar(include_str!("sql/old_incidents.sql"))
                .bind(tenant)
                .bind(interval(age))
                .bind(INCIDENTS_AT_ONCE)
                .fetch_all(&mut *connection)
                .await?;
            // A DELETE of no rows would still mark the summaries as not current.
            if old.is_empty() {
                return Ok(RowCounts::new());
            }
            let deleted: Vec<(String, i64)> =
                sqlx::query_as(include_str!("sql/delete_incidents.sql"))
                    .bind(tenant)
                    .bind(old)
                    .fetch_all(&mut *connection)
                    .await?;
            let counts =
                deleted.into_iter().map(|(table, count)| (table, count.unsigned_abs())).collect();
            audit(connection, lease.tenant, "retention", &self.instance, &counts).await?;
            Ok(counts)
        };
        self.transact_leased("deleting old incidents", lease, Durability::Immediate, delete).await
    }

    /// Deletes old devices that no alert names, old incidents in quarantine, old runs, and old notes of deletions.
    pub async fn retain_rest(&self, lease: &Lease, retention: Retention) -> Result<(), SyncError> {
        let tenant = lease.tenant.0;
        let delete = async |connection: &mut PgConnection| {
            if let Some(age) = retention.incidents {
                for delete in [
                    include_str!("sql/delete_old_devices.sql"),
                    include_str!("sql/delete_old_rejected.sql"),
                ] {
                    sqlx::query(delete)
                        .bind(tenant)
                        .bind(interval(age))
                        .execute(&mut *connection)
                        .await?;
                }
            }
            sqlx::query(include_str!("sql/delete_old_runs.sql"))
                .bind(tenant)
                .bind(interval(retention.runs))
                .execute(&mut *connection)
                .await?;
            sqlx::query(include_str!("sql/forget_deletions.sql")).execute(connection).await?;
            Ok(())
        };
        self.transact_leased("deleting old rows", lease, Durability::Immediate, delete).await
    }
}
