//! Progress of the dispatcher, as the watchdog sees it.
//!
//! Before each wait the dispatcher sets its longest duration. A wait for a slow or absent database has a deadline, so a
//! daemon that waits stays fresh; one whose dispatcher hangs or has ended does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For a busy machine. systemd allows `WatchdogSec` in addition.
const GRACE: Duration = Duration::from_secs(3);

/// When the dispatcher must have made its next step.
#[derive(Debug)]
pub struct Heartbeat {
    began: Instant,
    /// In milliseconds since `began`.
    fresh_until: AtomicU64,
}

impl Heartbeat {
    /// Not fresh until the first step.
    pub fn new() -> Self {
        Self { began: Instant::now(), fresh_until: AtomicU64::new(0) }
    }

    /// Sets the time until the next step.
    pub fn expect_within(&self, wait: Duration) {
        self.fresh_until
            .store(milliseconds(self.began.elapsed() + wait + GRACE), Ordering::Relaxed);
    }

    /// Whether the next step is not overdue.
    pub fn is_fresh(&self) -> bool {
        milliseconds(self.began.elapsed()) < self.fresh_until.load(Ordering::Relaxed)
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
}
