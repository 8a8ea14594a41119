//! What is known of each tenant, for people and monitors.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::quota::QuotaUse;
use super::{DbRole, Store, bounds};
use crate::entra::Tenant;
use crate::error::SyncError;

/// Recent runs of a tenant that are read at most: a day of polls every five minutes, and the other kinds.
const RUNS_MAX: i64 = 500;

impl Store {
    /// How fresh the data of each enabled tenant is.
    pub async fn freshness(&self) -> Result<Vec<Freshness>, SyncError> {
        let read = async |connection: &mut PgConnection| {
            sqlx::query_as::<_, Freshness>(include_str!("sql/freshness.sql"))
                .fetch_all(connection)
                .await
        };
        self.transact("reading the freshness", DbRole::ReaderInteractive, read).await
    }

    /// The state of every tenant, by name.
    pub async fn tenant_status(&self) -> Result<Vec<TenantStatus>, SyncError> {
        let read = async |connection: &mut PgConnection| status_rows(connection, true).await;
        let rows = self.transact("reading the status", DbRole::Reader, read).await?;
        let of = |row: &PgRow| {
            let mut tenant: TenantStatus =
                bounds::decode(row).unwrap_or_else(|column| TenantStatus {
                    standing: Standing::undecodable(row, column),
                    ..TenantStatus::default()
                });
            tenant.standing.report_out_of_bounds();
            tenant
        };
        Ok(rows.iter().map(of).collect())
    }

    /// The tenants that have not left the configuration, and the database's clock.
    pub async fn fleet(&self) -> Result<(DateTime<Utc>, Vec<FleetTenant>), SyncError> {
        let read = async |connection: &mut PgConnection| {
            let rows = status_rows(connection, false).await?;
            Ok((sqlx::query_scalar("SELECT now()").fetch_one(connection).await?, rows))
        };
        let (now, rows) =
            self.transact("reading the fleet", DbRole::ReaderInteractive, read).await?;
        let of = |row: &PgRow| {
            let mut tenant: FleetTenant =
                bounds::decode(row).unwrap_or_else(|column| FleetTenant {
                    standing: Standing::undecodable(row, column),
                    ..FleetTenant::default()
                });
            tenant.standing.report_out_of_bounds();
            tenant
        };
        Ok((now, rows.iter().map(of).collect()))
    }

    /// The last day's runs of a tenant, newest first. A run that read a whole slice may have left more to read.
    pub async fn recent_runs(
        &self,
        tenant: Uuid,
        pages_per_slice: usize,
    ) -> Result<Vec<RecentRun>, SyncError> {
        let read = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/recent_runs.sql"))
                .bind(tenant)
                .bind(RUNS_MAX)
                .bind(i32::try_from(pages_per_slice).unwrap_or(i32::MAX))
                .fetch_all(connection)
                .await
        };
        let rows = self.transact("reading recent runs", DbRole::ReaderInteractive, read).await?;
        let runs: Result<Vec<RecentRun>, String> = rows.iter().map(bounds::decode).collect();
        runs.map_err(|columns| SyncError::StateOutOfBounds { columns })
    }
}

/// One statement for `status` and the status page, so that they agree on every count.
async fn status_rows(
    connection: &mut PgConnection,
    with_removed_tenants: bool,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(include_str!("sql/tenant_status.sql"))
        .bind(with_removed_tenants)
        .fetch_all(connection)
        .await
}

/// The metrics of a tenant.
#[derive(Debug, Clone, FromRow)]
pub struct Freshness {
    /// The operator's name for it.
    pub name: String,
    /// Seconds since everything up to then was stored.
    pub freshness_seconds: f64,
    /// Whether its last run ended well.
    pub is_up: bool,
    /// Whether its first synchronisation is complete.
    pub is_backfilled: bool,
    /// Incident versions that no poll had found and a later reading did.
    pub found_late: i64,
    /// Ranges that the API fails to serve.
    pub gaps: i64,
    /// Incidents in quarantine.
    pub rejected: i64,
}

/// How a tenant stands.
#[derive(Debug, Clone, Default, Serialize, FromRow)]
pub struct Standing {
    /// The customer's directory.
    pub tenant_id: Uuid,
    /// The operator's name for it.
    pub name: String,
    /// Whether it is polled.
    pub enabled: bool,
    /// When it left the configuration.
    pub removed_at: Option<DateTime<Utc>>,
    /// When the first synchronisation was complete.
    pub backfilled_at: Option<DateTime<Utc>>,
    /// Last time that everything up to then was stored.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Failures since; `None` where the database does not know the tenant yet.
    pub consecutive_failures: Option<i32>,
    /// No request before this time.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Why it is parked.
    pub parked_reason: Option<String>,
    /// Kind of the last failure.
    pub error_class: Option<String>,
    /// The last failure in a sentence.
    pub error_message: Option<String>,
    /// Who can end it.
    pub who_must_act: Option<String>,
    /// Seconds since the last success.
    pub freshness_seconds: Option<f64>,
    /// Seconds that its next poll is late; negative before its time.
    pub overdue_seconds: Option<f64>,
    /// Whether the watermark lies in the future, so that polls find nothing.
    pub is_watermark_ahead: bool,
    /// Kind of the last run.
    pub last_kind: Option<String>,
    /// How it ended.
    pub last_outcome: Option<String>,
    /// When.
    pub last_finished_at: Option<DateTime<Utc>>,
    /// Incidents in quarantine.
    pub rejected: i64,
    /// Incident versions that no poll had found and a later reading did.
    pub found_late: Option<i64>,
    /// Ranges of `lastUpdateTime` that the API fails to serve.
    pub gaps: i64,
    /// Columns that hold a value which is out of bounds; shown as a failure.
    #[serde(skip)]
    pub out_of_bounds: Vec<String>,
}

impl Standing {
    /// What is known of a tenant whose row cannot be decoded because of this column.
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

    /// Values that are out of bounds are the tenant's failure, whatever its last run said.
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
    /// How it stands.
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub standing: Standing,
    /// All with an earlier `lastUpdateTime` is stored.
    pub watermark: Option<DateTime<Utc>>,
    /// Last try.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// The instance that works on it now.
    pub lease_owner: Option<String>,
    /// Incidents stored.
    pub incidents: i64,
    /// Of these neither resolved nor merged, as in `reporting.open_incidents`.
    pub open_incidents: i64,
}

impl TenantStatus {
    /// A tenant that is configured, but not in the database yet.
    pub fn unknown(tenant: &Tenant) -> Self {
        let (tenant_id, name, enabled) = (tenant.id.0, tenant.name.clone(), tenant.enabled);
        Self {
            standing: Standing { tenant_id, name, enabled, ..Standing::default() },
            ..Self::default()
        }
    }
}

/// A tenant as the status page shows it.
#[derive(Debug, Clone, Default, FromRow)]
pub struct FleetTenant {
    /// How it stands.
    #[sqlx(flatten)]
    pub standing: Standing,
    /// Its calls that stand in line.
    #[sqlx(flatten)]
    pub line: QuotaUse,
    /// Open incidents of high severity.
    pub open_high: i64,
    /// Of medium severity.
    pub open_medium: i64,
    /// Of low severity.
    pub open_low: i64,
    /// Informational ones, and those of a severity that we do not know.
    pub open_other: i64,
}

/// A finished run.
#[derive(Debug, Clone, FromRow)]
pub struct RecentRun {
    /// Why it was made.
    pub kind: String,
    /// Its start.
    pub started_at: DateTime<Utc>,
    /// Its end.
    pub finished_at: DateTime<Utc>,
    /// How it ended.
    pub outcome: String,
    /// Requests to the API.
    pub api_calls: i32,
    /// Answers 429.
    pub throttled: i32,
    /// Incidents that pages showed.
    pub incidents_seen: i32,
    /// Incident versions stored.
    pub incidents_written: i32,
    /// Incidents put into quarantine.
    pub rejected: i32,
    /// Why it did not end well.
    pub error_message: Option<String>,
    /// Whether everything up to its start was stored at its end.
    pub is_complete: bool,
}
