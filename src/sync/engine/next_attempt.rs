//! When a tenant whose run failed is tried again.

use std::time::Duration;

use crate::error::{Diagnosis, Retry};
use crate::store::Claim;
use crate::store::runs::{Outcome, back_off};

/// A parked tenant is tried this often: consent is given without notice to us.
const PARKED_PROBE: Duration = Duration::from_secs(3600);

/// A database failure affects all tenants and ends for all of them together; after this pause one run tests it.
const DATABASE_PROBE: Duration = Duration::from_secs(5);

/// How long a failed tenant is not tried; `None` is no wait.
pub(crate) fn next_wait(
    diagnosis: &Diagnosis,
    outcome: Outcome,
    claim: &Claim,
) -> Option<Duration> {
    match (outcome, diagnosis.retry) {
        (Outcome::Ok | Outcome::Stopped, _) => None,
        (_, Retry::After(asked)) => {
            Some(asked.max(Duration::from_secs(1)) + asked.mul_f64(jitter(claim) / 10.0))
        }
        (Outcome::Parked, _) => Some(PARKED_PROBE.mul_f64(0.8 + 0.4 * jitter(claim))),
        (Outcome::Failed, _) if diagnosis.class.is_database() => {
            Some(DATABASE_PROBE.mul_f64(0.8 + 0.4 * jitter(claim)))
        }
        (Outcome::Failed | Outcome::Throttled, _) => {
            Some(back_off(claim.consecutive_failures).mul_f64(0.8 + 0.4 * jitter(claim)))
        }
    }
}

/// Between 0 and 1, different for each tenant and attempt, so that tenants that failed together are not tried together.
fn jitter(claim: &Claim) -> f64 {
    let (high, low) = claim.lease.tenant.0.as_u64_pair();
    fastrand::Rng::with_seed(high ^ low ^ claim.lease.fence.unsigned_abs()).f64()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::error::SyncError;
    use crate::store::Lease;
    use crate::store::lease::RunKind;
    use crate::tenant::{Source, TenantId};

    fn wait_after(sqlstate: &str, consecutive_failures: u32) -> Duration {
        let claim = Claim {
            lease: Lease { tenant: TenantId(Uuid::from_u128(1)), fence: 1 },
            watermark: None,
            is_backfilled: true,
            source: Source::Defender,
            source_since: None,
            consecutive_failures,
            lateness: Duration::ZERO,
            claimed_at: DateTime::UNIX_EPOCH,
            kind: RunKind::Poll,
        };
        let diagnosis = SyncError::Database {
            step: "writing a page",
            sqlstate: Some(sqlstate.to_owned()),
            what: String::new(),
            fault: None,
        }
        .diagnosis();
        next_wait(&diagnosis, Outcome::of(&diagnosis), &claim).unwrap()
    }

    #[test]
    fn refused_value_backs_off_but_outage_is_probed() {
        for sqlstate in ["22021", "23514", "54000"] {
            assert!(wait_after(sqlstate, 0) >= Duration::from_secs(48), "{sqlstate}");
            assert!(wait_after(sqlstate, 9) >= Duration::from_secs(48 * 60), "{sqlstate}");
        }
        for sqlstate in ["08006", "28P01", "53100", "25006", "40P01"] {
            assert!(wait_after(sqlstate, 9) <= DATABASE_PROBE.mul_f64(1.2), "{sqlstate}");
        }
    }
}
