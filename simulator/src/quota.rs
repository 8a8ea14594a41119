//! The documented limits: calls in any sliding minute and in any sliding hour.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};

const MINUTE: TimeDelta = TimeDelta::minutes(1);
const HOUR: TimeDelta = TimeDelta::hours(1);

/// The calls of one tenant.
#[derive(Debug)]
pub(super) struct Quota {
    per_minute: usize,
    per_hour: usize,
    /// The times of the accepted calls of the last hour, oldest first.
    admitted: VecDeque<DateTime<Utc>>,
}

impl Quota {
    pub(super) fn new(per_minute: u32, per_hour: u32) -> Self {
        Self {
            per_minute: per_minute as usize,
            per_hour: per_hour as usize,
            admitted: VecDeque::new(),
        }
    }

    /// Counts a call, or returns the seconds until one is accepted. A rejected call is not counted: the documents state only
    /// that an early retry is rejected again.
    pub(super) fn admit(&mut self, now: DateTime<Utc>) -> Result<(), i64> {
        while self.admitted.front().is_some_and(|at| *at + HOUR <= now) {
            self.admitted.pop_front();
        }
        let free_at = [(self.per_minute, MINUTE), (self.per_hour, HOUR)]
            .into_iter()
            .filter_map(|(limit, window)| self.free_at(now, limit, window))
            .max();
        match free_at {
            Some(at) => {
                let wait = at - now;
                Err(wait.num_seconds() + i64::from(wait.subsec_nanos() > 0))
            }
            None => {
                self.admitted.push_back(now);
                Ok(())
            }
        }
    }

    /// When a full window accepts the next call; `None` if it accepts one now.
    fn free_at(
        &self,
        now: DateTime<Utc>,
        limit: usize,
        window: TimeDelta,
    ) -> Option<DateTime<Utc>> {
        if limit == 0 {
            return Some(now + window);
        }
        let oldest_that_counts = self.admitted.len().checked_sub(limit)?;
        let free_at = self.admitted[oldest_that_counts] + window;
        (free_at > now).then_some(free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_windows_slide_by_minute_and_hour() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let mut quota = Quota::new(2, 3);
        let mut at = |seconds| quota.admit(start + TimeDelta::seconds(seconds));
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(30), Ok(()));
        assert_eq!(at(59), Err(1));
        assert_eq!(at(60), Ok(()));
        assert_eq!(at(200), Err(3400), "three in this hour");
        assert_eq!(at(3600), Ok(()));
    }
}
