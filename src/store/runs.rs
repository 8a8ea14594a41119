//! How runs ended, and when the tenant is read again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::lease::RunKind;
use super::{DbRole, Lease, Store};
use crate::error::{Diagnosis, ErrorClass, Retry, SyncError};
use crate::tenant::Source;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything in its scope is stored.
    Ok,
    /// An error that a later run may not meet.
    Failed,
    /// The service requested a pause.
    Throttled,
    /// A person must act.
    Parked,
    /// The service stopped, or the lease was lost.
    Stopped,
}

impl Outcome {
    /// As in `sync_runs.outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Throttled => "throttled",
            Self::Parked => "parked",
            Self::Stopped => "stopped",
        }
    }

    /// The outcome of a run that ended with this diagnosis.
    pub fn of(diagnosis: &Diagnosis) -> Self {
        use ErrorClass as Class;
        match diagnosis.class {
            Class::Throttled => Self::Throttled,
            Class::Stopped | Class::LeaseLost => Self::Stopped,
            // Parked even though a new token is tried first: only the owner can fix these.
            Class::Forbidden | Class::MissingRole | Class::Credential | Class::Parked => {
                Self::Parked
            }
            Class::ApiRetired
            | Class::AppDisabled
            | Class::AssignmentRequired
            | Class::BadReply
            | Class::BadRequest
            | Class::BadState
            | Class::Bug
            | Class::ConditionalAccess
            | Class::ConsentMissing
            | Class::Database
            | Class::DatabaseConflict
            | Class::DatabaseData
            | Class::DatabaseFull
            | Class::DatabaseReadOnly
            | Class::DatabaseRights
            | Class::DatabaseStatement
            | Class::DirectoryBlocked
            | Class::NotLicensed
            | Class::Proxy
            | Class::Schema
            | Class::Security
            | Class::SourceMismatch
            | Class::TenantConfig
            | Class::TooLarge
            | Class::Transport
            | Class::Unauthorized
            | Class::UnknownEntraError
            | Class::UnstableListing
            | Class::Upstream => match diagnosis.retry {
                Retry::OnceFixed => Self::Parked,
                Retry::Now | Retry::After(_) | Retry::WithNewToken | Retry::NextRun => Self::Failed,
            },
        }
    }
}

/// What a run did, whatever its outcome.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub api_calls: usize,
    /// Responses with status 429.
    pub throttled: usize,
    pub incidents_seen: usize,
    pub incidents_written: usize,
    pub alerts_written: usize,
    pub rejected: usize,
    /// Incident versions that an earlier poll missed.
    pub found_late: usize,
    /// How late the latest of the versions was listed that a poll with the configured overlap had missed.
    pub lateness: Duration,
    /// Optional fields of an unexpected type.
    pub mistyped_fields: usize,
}

impl Counts {
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            api_calls: self.api_calls + other.api_calls,
            throttled: self.throttled + other.throttled,
            incidents_seen: self.incidents_seen + other.incidents_seen,
            incidents_written: self.incidents_written + other.incidents_written,
            alerts_written: self.alerts_written + other.alerts_written,
            rejected: self.rejected + other.rejected,
            found_late: self.found_late + other.found_late,
            lateness: self.lateness.max(other.lateness),
            mistyped_fields: self.mistyped_fields + other.mistyped_fields,
        }
    }
}

/// A row of `sync_runs` and its effect on `sync_state`.
#[derive(Debug)]
pub struct RunRecord {
    pub kind: RunKind,
    /// The API that it read.
    pub source: Source,
    /// The database's clock at its start.
    pub started_at: DateTime<Utc>,
    pub outcome: Outcome,
    /// Whether everything up to its start is stored.
    pub is_complete: bool,
    /// First `lastUpdateTime` requested.
    pub window_from: Option<DateTime<Utc>>,
    /// The watermark it reached.
    pub window_to: Option<DateTime<Utc>>,
    pub counts: Counts,
    /// The diagnosis of its error, and the error's text.
    pub failure: Option<(Diagnosis, String)>,
    /// Whether it called no API, so that its success says nothing about the tenant.
    pub keeps_state: bool,
    /// When the tenant may be tried again; `None` is immediately.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When each kind is due again; `None` keeps the due time.
    pub due: Due,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Due {
    /// For polls and backfills.
    pub poll: Option<DateTime<Utc>>,
    pub open: Option<DateTime<Utc>>,
    pub reconcile: Option<DateTime<Utc>>,
}

/// A longer lateness is stored as a week.
const WEEK_S: u64 = 7 * 86_400;

impl Store {
    /// Records how a run ended and releases its lease.
    pub async fn finish_run(&self, lease: &Lease, record: &RunRecord) -> Result<(), SyncError> {
        let RunRecord {
            kind,
            source,
            started_at,
            outcome,
            is_complete,
            window_from,
            window_to,
            counts,
            failure,
            keeps_state,
            next_attempt_at,
            due,
        } = record;
        let failure = failure.as_ref().filter(|_| *outcome != Outcome::Stopped);
        let diagnosis = failure.map(|(diagnosis, _)| diagnosis);
        let message = failure.map(|(diagnosis, error)| format!("{} ({error})", diagnosis.advice));
        let parked =
            diagnosis.filter(|_| *outcome == Outcome::Parked).map(|diagnosis| &*diagnosis.advice);
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let finish_run = include_str!("sql/finish_run.sql");
        self.statement("recording a run", DbRole::Writer(lease.tenant), finish_run)
            .bind(lease.tenant.0)
            .bind(lease.fence)
            .bind(&self.instance)
            .bind(is_complete)
            .bind(diagnosis.map(|diagnosis| diagnosis.class.as_str()))
            .bind(message)
            .bind(diagnosis.map(|diagnosis| diagnosis.owner.as_str()))
            .bind(next_attempt_at)
            .bind(due.poll)
            .bind(due.open)
            .bind(due.reconcile)
            .bind(parked)
            .bind(kind.as_str())
            .bind(started_at)
            .bind(outcome.as_str())
            .bind(window_from)
            .bind(window_to)
            .bind(count(counts.api_calls))
            .bind(count(counts.throttled))
            .bind(count(counts.incidents_seen))
            .bind(count(counts.incidents_written))
            .bind(count(counts.alerts_written))
            .bind(count(counts.rejected))
            .bind(count(counts.mistyped_fields))
            .bind(count(counts.found_late))
            .bind(source.as_str())
            .bind(i32::try_from(counts.lateness.as_secs().min(WEEK_S)).unwrap_or(i32::MAX))
            .bind(keeps_state)
            .execute()
            .await
    }

    /// Wakes the pipelines that LISTEN, if `database.notify` is set. Call it once a run, after its record is committed: commits
    /// that notify wait for each other, and any role of the server can fill the queue of notifications, which then fails the
    /// transaction that adds to it.
    pub async fn notify_listeners(&self) -> Result<(), SyncError> {
        if !self.notifies {
            return Ok(());
        }
        // NOTIFY has no plan that a connection could keep.
        let notify = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/notify.sql")).persistent(false).execute(connection).await
        };
        self.transact("notifying listeners", DbRole::Dispatcher, notify).await.map(drop)
    }
}

/// Back-off after failures: one minute, doubled each time, at most an hour.
pub fn back_off(failures: u32) -> Duration {
    Duration::from_secs(60).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(3600))
}
