//! Alerts that Graph lists without their incidents: which of them are news, and how far they are read.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::lease::Durability;
use super::{DbRole, Lease, Store};
use crate::error::SyncError;
use crate::incident::decode::key::AlertKey;
use crate::tenant::TenantId;

/// What is stored of the alerts of a page, and of their incidents.
#[derive(Debug, Default)]
pub struct KnownAlerts {
    alerts: HashMap<String, StoredAlert>,
    incidents: HashMap<i64, DateTime<Utc>>,
}

#[derive(Debug)]
struct StoredAlert {
    incident_id: i64,
    updated: Option<DateTime<Utc>>,
    last_seen: DateTime<Utc>,
}

#[derive(FromRow)]
struct KnownRow {
    alert_id: String,
    incident_id: Option<i64>,
    last_updated_time: Option<DateTime<Utc>>,
    last_seen: Option<DateTime<Utc>>,
    listed_by: i64,
    last_update_time: DateTime<Utc>,
}

impl KnownAlerts {
    /// The stored version of an incident.
    pub fn incident_version(&self, incident_id: i64) -> Option<DateTime<Utc>> {
        self.incidents.get(&incident_id).copied()
    }

    /// Whether the alert belongs to a stored incident and is newer than what is stored of it, or was moved.
    pub fn is_news(&self, listed: &AlertKey) -> bool {
        let version = listed.incident_id.and_then(|id| self.incident_version(id));
        let (Some(version), Some(alert_id)) = (version, &listed.alert_id) else { return false };
        self.alerts.get(alert_id).is_none_or(|stored| {
            let is_moved =
                listed.incident_id != Some(stored.incident_id) && stored.last_seen <= version;
            listed.updated > stored.updated || listed.updated == stored.updated && is_moved
        })
    }
}

impl Store {
    /// What is stored of these alerts and of the incidents that they belong to.
    pub async fn known_alerts(
        &self,
        tenant: TenantId,
        listed: &[AlertKey],
    ) -> Result<KnownAlerts, SyncError> {
        let keys = listed.iter().filter_map(|key| key.alert_id.clone().zip(key.incident_id));
        let (alert_ids, incident_ids): (Vec<String>, Vec<i64>) = keys.unzip();
        if alert_ids.is_empty() {
            return Ok(KnownAlerts::default());
        }
        let known_alerts = include_str!("sql/known_alerts.sql");
        let rows: Vec<KnownRow> = self
            .statement("looking up stored alerts", DbRole::Writer(tenant), known_alerts)
            .bind(tenant.0)
            .bind(alert_ids)
            .bind(incident_ids)
            .fetch_all()
            .await?;
        let mut known = KnownAlerts::default();
        for row in rows {
            known.incidents.insert(row.listed_by, row.last_update_time);
            if let (Some(incident_id), Some(last_seen)) = (row.incident_id, row.last_seen) {
                let stored = StoredAlert { incident_id, updated: row.last_updated_time, last_seen };
                known.alerts.insert(row.alert_id, stored);
            }
        }
        Ok(known)
    }

    /// Every alert version with an earlier `lastUpdateDateTime` is stored; `None` if that is not known of any.
    pub async fn alerts_watermark(
        &self,
        tenant: TenantId,
    ) -> Result<Option<DateTime<Utc>>, SyncError> {
        let alerts_watermark = include_str!("sql/alerts_watermark.sql");
        let step = "looking up the watermark of alerts";
        let watermark: Option<Option<DateTime<Utc>>> = self
            .statement(step, DbRole::Writer(tenant), alerts_watermark)
            .bind(tenant.0)
            .fetch_optional_scalar()
            .await?;
        Ok(watermark.flatten())
    }

    /// Sets the time from which alerts are read on their own, unless it is set.
    pub async fn start_alerts(&self, lease: &Lease, from: DateTime<Utc>) -> Result<(), SyncError> {
        let start = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/start_alerts.sql"))
                .bind(lease.tenant.0)
                .bind(from)
                .execute(connection)
                .await
        };
        let step = "starting to read alerts";
        self.transact_leased(step, lease, Durability::Immediate, start).await.map(drop)
    }
}
