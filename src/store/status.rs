//! The state of each tenant, for people and monitors.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::quota::QuotaUse;
use super::{DbRole, Store, bounds};
use crate::entra::Tenant;
use crate::error::SyncError;
use crate::tenant::Source;

/// One statement for `status` and the status page, so that they agree on every count.
const TENANT_STATUS: &str = include_str!("sql/tenant_status.sql");
/// Its parameter: the removed tenants as well, and the number of all incidents.
const WITH_REMOVED_TENANTS: bool = true;

/// Recent runs of a tenant that are read at most: a day of polls every five minutes, and the other kinds.
const RUNS_MAX: i64 = 500;

impl Store {
    /// How fresh the data of each enabled tenant is.
    pub async fn freshness(&self) -> Result<Vec<Freshness>, SyncError> {
        let freshness = include_str!("sql/freshness.sql");
        self.statement("reading the freshness", DbRole::ReaderInteractive, freshness)
            .fetch_all()
            .await
    }

    /// The state of every tenant, by name.
    pub async fn tenant_status(&self) -> Result<Vec<TenantStatus>, SyncError> {
        let rows = self
            .statement("reading the status", DbRole::Reader, TENANT_STATUS)
            .bind(WITH_REMOVED_TENANTS)
            .fetch_rows()
            .await?;
        let tenant_status = |row: &PgRow| {
            let mut tenant: TenantStatus =
                bounds::decode(row).unwrap_or_else(|column| TenantStatus {
                    standing: Standing::undecodable(row, column),
                    ..TenantStatus::default()
                });
            tenant.standing.report_out_of_bounds();
            tenant
        };
        Ok(rows.iter().map(tenant_status).collect())
    }

    /// The tenants that have not left the configuration, and the database's clock.
    pub async fn fleet(&self) -> Result<(DateTime<Utc>, Vec<FleetTenant>), SyncError> {
        let read = async |connection: &mut PgConnection| {
            let rows = sqlx::query(TENANT_STATUS)
                .bind(!WITH_REMOVED_TENANTS)
                .fetch_all(&mut *connection)
                .await?;
            let now = sqlx::query_scalar(include_str!("sql/clock.sql"));
            Ok((now.fetch_one(connection).await?, rows))
        };
        let (now, rows) =
            self.transact("reading the fleet", DbRole::ReaderInteractive, read).await?;
        let fleet_tenant = |row: &PgRow| {
            let mut tenant: FleetTenant =
                bounds::decode(row).unwrap_or_else(|column| FleetTenant {
                    standing: Standing::undecodable(row, column),
                    ..FleetTenant::default()
                });
            tenant.standing.report_out_of_bounds();
            tenant
        };
        Ok((now, rows.iter().map(fleet_tenant).collect()))
    }

    /// The last day's runs of a tenant, newest first. A run that read a whole slice may have left more to read.
    pub async fn recent_runs(
        &self,
        tenant: Uuid,
        pages_per_slice: usize,
    ) -> Result<Vec<RecentRun>, SyncError> {
        let recent_runs = include_str!("sql/recent_runs.sql");
        let rows = self
            .statement("reading recent runs", DbRole::ReaderInteractive, recent_runs)
            .bind(tenant)
            .bind(RUNS_MAX)
            .bind(i32::try_from(pages_per_slice).unwrap_or(i32::MAX))
            .fetch_rows()
            .await?;
        let runs: Result<Vec<RecentRun>, String> = rows.iter().map(bounds::decode).collect();
        runs.map_err(|columns| SyncError::StateOutOfBounds { columns })
    }
}

/// The metrics of a tenant.
#[derive(Debug, Clone, FromRow)]
pub struct Freshness {
    /// The operator's name for it.
    pub name: String,
    /// Seconds since everything up to then was stored.
    pub freshness_seconds: f64,
    /// Whether its last run succeeded.
    pub is_up: bool,
    /// Whether its first sync is complete.
    pub is_backfilled: bool,
    /// Incident versions that polls missed and a later run stored.
    pub found_late: i64,
    /// How late the API was seen to list changes in the last days.
    pub lateness_seconds: i32,
    /// Ranges that the API fails to serve.
    pub gaps: i64,
    pub rejected: i64,
}

/// The state of a tenant that `status` and the status page show.
#[derive(Debug, Clone, Default, Serialize, FromRow)]
pub struct Standing {
    pub tenant_id: Uuid,
    /// The operator's name for it.
    pub name: String,
    pub enabled: bool,
    /// The API that its data comes from; `None` if the database does not know the tenant yet.
    pub source: Option<String>,
    /// When it left the configuration.
    pub removed_at: Option<DateTime<Utc>>,
    /// Since when the configuration does not name it although its removal is not confirmed.
    pub missing_since: Option<DateTime<Utc>>,
    /// When the first sync was complete.
    pub backfilled_at: Option<DateTime<Utc>>,
    /// Start of the last complete run: everything up to then is stored.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Failures since then; `None` if the database does not know the tenant yet.
    pub consecutive_failures: Option<i32>,
    /// No request before this time.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub parked_reason: Option<String>,
    /// Class of the last error.
    pub error_class: Option<String>,
    /// Advice and text of the last error.
    pub error_message: Option<String>,
    pub who_must_act: Option<String>,
    /// Seconds since the last success.
    pub freshness_seconds: Option<f64>,
    /// Seconds since its next poll was due; negative before that.
    pub overdue_seconds: Option<f64>,
    /// Whether the watermark lies in the future, so that polls find nothing.
    pub is_watermark_ahead: bool,
    pub last_kind: Option<String>,
    pub last_outcome: Option<String>,
    pub last_finished_at: Option<DateTime<Utc>>,
    pub rejected: i64,
    /// Incident versions that polls missed and a later run stored.
    pub found_late: Option<i64>,
    /// How late the API was seen to list changes in the last days; polls reach back that far, up to two hours.
    pub lateness_seconds: Option<i32>,
    /// Ranges of `lastUpdateTime` that the API fails to serve.
    pub gaps: i64,
    /// Columns with a value out of bounds; shown as an error.
    #[serde(skip)]
    pub out_of_bounds: Vec<String>,
}

impl Standing {
    /// The API that the tenant is read from.
    pub fn source(&self) -> Source {
        self.source.as_deref().and_then(Source::from_name).unwrap_or_default()
    }

    /// The state of a tenant whose row cannot be decoded because of this column.
    fn undecodable(row: &PgRow, column: String) -> Self {
        Self {
            tenant_id: row.try_get("tenant_id").unwrap_or_default(),
            name: row.try_get("name").unwrap_or_default(),
            enabled: row.try_get("enabled").unwrap_or(true),
            consecutive_failures: Some(0),
            out_of_bounds: vec![column],
            ..Self::default()
        }
    }

    /// Values out of bounds are the tenant's error, whatever the result of its last run.
    fn report_out_of_bounds(&mut self) {
        if self.out_of_bounds.is_empty() {
            return;
        }
        let error = SyncError::StateOutOfBounds { columns: self.out_of_bounds.join(", ") };
        let diagnosis = error.diagnosis();
        self.error_class = Some(diagnosis.class.to_string());
        self.error_message = Some(format!("{} ({error})", diagnosis.advice));
        self.who_must_act = Some(diagnosis.owner.as_str().to_owned());
    }
}

/// A tenant as `status` shows it.
#[derive(Debug, Clone, Default, Serialize, FromRow)]
pub struct TenantStatus {
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub standing: Standing,
    /// Everything with an earlier `lastUpdateTime` is stored.
    pub watermark: Option<DateTime<Utc>>,
    /// Start of the last run.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// The instance that reads it now.
    pub lease_owner: Option<String>,
    pub incidents: i64,
    /// Of these neither resolved nor merged, as in `reporting.open_incidents`.
    pub open_incidents: i64,
}

impl TenantStatus {
    /// A tenant that is configured and not in the database yet.
    pub fn unknown(tenant: &Tenant) -> Self {
        let standing = Standing {
            tenant_id: tenant.id.0,
            name: tenant.name.clone(),
            enabled: tenant.enabled,
            ..Standing::default()
        };
        Self { standing, ..Self::default() }
    }
}

/// A tenant as the status page shows it.
#[derive(Debug, Clone, Default, Serialize, FromRow)]
pub struct FleetTenant {
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub standing: Standing,
    /// How far its quota is used.
    #[serde(skip)]
    #[sqlx(flatten)]
    pub line: QuotaUse,
    /// Open incidents of high severity.
    pub open_high: i64,
    pub open_medium: i64,
    pub open_low: i64,
    /// Informational ones, and those of an unknown severity.
    pub open_other: i64,
}

impl FleetTenant {
    /// Open incidents of every severity.
    pub fn open(&self) -> i64 {
        self.open_high + self.open_medium + self.open_low + self.open_other
    }
}

#[derive(Debug, Clone, FromRow)]
pub struct RecentRun {
    pub kind: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub outcome: String,
    pub api_calls: i32,
    /// Responses with status 429.
    pub throttled: i32,
    pub incidents_seen: i32,
    pub incidents_written: i32,
    pub rejected: i32,
    pub error_message: Option<String>,
    /// Whether everything up to its start was stored at its end.
    pub is_complete: bool,
}
