//! Writes a page: one transaction, all or nothing, and at the end of a window the watermark with it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::lease::Durability;
use super::write_rows::write_rows;
use super::{Lease, Store};
use crate::error::SyncError;
use crate::failpoint;
use crate::incident::hash::Hash;
use crate::incident::rows::PageRows;

/// The position of a page in its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagePosition {
    /// More pages follow.
    MidWindow,
    /// With this page the window is drained, and the watermark may move to this time.
    WindowEnd(Option<DateTime<Utc>>),
    /// A page of alerts, after which their own watermark may move to this time.
    Alerts(Option<DateTime<Utc>>),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WriteCounts {
    pub incidents: usize,
    pub alerts: usize,
    pub rejected: usize,
    /// Shows later whether the page is still stored.
    pub last_write: Option<LastWrite>,
}

/// The last incident version that a run has written. If it is stored, so is everything that the run wrote before: a crash or
/// a failover loses the newest commits first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWrite {
    incident_id: i64,
    content_hash: Hash,
}

impl Store {
    /// Stores a page and, at the end of its window, the watermark. Without anything to store there is no transaction. Fails
    /// if the page that the run wrote before is missing.
    pub async fn write_page(
        &self,
        lease: &Lease,
        rows: &PageRows<'_>,
        position: PagePosition,
        before: Option<LastWrite>,
    ) -> Result<WriteCounts, SyncError> {
        let (watermark, advance) = match position {
            PagePosition::MidWindow => (None, ""),
            PagePosition::WindowEnd(watermark) => {
                (watermark, include_str!("sql/advance_watermark.sql"))
            }
            PagePosition::Alerts(watermark) => {
                (watermark, include_str!("sql/advance_alerts_watermark.sql"))
            }
        };
        if rows.is_empty() && watermark.is_none() {
            return Ok(WriteCounts { last_write: before, ..WriteCounts::default() });
        }
        // The commit at the end of a window makes all pages before it durable. A page of alerts leaves nothing by which its
        // loss could be noticed.
        let durability = match position {
            PagePosition::MidWindow => Durability::Deferred,
            PagePosition::WindowEnd(_) | PagePosition::Alerts(_) => Durability::Immediate,
        };
        let write = async |connection: &mut PgConnection| {
            if let Some(last_write) = before
                && !last_write_exists(lease, last_write, connection).await?
            {
                return Ok(Err(SyncError::LostCommit));
            }
            let alerts = write_rows(connection, lease, rows).await?;
            failpoint::reach("page.uncommitted").await;
            if let Some(watermark) = watermark {
                sqlx::query(advance)
                    .bind(lease.tenant.0)
                    .bind(watermark)
                    .execute(connection)
                    .await?;
                failpoint::reach("watermark.uncommitted").await;
            }
            let newest = rows.incidents.last().map(|row| LastWrite {
                incident_id: row.incident_id,
                content_hash: row.content_hash,
            });
            Ok(Ok(WriteCounts {
                incidents: rows.incidents.len(),
                alerts,
                rejected: rows.rejected.len(),
                last_write: newest.or(before),
            }))
        };
        let written = self.transact_leased("writing a page", lease, durability, write).await?;
        let committed = if watermark.is_some() { "watermark.committed" } else { "page.committed" };
        failpoint::reach(committed).await;
        written
    }
}

async fn last_write_exists(
    lease: &Lease,
    last_write: LastWrite,
    connection: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(include_str!("sql/last_write_exists.sql"))
        .bind(lease.tenant.0)
        .bind(last_write.incident_id)
        .bind(last_write.content_hash)
        .fetch_one(connection)
        .await
}
