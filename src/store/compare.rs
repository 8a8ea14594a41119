//! What `verify` must know of the stored rows.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::incident::gap::Gap;
use crate::incident::hash::Hash;
use crate::incident::raw::RawIncident;
use crate::tenant::TenantId;

/// A stored alert.
#[derive(Debug, FromRow)]
pub struct StoredAlert {
    /// Its key.
    pub alert_id: String,
    /// The incident that listed it last.
    pub incident_id: i64,
    /// Its own version.
    pub last_updated_time: Option<DateTime<Utc>>,
    /// The version of the incident that listed it last.
    pub last_seen: DateTime<Utc>,
    /// How many rows of evidence it has.
    pub evidence: i64,
    /// How many devices.
    pub devices: i64,
}

impl Store {
    /// The tenant's watermark; `None` before anything was read.
    pub async fn watermark(&self, tenant: TenantId) -> Result<Option<DateTime<Utc>>, SyncError> {
        let read = async |connection: &mut PgConnection| {
            let query =
                sqlx::query_scalar::<_, Option<DateTime<Utc>>>(include_str!("sql/watermark.sql"));
            query.bind(tenant.0).fetch_optional(connection).await
        };
        Ok(self.transact("reading the watermark", DbRole::Reader, read).await?.flatten())
    }

    /// The stored alerts of these ids.
    pub async fn stored_alerts(
        &self,
        tenant: TenantId,
        ids: &[&str],
    ) -> Result<Vec<StoredAlert>, SyncError> {
        let read = async |connection: &mut PgConnection| {
            let query = sqlx::query_as::<_, StoredAlert>(include_str!("sql/stored_alerts.sql"));
            query.bind(tenant.0).bind(ids).fetch_all(connection).await
        };
        self.transact("reading stored alerts", DbRole::Reader, read).await
    }

    /// Ids and hashes of those elements that are in quarantine.
    pub async fn quarantined(
        &self,
        tenant: TenantId,
        elements: &[&RawIncident<'_>],
    ) -> Result<Vec<(Option<i64>, Vec<u8>)>, SyncError> {
        let ids: Vec<i64> =
            elements.iter().filter_map(|element| element.head.incident_id).collect();
        let hashes: Vec<Hash> = elements.iter().map(|element| element.hash).collect();
        let read = async |connection: &mut PgConnection| {
            let query =
                sqlx::query_as::<_, (Option<i64>, Vec<u8>)>(include_str!("sql/quarantined.sql"));
            query.bind(tenant.0).bind(ids).bind(hashes).fetch_all(connection).await
        };
        self.transact("looking up the quarantine", DbRole::Reader, read).await
    }

    /// Stored incidents that were last updated in this range and are not among `listed`.
    pub async fn unlisted_incidents(
        &self,
        tenant: TenantId,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        listed: &[i64],
        gaps: &[Gap],
    ) -> Result<Vec<i64>, SyncError> {
        let (begins, ends): (Vec<_>, Vec<_>) = gaps.iter().map(|gap| (gap.from, gap.to)).unzip();
        let read = async |connection: &mut PgConnection| {
            let query = sqlx::query_scalar::<_, i64>(include_str!("sql/unlisted_incidents.sql"));
            let query =
                query.bind(tenant.0).bind(from).bind(to).bind(listed).bind(begins).bind(ends);
            query.fetch_all(connection).await
        };
        self.transact("looking for incidents that the API does not list", DbRole::Reader, read)
            .await
    }
}
