//! The right to write a tenant: an owner, a fence and an expiry in `sync_state`, by the database's clock.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::{DbRole, Store, bounds};
use crate::error::SyncError;
use crate::failpoint;
use crate::tenant::{Source, TenantId};

/// Tenants that are due within this time are claimed: a cron tick may come shortly before the due time by the database's
/// clock.
pub(crate) const TICK_TOLERANCE: Duration = Duration::from_secs(1);

/// How far a watermark may be ahead of the database's clock, as after a failover to a server whose clock is behind: the
/// nightly reconciliation reads what polls miss meanwhile. A later one came from a wrong clock and does not show what is
/// stored. `tenant_status.sql` has the same limit.
const WATERMARK_AHEAD_MAX: TimeDelta = TimeDelta::hours(1);

/// Proof that this process may write for a tenant; made by [`Store::claim_due`], [`Store::claim_named`] and
/// [`Store::take_lease`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub tenant: TenantId,
    /// The number of this claim, which each write checks.
    pub(crate) fence: i64,
}

/// A lease with the state of its tenant.
#[derive(Debug)]
pub struct Claim {
    pub lease: Lease,
    /// Everything with an earlier `lastUpdateTime` is stored. `None` if unknown: everything is read.
    pub watermark: Option<DateTime<Utc>>,
    /// Whether the first sync is complete.
    pub is_backfilled: bool,
    /// The API that the stored data comes from. [`Store::switch_source`] changes it.
    pub source: Source,
    /// When the tenant was moved to it; `None` if it was never moved.
    pub source_since: Option<DateTime<Utc>>,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// How late the API was seen to list changes of this tenant in the last days.
    pub lateness: Duration,
    /// The database's clock at the claim.
    pub claimed_at: DateTime<Utc>,
    pub kind: RunKind,
}

/// Why a run is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// What is new since the watermark.
    Poll,
    /// Open incidents, whose alerts may have changed without them.
    Open,
    /// The last days again, for what polls missed.
    Reconcile,
    Backfill,
    Manual,
}

impl RunKind {
    /// As in `sync_runs.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Open => "open",
            Self::Reconcile => "reconcile",
            Self::Backfill => "backfill",
            Self::Manual => "manual",
        }
    }

    fn from_word(word: &str) -> Self {
        match word {
            "open" => Self::Open,
            "reconcile" => Self::Reconcile,
            "backfill" => Self::Backfill,
            "manual" => Self::Manual,
            _ => Self::Poll,
        }
    }
}

#[derive(FromRow)]
struct ClaimRow {
    tenant_id: Uuid,
    lease_fence: i64,
    watermark: Option<DateTime<Utc>>,
    is_backfilled: bool,
    source: String,
    source_since: Option<DateTime<Utc>>,
    consecutive_failures: i32,
    lateness_s: i32,
    claimed_at: DateTime<Utc>,
    kind: String,
}

impl From<ClaimRow> for Claim {
    fn from(row: ClaimRow) -> Self {
        let ClaimRow {
            tenant_id,
            lease_fence,
            watermark,
            is_backfilled,
            source,
            source_since,
            consecutive_failures,
            lateness_s,
            claimed_at,
            kind,
        } = row;
        Self {
            lease: Lease { tenant: TenantId(tenant_id), fence: lease_fence },
            watermark: watermark.filter(|watermark| *watermark <= claimed_at + WATERMARK_AHEAD_MAX),
            is_backfilled,
            source: Source::from_name(&source).unwrap_or_default(),
            source_since,
            consecutive_failures: u32::try_from(consecutive_failures).unwrap_or(0),
            lateness: Duration::from_secs(u64::try_from(lateness_s).unwrap_or(0)),
            claimed_at,
            kind: RunKind::from_word(&kind),
        }
    }
}

/// The claims that can be decoded. The others are logged, and their leases expire.
fn decoded(rows: &[PgRow]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for row in rows {
        match bounds::decode::<ClaimRow>(row) {
            Ok(claim) => claims.push(Claim::from(claim)),
            Err(column) => {
                let tenant = row.try_get::<Uuid, _>("tenant_id").unwrap_or_default();
                let error = SyncError::StateOutOfBounds { columns: column };
                let diagnosis = error.diagnosis();
                let class = diagnosis.class.as_str();
                let owner = diagnosis.owner.as_str();
                let advice = &*diagnosis.advice;
                tracing::error!(tenant.id = %tenant, error = %error, class, owner, advice, "Cannot claim a tenant");
            }
        }
    }
    claims
}

/// When a commit under a lease is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before the commit returns.
    Immediate,
    /// Shortly after, with the next immediate commit at the latest. If the server crashes before, the run finds its last
    /// write missing and reads the window again.
    Deferred,
}

pub(crate) fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

impl Store {
    /// Does `work` in a transaction of the lease's tenant if the lease is still valid. This is the only way to write under a
    /// lease, so that no write can omit the check of the fence.
    pub(super) async fn transact_leased<T>(
        &self,
        step: &'static str,
        lease: &Lease,
        durability: Durability,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, SyncError> {
        let fenced = async |connection: &mut PgConnection| {
            if !is_valid(connection, lease, &self.instance, durability).await? {
                return Ok(None);
            }
            work(connection).await.map(Some)
        };
        let done = self.transact(step, DbRole::Writer(lease.tenant), fenced).await?;
        done.ok_or(SyncError::LeaseLost)
    }

    /// Claims at most `limit` of `tenants` that are due, the longest waiting first. This process must not have a run of any
    /// of them.
    pub async fn claim_due(&self, tenants: &[Uuid], limit: usize) -> Result<Vec<Claim>, SyncError> {
        let claim = async |connection: &mut PgConnection| {
            let claimed = sqlx::query(include_str!("sql/claim_due.sql"))
                .bind(tenants)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(&self.instance)
                .bind(interval(TICK_TOLERANCE))
                .bind(interval(self.lease_term))
                .fetch_all(connection)
                .await;
            failpoint::reach("claim.uncommitted").await;
            claimed
        };
        let rows = self.transact("claiming due tenants", DbRole::Dispatcher, claim).await?;
        Ok(decoded(&rows))
    }

    /// Claims at most `limit` of `tenants`, due or not, except those that another instance has or whose service requested a
    /// pause. This process must not have a run of any of them.
    pub async fn claim_named(
        &self,
        tenants: &[Uuid],
        limit: usize,
    ) -> Result<Vec<Claim>, SyncError> {
        let claim_named = include_str!("sql/claim_named.sql");
        let rows = self
            .statement("claiming tenants", DbRole::Dispatcher, claim_named)
            .bind(tenants)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(&self.instance)
            .bind(interval(self.lease_term))
            .fetch_rows()
            .await?;
        Ok(decoded(&rows))
    }

    /// Extends the leases of this process on these tenants, and returns the tenants whose lease was still valid.
    pub async fn renew_leases(&self, tenants: &[TenantId]) -> Result<Vec<TenantId>, SyncError> {
        let tenants: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let renewed: Vec<Uuid> = self
            .statement("renewing leases", DbRole::Dispatcher, include_str!("sql/renew_leases.sql"))
            .bind(&self.instance)
            .bind(interval(self.lease_term))
            .bind(tenants)
            .fetch_scalars()
            .await?;
        Ok(renewed.into_iter().map(TenantId).collect())
    }

    /// Releases every lease of this process.
    pub async fn release_leases(&self) -> Result<(), SyncError> {
        let release_leases = include_str!("sql/release_leases.sql");
        self.statement("releasing leases", DbRole::Dispatcher, release_leases)
            .bind(&self.instance)
            .execute()
            .await
    }

    /// Ends every lease. Only for the owner of a private database, where no other instance can be running.
    pub async fn forget_leases(&self) -> Result<(), SyncError> {
        let forget_leases = include_str!("sql/forget_leases.sql");
        self.statement("ending all leases", DbRole::Dispatcher, forget_leases).execute().await
    }

    /// Takes the lease of a tenant from its holder for a quarter of an hour: a run in progress can write nothing more.
    pub async fn take_lease(&self, tenant: TenantId) -> Result<Lease, SyncError> {
        let take_lease = async |connection: &mut PgConnection| {
            lock_tenant(connection, tenant).await?;
            sqlx::query_scalar(include_str!("sql/take_lease.sql"))
                .bind(tenant.0)
                .bind(&self.instance)
                .fetch_one(connection)
                .await
        };
        let step = "taking a tenant from its holder";
        let fence = self.transact(step, DbRole::Writer(tenant), take_lease).await?;
        Ok(Lease { tenant, fence })
    }

    /// How long a lease lasts without renewal.
    pub fn lease_term(&self) -> Duration {
        self.lease_term
    }

    /// How often [`Store::renew_leases`] must be called.
    pub fn renewal_period(&self) -> Duration {
        self.lease_term / 3
    }
}

/// Whether this instance still holds the lease. Also sets the durability of the transaction.
pub(super) async fn is_valid(
    connection: &mut PgConnection,
    lease: &Lease,
    instance: &str,
    durability: Durability,
) -> Result<bool, sqlx::Error> {
    let fence = sqlx::query(include_str!("sql/check_fence.sql"))
        .bind(lease.tenant.0)
        .bind(lease.fence)
        .bind(instance)
        .bind(durability == Durability::Immediate)
        .fetch_optional(connection)
        .await?;
    Ok(fence.is_some())
}

pub(super) async fn lock_tenant(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("sql/lock_tenant.sql"))
        .bind(tenant.0)
        .execute(connection)
        .await
        .map(drop)
}
