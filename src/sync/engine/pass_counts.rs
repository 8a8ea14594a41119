//! The line of the log for a pass: the runs until none is in progress.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::TenantResult;
use crate::store::runs::Outcome;

/// Passes that follow each other more quickly share a line.
const LINE_PERIOD: Duration = Duration::from_secs(60);

/// What the runs since the last line did.
#[derive(Debug, Default)]
pub(super) struct PassCounts(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    runs: usize,
    ok: usize,
    throttled: usize,
    parked: usize,
    failed: usize,
    written: usize,
    logged_at: Option<Instant>,
}

impl PassCounts {
    pub(super) fn add(&self, result: &TenantResult) {
        let mut counts = self.0.lock();
        counts.runs += 1;
        counts.written += result.report.counts.incidents_written;
        let of_outcome = match result.outcome {
            Outcome::Ok => &mut counts.ok,
            Outcome::Throttled => &mut counts.throttled,
            Outcome::Parked => &mut counts.parked,
            Outcome::Failed => &mut counts.failed,
            Outcome::Stopped => return,
        };
        *of_outcome += 1;
    }

    /// Logs the counts when no run is in progress.
    pub(super) fn log(&self) {
        let mut counts = self.0.lock();
        let is_early = counts.logged_at.is_some_and(|logged| logged.elapsed() < LINE_PERIOD);
        if counts.runs == 0 || is_early {
            return;
        }
        let Counts { runs, ok, throttled, parked, failed, written, .. } = *counts;
        tracing::info!(
            runs,
            incidents_written = written,
            "Pass done: {runs} runs: {ok} ok, {failed} failed, {parked} parked, {throttled} throttled; {written} incidents written"
        );
        *counts = Counts { logged_at: Some(Instant::now()), ..Counts::default() };
    }
}
