//! The right to work on a tenant: a row with an owner, a fence and an expiry, all by the database's clock.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::{DbRole, Store, bounds};
use crate::error::SyncError;
use crate::failpoint;
use crate::tenant::TenantId;

/// A cron tick may come a moment before the due time by the database's clock: what is due within this time is claimed.
pub(crate) const TICK_TOLERANCE: Duration = Duration::from_secs(1);

/// A watermark may be ahead of the database's clock by so much, as after a failover to a server whose clock is behind: the
/// nightly reconciliation reads what a poll passes over meanwhile. One that is further ahead came from a wrong clock, and says
/// nothing about what is stored. `tenant_status.sql` has the same limit.
const WATERMARK_AHEAD_MAX: TimeDelta = TimeDelta::hours(1);

/// Proof that this process may write for a tenant; only [`Store::claim_due`] and [`Store::claim_named`] make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The tenant.
    pub tenant: TenantId,
    /// Which claim this is.
    pub(crate) fence: i64,
}

/// A lease with what is known of its tenant.
#[derive(Debug)]
pub struct Claim {
    /// The right to write.
    pub lease: Lease,
    /// All with an earlier `lastUpdateTime` is stored. `None` where nothing is known, so that everything is read.
    pub watermark: Option<DateTime<Utc>>,
    /// Whether the first synchronisation is complete.
    pub is_backfilled: bool,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// The database's clock at the claim.
    pub claimed_at: DateTime<Utc>,
    /// Why the run is made.
    pub kind: RunKind,
}

/// Why a run is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// What is new since the watermark.
    Poll,
    /// Open incidents, whose alerts may have changed without them.
    Open,
    /// The last days once more, for what was missed.
    Reconcile,
    /// The first synchronisation.
    Backfill,
    /// A person asked.
    Manual,
}

impl RunKind {
    /// The word in `sync_runs.kind`.
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
    consecutive_failures: i32,
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
            consecutive_failures,
            claimed_at,
            kind,
        } = row;
        Self {
            lease: Lease { tenant: TenantId(tenant_id), fence: lease_fence },
            watermark: watermark.filter(|watermark| *watermark <= claimed_at + WATERMARK_AHEAD_MAX),
            is_backfilled,
            consecutive_failures: u32::try_from(consecutive_failures).unwrap_or(0),
            claimed_at,
            kind: RunKind::from_word(&kind),
        }
    }
}

/// The claims that can be decoded. The others are logged; their leases expire.
fn decoded(rows: &[PgRow]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for row in rows {
        match bounds::decode::<ClaimRow>(row) {
            Ok(claim) => claims.push(Claim::from(claim)),
            Err(column) => {
                let tenant = row.try_get::<Uuid, _>("tenant_id").unwrap_or_default();
                let error = SyncError::StateOutOfBounds { columns: column };
                let diagnosis = error.diagnosis();
                let (class, owner, advice) =
                    (diagnosis.class.as_str(), diagnosis.owner.as_str(), &*diagnosis.advice);
                tracing::error!(tenant.id = %tenant, error = %error, class, owner, advice, "a tenant was not claimed");
            }
        }
    }
    claims
}

/// How a commit under a lease reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before the commit returns.
    Immediate,
    /// A moment later, with the next immediate commit at the latest. Should the server crash in between, the run finds its
    /// last write gone and reads the window again.
    Deferred,
}

pub(crate) fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

impl Store {
    /// Does `work` in a transaction of the lease's tenant, if the lease still holds. This is the only way to write under a
    /// lease, so that no write can miss the check of the fence.
    pub(super) async fn transact_leased<T>(
        &self,
        step: &'static str,
        lease: &Lease,
        durability: Durability,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, SyncError> {
        let fenced = async |connection: &mut PgConnection| {
            let fence = sqlx::query(include_str!("sql/check_fence.sql"))
                .bind(lease.tenant.0)
                .bind(lease.fence)
                .bind(&self.instance)
                .bind(durability == Durability::Immediate);
            if fence.fetch_optional(&mut *connection).await?.is_none() {
                return Ok(None);
            }
            work(connection).await.map(Some)
        };
        let done = self.transact(step, DbRole::Writer(lease.tenant), fenced).await?;
        done.ok_or(SyncError::LeaseLost)
    }

    /// Claims at most `limit` of `tenants` that are due, the longest waiting first. This process must not be at work on any
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

    /// Claims at most `limit` of `tenants`, due or not, unless another instance has them or the service asked for a pause.
    /// This process must not be at work on any of them.
    pub async fn claim_named(
        &self,
        tenants: &[Uuid],
        limit: usize,
    ) -> Result<Vec<Claim>, SyncError> {
        let claim = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/claim_named.sql"))
                .bind(tenants)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(&self.instance)
                .bind(interval(self.lease_term))
                .fetch_all(connection)
                .await
        };
        let rows = self.transact("claiming tenants", DbRole::Dispatcher, claim).await?;
        Ok(decoded(&rows))
    }

    /// Prolongs the leases of this process, and answers of which tenants.
    pub async fn renew_leases(&self, tenants: &[TenantId]) -> Result<Vec<TenantId>, SyncError> {
        let tenants: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let renew = async |connection: &mut PgConnection| {
            let renew = sqlx::query_scalar::<_, Uuid>(include_str!("sql/renew_leases.sql"));
            renew
                .bind(&self.instance)
                .bind(interval(self.lease_term))
                .bind(tenants)
                .fetch_all(connection)
                .await
        };
        let renewed = self.transact("renewing leases", DbRole::Dispatcher, renew).await?;
        Ok(renewed.into_iter().map(TenantId).collect())
    }

    /// Gives back every lease of this process.
    pub async fn release_leases(&self) -> Result<(), SyncError> {
        let release = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/release_leases.sql"))
                .bind(&self.instance)
                .execute(connection)
                .await
        };
        self.transact("releasing leases", DbRole::Dispatcher, release).await.map(drop)
    }

    /// Ends every lease. Only for the owner of a private database, which knows that no other instance can be alive.
    pub async fn forget_leases(&self) -> Result<(), SyncError> {
        let forget = async |connection: &mut PgConnection| {
            sqlx::query(include_str!("sql/forget_leases.sql")).execute(connection).await
        };
        self.transact("forgetting leases", DbRole::Dispatcher, forget).await.map(drop)
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
