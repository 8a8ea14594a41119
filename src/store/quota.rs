//! The API's limits for each tenant, kept in the database: they apply to all instances together and across restarts.

use std::time::Duration;

use sqlx::FromRow;

use super::lease::interval;
use super::{DbRole, Store};
use crate::error::SyncError;
use crate::tenant::{Source, TenantId};

/// A longer pause that the service requests ends the run, so that another tenant can use its slot.
pub const LONGEST_PAUSE_WITHIN_A_RUN: Duration = Duration::from_secs(30);

/// With the documented limits, a call waits less than this for its turn.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// A burst and a steady rate that together stay within `calls` in every window of `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    /// How much time one call uses up.
    spacing: Duration,
    /// How far ahead of the steady rate a call may be made.
    ahead: Duration,
}

impl Rate {
    fn of(calls: u32, period: Duration) -> Self {
        let burst = (calls * 2 / 5).max(1);
        let spacing = period / calls.saturating_sub(burst).max(1);
        Self { spacing, ahead: spacing * (burst - 1) }
    }

    /// How many calls are possible within `period` if those made so far are used up after `used_up`.
    fn left(self, used_up: Duration, period: Duration) -> u32 {
        let Some(room) = (period + self.ahead).checked_sub(used_up) else { return 0 };
        u32::try_from(room.as_nanos() / self.spacing.as_nanos().max(1))
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }
}

/// The calls that one tenant allows.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    minute: Rate,
    hour: Rate,
}

/// The calls that one tenant allows, by the API that it is read from. Both share one row: calls to the other API only
/// delay the next ones.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    pub defender: Quota,
    pub graph: Quota,
}

impl Quotas {
    /// The same limits for both.
    pub fn equal(quota: Quota) -> Self {
        Self { defender: quota, graph: quota }
    }

    pub fn of(&self, source: Source) -> &Quota {
        match source {
            Source::Defender => &self.defender,
            Source::Graph => &self.graph,
        }
    }
}

/// How far a tenant has used its quota, and the pause that the service requested; all in seconds from now.
#[derive(Debug, Clone, Copy, Default, FromRow)]
pub struct QuotaUse {
    /// Until the calls made so far are used up at the steady rate of the quota per minute.
    pub minute_seconds: f64,
    /// The same for the quota per hour.
    pub hour_seconds: f64,
    /// Until the pause is over.
    pub pause_seconds: f64,
}

impl Quota {
    /// The documented limits of this API.
    pub fn documented(source: Source) -> Self {
        Self::new(source.calls_per_minute(), source.calls_per_hour())
    }

    /// Limits for every minute and every hour; `None` sets none for the hour.
    pub fn new(calls_per_minute: u32, calls_per_hour: Option<u32>) -> Self {
        let calls_per_hour = calls_per_hour.unwrap_or(calls_per_minute.saturating_mul(60));
        Self {
            minute: Rate::of(calls_per_minute, Duration::from_secs(60)),
            hour: Rate::of(calls_per_hour, Duration::from_secs(3600)),
        }
    }

    /// How many calls are possible within the next hour.
    pub fn calls_left_in_hour(&self, used: &QuotaUse) -> u32 {
        let hour = Duration::from_secs(3600);
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let pause = seconds(used.pause_seconds);
        if pause > hour {
            return 0;
        }
        let of_hour = self.hour.left(seconds(used.hour_seconds).max(pause), hour);
        of_hour.min(self.minute.left(seconds(used.minute_seconds).max(pause), hour))
    }
}

impl Store {
    /// Reserves the next call and returns how long to wait for it. Fails if the service requested a longer pause than
    /// [`LONGEST_PAUSE_WITHIN_A_RUN`].
    pub async fn reserve_call(
        &self,
        tenant: TenantId,
        quota: &Quota,
    ) -> Result<Duration, SyncError> {
        let (mut wait, mut is_paused) = self.reserve(tenant, quota).await?;
        // So long a wait may come from a clock that was ahead and is right again.
        if wait > LONG_WAIT && self.follow_clock(tenant).await? {
            (wait, is_paused) = self.reserve(tenant, quota).await?;
        }
        if is_paused { Err(SyncError::Paused { wait }) } else { Ok(wait) }
    }

    /// The wait for the next call, and whether it is a pause that the service requested.
    async fn reserve(
        &self,
        tenant: TenantId,
        quota: &Quota,
    ) -> Result<(Duration, bool), SyncError> {
        let Quota { minute, hour } = *quota;
        let reserve_call = include_str!("sql/reserve_call.sql");
        let turn: Option<(f64, bool)> = self
            .statement("reserving a call", DbRole::Writer(tenant), reserve_call)
            .bind(tenant.0)
            .bind(interval(minute.spacing))
            .bind(interval(minute.ahead))
            .bind(interval(hour.spacing))
            .bind(interval(hour.ahead))
            .bind(interval(LONGEST_PAUSE_WITHIN_A_RUN))
            .fetch_optional()
            .await?;
        let (seconds, is_paused) = turn.ok_or(SyncError::LeaseLost)?;
        Ok((Duration::try_from_secs_f64(seconds).unwrap_or_default(), is_paused))
    }

    /// Stores a pause that the service requested: no instance makes a call for the tenant before its end.
    pub async fn hold_calls(&self, tenant: TenantId, pause: Duration) -> Result<(), SyncError> {
        let hold_calls = include_str!("sql/hold_calls.sql");
        self.statement("storing a pause", DbRole::Writer(tenant), hold_calls)
            .bind(tenant.0)
            .bind(interval(pause))
            .execute()
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_left_follow_quota_use_and_pause() {
        let quota = Quota::documented(Source::Defender);
        let unused = QuotaUse { minute_seconds: 0.0, hour_seconds: 0.0, pause_seconds: 0.0 };
        assert_eq!(quota.calls_left_in_hour(&unused), 1_500);
        // A call uses up four seconds of the quota per hour.
        assert_eq!(quota.calls_left_in_hour(&QuotaUse { hour_seconds: 40.0, ..unused }), 1_490);
        assert_eq!(quota.calls_left_in_hour(&QuotaUse { hour_seconds: 2_396.0, ..unused }), 901);
        // Ten minutes are left: a burst of 20, and a call every two seconds.
        assert_eq!(quota.calls_left_in_hour(&QuotaUse { pause_seconds: 3_000.0, ..unused }), 320);
        assert_eq!(quota.calls_left_in_hour(&QuotaUse { pause_seconds: 3_601.0, ..unused }), 0);
        let slow = Quota::new(5, Some(1_500));
        assert!(
            (150..=300).contains(&slow.calls_left_in_hour(&unused)),
            "the limit per minute is the narrower one"
        );
    }

    /// The arithmetic of `reserve_call.sql` over a model of the clock.
    #[test]
    fn no_minute_exceeds_the_call_quota() {
        for calls in [1, 2, 5, 50, 1_000] {
            let Rate { spacing, ahead } = Rate::of(calls, Duration::from_secs(60));
            let mut used_up = Duration::ZERO;
            let mut now = Duration::from_secs(1_000);
            let mut times = Vec::new();
            while now < Duration::from_secs(1_600) {
                now = now.max(used_up.saturating_sub(ahead));
                used_up = used_up.max(now) + spacing;
                times.push(now);
            }
            let minute = Duration::from_secs(60);
            let within = |start: &Duration| {
                times.iter().filter(|at| (*start..*start + minute).contains(*at)).count()
            };
            let worst = times.iter().map(within).max().unwrap();
            assert!(worst <= calls as usize, "{worst} of {calls}");
            assert!(times.len() >= calls as usize * 5, "{} in ten minutes of {calls}", times.len());
        }
    }
}
