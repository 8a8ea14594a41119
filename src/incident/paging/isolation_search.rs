//! The search for what the API cannot serve: one incident that makes every page that shows it fail with 5xx, for ever, or
//! pages that are larger than we take.
//!
//! A page that failed is asked for again with fewer rows. If that fails too, a request that can surely be served
//! distinguishes an outage from such a page: then the window is halved, its first half is read, and so on, until a second is
//! left that fails. That second is read in pieces around the rows that fail; it becomes a gap, and the rest is read.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::window_reader::WindowReader;
use super::{PAGE_ROWS, PageSummary, Plan, ReadScope, Request};
use crate::error::SyncError;
use crate::incident::gap::{Gap, GapReason};
use crate::incident::window::{Window, floor_to_second, to_delta};

/// A page is halved down to this; overlaps and proofs need less.
const SMALLEST_TOP: usize = PAGE_ROWS / 4;
/// After this many failures in a row the probe tests again for an outage.
const FAILURES_PER_PROBE: usize = 8;
/// So many rows of one second that fail one after the other are no poison but an outage.
const FAILED_ROWS_MAX: usize = 8;
/// Requests for the pieces of one second; the rest of the second stays in the gap.
const ROW_BY_ROW_PAGES_MAX: usize = 100;
/// A run leaves out at most this many gaps; more are an outage.
const GAPS_MAX: usize = 5;
/// Failures that the searches of one run may cost, in all.
const FAILURES_MAX: usize = 200;

/// How far the search in a window that fails has come.
#[derive(Debug, Default)]
pub(super) struct IsolationSearch {
    /// Set while the next request only tests whether the service answers at all: the failure before it.
    probe: Option<GapReason>,
    /// Windows below this edge are parts of one that failed.
    until: Option<DateTime<Utc>>,
    /// Failures since the last page that was served.
    in_a_row: usize,
    /// Failures of the whole run.
    failures: usize,
    /// Time of a row that this run was served, and surely will be again.
    good: Option<DateTime<Utc>>,
    gaps: usize,
    found: Option<Gap>,
}

impl IsolationSearch {
    pub(super) fn is_on(&self) -> bool {
        self.probe.is_some() || self.until.is_some()
    }

    pub(super) fn probe_request(&self) -> Option<Request> {
        let second = |from| Window {
            from: Some(from),
            to: Some(from + TimeDelta::seconds(1)),
            status: None,
        };
        self.probe.as_ref()?;
        Some(self.good.map_or_else(Request::probe, |good| Request {
            window: second(floor_to_second(good)),
            ..Request::probe()
        }))
    }

    /// Records that a page was served; returns the failure to isolate if it was the probe's page.
    pub(super) fn take_probe(&mut self) -> Option<GapReason> {
        self.in_a_row = 0;
        self.probe.take()
    }

    /// The row in the middle is the farthest from those that the page could not show.
    pub(super) fn served(&mut self, page: &PageSummary) {
        self.good = page.rows.get(page.rows.len() / 2).and_then(|row| row.updated).or(self.good);
    }

    pub(super) fn window_started(&mut self, window: Option<Window>) {
        let from = window.and_then(|window| window.from);
        self.until = self.until.filter(|until| from.is_some_and(|from| from < *until));
    }

    /// More than one gap is plausible only if the service has served something.
    fn has_room(&self) -> bool {
        self.gaps < if self.good.is_some() { GAPS_MAX } else { 1 }
    }
}

impl Plan {
    /// Tries a gap again: its one second whole, and if that fails in pieces. [`Plan::take_gap`] returns it if it stays.
    pub fn of_gap(gap: &Gap) -> Self {
        let scope = ReadScope {
            from: Some(gap.from),
            to: Some(gap.to),
            lookback: Duration::ZERO,
            status: None,
        };
        let mut plan = Self::new(scope, &[]);
        plan.upper = Some(gap.to);
        plan.search.until = Some(gap.to);
        // The first failure asks whether it is an outage: most runs with a gap begin like this.
        plan.search.in_a_row = FAILURES_PER_PROBE - 1;
        plan
    }

    /// Whether the next request is part of a search: it is asked once, because the search itself asks again.
    pub fn is_searching(&self) -> bool {
        self.search.is_on() || self.current.as_ref().is_some_and(|reader| reader.top < PAGE_ROWS)
    }

    /// The last request failed with this error, which becomes the reason of the gap that the search may end in. Returns
    /// whether there is a smaller request to make; if not, it is an outage.
    pub fn failed(&mut self, error: &SyncError) -> bool {
        let Some(reader) = self.current.as_mut() else { return false };
        reader.link = None;
        if !self.search.is_on() && reader.top > SMALLEST_TOP {
            reader.top /= 2;
            return true;
        }
        if self.unbounded || self.search.probe.is_some() || !self.search.has_room() {
            return false;
        }
        self.search.failures += 1;
        self.search.in_a_row += 1;
        if self.search.failures > FAILURES_MAX {
            return false;
        }
        if let Some(reason) = reader.row_by_row.as_mut() {
            *reason = error.into();
            if reader.top > 1 {
                reader.top = 1;
            } else {
                reader.skip += 1;
            }
            return self.search.in_a_row <= FAILED_ROWS_MAX;
        }
        let may_be_an_outage =
            !self.search.is_on() || self.search.in_a_row.is_multiple_of(FAILURES_PER_PROBE);
        match self.upper.filter(|_| !may_be_an_outage) {
            Some(upper) => self.halve(upper, error.into()),
            None => self.search.probe = Some(error.into()),
        }
        true
    }

    /// The gap that the last page completed: store it before the watermark passes it.
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.search.found.take()
    }

    /// Puts the halves of the window that fails in its place, or begins to read its only second in pieces.
    pub(super) fn halve(&mut self, upper: DateTime<Utc>, reason: GapReason) {
        let Some(reader) = self.current.take() else { return };
        let from = reader.window.from.unwrap_or_else(|| self.oldest(upper));
        let to = reader.window.to.unwrap_or(upper);
        let window = Window { from: Some(from), to: Some(to), ..reader.window };
        self.search.until = self.search.until.max(Some(to));
        self.current = match middle(from, to) {
            Some(edge) => {
                let (first, rest) = window.split_at(edge);
                self.pending.push(rest);
                Some(WindowReader::new(first))
            }
            None => Some(WindowReader::of_pieces(window, reason)),
        };
    }

    /// Pieces grow while they are served, and start again with one row after a failure. Nothing is proven here: the whole
    /// second is read again when the gap is tried again.
    pub(super) fn accept_row_by_row(
        &mut self,
        mut reader: WindowReader,
        reason: GapReason,
        page: &PageSummary,
        upper: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        reader.pages += 1;
        if page.rows.len() >= reader.top && reader.pages < ROW_BY_ROW_PAGES_MAX {
            reader.skip += page.rows.len();
            reader.top = (reader.top * 2).min(PAGE_ROWS);
            reader.row_by_row = Some(reason);
            self.current = Some(reader);
            return None;
        }
        if let (Some(from), Some(to)) = (reader.window.from, reader.window.to) {
            self.search.gaps += 1;
            self.search.found = Some(Gap { from, to, reason });
        }
        Some(self.pass_over(reader.window, upper))
    }
}

/// The whole second in the middle; `None` where no more than one second is left.
fn middle(from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
    [floor_to_second(from + (to - from) / 2), floor_to_second(to)]
        .into_iter()
        .find(|edge| from < *edge && *edge < to)
}

/// The windows between the gaps of a scope, the oldest on top.
pub(super) fn around(scope: ReadScope, gaps: &[Gap]) -> Vec<Window> {
    let mut gaps: Vec<&Gap> = gaps.iter().collect();
    gaps.sort_unstable_by_key(|gap| gap.from);
    let mut windows = Vec::new();
    let mut from = scope.from;
    for gap in gaps {
        let begin = from.unwrap_or_else(|| floor_to_second(gap.from - to_delta(scope.lookback)));
        if scope.to.is_some_and(|to| to <= gap.from) || gap.to <= begin {
            continue;
        }
        if begin < gap.from {
            windows.push(Window { from: Some(begin), to: Some(gap.from), status: scope.status });
        }
        from = Some(gap.to);
    }
    windows.push(Window { from, to: scope.to, status: scope.status });
    windows.reverse();
    windows
}
