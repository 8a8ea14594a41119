//! What `verify` compares with the API.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::{DbRole, Store};
use crate::error::SyncError;
use crate::incident::decode::SHARED_ENTITY_TYPES;
use crate::incident::gap::Gap;
use crate::tenant::TenantId;

/// A stored alert, without its content.
#[derive(Debug, FromRow)]
pub struct StoredAlert {
    pub alert_id: String,
    /// The incident that listed it last.
    pub incident_id: i64,
    pub last_updated_time: Option<DateTime<Utc>>,
    /// The version of the incident that listed it last.
    pub last_seen: DateTime<Utc>,
    /// Number of its rows of evidence.
    pub evidence: i64,
    /// Those of types that both sources have.
    pub shared_evidence: i64,
    /// The API that served its incident last.
    pub source: Option<String>,
    pub devices: i64,
}

impl Store {
    /// The tenant's watermark; `None` before anything was read.
    pub async fn watermark(&self, tenant: TenantId) -> Result<Option<DateTime<Utc>>, SyncError> {
        let watermark: Option<Option<DateTime<Utc>>> = self
            .statement("reading the watermark", DbRole::Reader, include_str!("sql/watermark.sql"))
            .bind(tenant.0)
            .fetch_optional_scalar()
            .await?;
        Ok(watermark.flatten())
    }

    /// The stored alerts with these ids.
    pub async fn stored_alerts(
        &self,
        tenant: TenantId,
        ids: &[&str],
    ) -> Result<Vec<StoredAlert>, SyncError> {
        let stored_alerts = include_str!("sql/stored_alerts.sql");
        self.statement("reading stored alerts", DbRole::Reader, stored_alerts)
            .bind(tenant.0)
            .bind(ids)
            .bind(SHARED_ENTITY_TYPES)
            .fetch_all()
            .await
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
        let (gaps_from, gaps_to): (Vec<_>, Vec<_>) =
            gaps.iter().map(|gap| (gap.from, gap.to)).unzip();
        let step = "looking for incidents that the API does not list";
        self.statement(step, DbRole::Reader, include_str!("sql/unlisted_incidents.sql"))
            .bind(tenant.0)
            .bind(from)
            .bind(to)
            .bind(listed)
            .bind(gaps_from)
            .bind(gaps_to)
            .fetch_scalars()
            .await
    }
}
