//! What a run reads, and when it may move the watermark.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::incident::paging::ReadScope;
use crate::incident::window::{poll_from, to_delta};
use crate::store::Claim;
use crate::store::lease::RunKind;
use crate::tenant::Source;

/// The scope of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// A poll starts this far before the watermark: the configured overlap, or more where the API lists changes late.
    pub overlap: Duration,
    /// The configured overlap.
    pub overlap_min: Duration,
    /// The hourly run reads everything that changed this recently again.
    pub recheck: Duration,
    /// A backfill goes back this far.
    pub lookback: Duration,
    /// A reconciliation goes back this far before the watermark.
    pub reconcile: Duration,
    pub mode: SyncMode,
    /// Pages after which the run ends at the next move of the watermark.
    pub pages_max: usize,
}

/// What a person requested; a run of the daemon is incremental.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Changes since the watermark.
    Incremental,
    /// Everything that the API retains.
    Full,
    Since(DateTime<Utc>),
    /// The quarantine, again.
    Quarantine,
}

/// Polls reach back this far at most, however late the API lists a change: the hourly run reads what is older.
const OVERLAP_MAX: Duration = Duration::from_secs(2 * 3600);
/// What was late by some minutes once may be late by a little more the next time.
const LATENESS_MARGIN: Duration = Duration::from_secs(120);

impl RunOptions {
    /// The same for a tenant whose changes were seen to be listed so late.
    #[must_use]
    pub fn reaching_back(self, lateness: Duration) -> Self {
        let observed = if lateness.is_zero() { lateness } else { lateness + LATENESS_MARGIN };
        Self { overlap: self.overlap_min.max(observed.min(OVERLAP_MAX)), ..self }
    }

    /// What a run reads, in this order: the only place where the kinds of runs differ.
    pub(crate) fn scopes(&self, claim: &Claim, source: Source) -> Vec<ReadScope> {
        let scope = |from, status| ReadScope { from, to: None, lookback: self.lookback, status };
        let news = claim.watermark.map(|watermark| poll_from(watermark, self.overlap));
        // What the API listed late, and what it filled in later under an unchanged time.
        let recent = claim.watermark.filter(|_| !self.recheck.is_zero()).map(|watermark| {
            scope(Some(poll_from(watermark, self.recheck.max(self.overlap))), None)
        });
        match (claim.kind, self.mode) {
            // Open incidents need no reading on Graph: each poll reads what changed of the alerts.
            (RunKind::Open, _) if source == Source::Graph => recent.into_iter().collect(),
            (RunKind::Open, _) => {
                let open = ["Active", "InProgress"].map(|status| scope(None, Some(status)));
                open.into_iter().chain(recent).collect()
            }
            (RunKind::Reconcile, _) => {
                vec![scope(
                    claim.watermark.map(|watermark| watermark - to_delta(self.reconcile)),
                    None,
                )]
            }
            (_, SyncMode::Full) => vec![scope(None, None)],
            (_, SyncMode::Since(time)) => vec![scope(Some(time), None)],
            (
                RunKind::Poll | RunKind::Backfill | RunKind::Manual,
                SyncMode::Incremental | SyncMode::Quarantine,
            ) => {
                vec![scope(news, None)]
            }
        }
    }

    /// The watermark may move only if the run reads everything since the old one and the overlap before it: what the API
    /// lists late would be before the overlap of the new watermark.
    pub(crate) fn moves_watermark(&self, claim: &Claim, scope: ReadScope) -> bool {
        let reaches_back = match (scope.from, claim.watermark) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(from), Some(watermark)) => from <= poll_from(watermark, self.overlap),
        };
        scope.status.is_none() && scope.to.is_none() && reaches_back
    }
}
