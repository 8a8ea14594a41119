//! Progress of the dispatcher, as the watchdog sees it.
//!
//! Before each wait the dispatcher sets its longest duration. A wait for a slow or absent database has a deadline, so a
//! daemon that waits stays fresh; one whose dispatcher hangs, has ended or no longer looks for due tenants does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For a busy machine. systemd allows `WatchdogSec` in addition.
const GRACE: Duration = Duration::from_secs(3);

/// The dispatcher looks for due tenants every [`CLAIM_PERIOD`]; so many omissions in a row are a defect.
const CLAIMS_MISSED_MAX: u32 = 12;

/// How often the dispatcher looks for due tenants at least: back-offs and leases of dead instances end between the ticks of
/// the schedule, and those stop when the wall clock is set back.
pub(crate) const CLAIM_PERIOD: Duration = Duration::from_secs(5);

/// When the dispatcher must have made its next step.
#[derive(Debug)]
pub struct Heartbeat {
    began: Instant,
    /// In milliseconds since `began`.
    fresh_until: AtomicU64,
    /// The next look for due tenants, in milliseconds since `began`.
    claim_until: AtomicU64,
}

impl Heartbeat {
    /// Not fresh until the first step.
    pub fn new() -> Self {
        let claim_until = AtomicU64::new(milliseconds(CLAIM_PERIOD * CLAIMS_MISSED_MAX));
        Self { began: Instant::now(), fresh_until: AtomicU64::new(0), claim_until }
    }

    /// Sets the time until the next step.
    pub fn expect_within(&self, wait: Duration) {
        self.fresh_until
            .store(milliseconds(self.began.elapsed() + wait + GRACE), Ordering::Relaxed);
    }

    /// The dispatcher looks for due tenants, or has no slot for one.
    pub fn claims(&self) {
        let next = self.began.elapsed() + CLAIM_PERIOD * CLAIMS_MISSED_MAX;
        self.claim_until.store(milliseconds(next), Ordering::Relaxed);
    }

    /// Whether neither the next step nor the next look for due tenants is overdue.
    pub fn is_fresh(&self) -> bool {
        let now = milliseconds(self.began.elapsed());
        now < self.fresh_until.load(Ordering::Relaxed)
            && now < self.claim_until.load(Ordering::Relaxed)
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeat_is_fresh_until_wait_and_grace_end() {
        let beat = Heartbeat::new();
        assert!(!beat.is_fresh());
        beat.expect_within(Duration::ZERO);
        assert!(beat.is_fresh());
        let later = Heartbeat { began: Instant::now().checked_sub(GRACE).unwrap(), ..beat };
        assert!(!later.is_fresh());
    }

    #[test]
    fn heartbeat_ends_without_look_for_due_tenants() {
        let long = CLAIM_PERIOD * CLAIMS_MISSED_MAX;
        let began = Instant::now().checked_sub(long + GRACE).unwrap();
        let beat = Heartbeat { began, ..Heartbeat::new() };
        beat.expect_within(Duration::ZERO);
        assert!(!beat.is_fresh(), "a dispatcher that turns without a claim");
        beat.claims();
        assert!(beat.is_fresh());
    }
}
