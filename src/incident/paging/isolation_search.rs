//! The search for what the API cannot serve: one incident that makes every page that shows it fail with 5xx permanently, or
//! pages that are larger than we take.
//!
//! A page that failed is asked for again with fewer rows. If that fails too, a request that can surely be served
//! distinguishes an outage from such a page: then the window is halved, its first half is read, and so on, until a second is
//! left that fails. That second is read in pieces around the rows that fail; it becomes a gap, and the rest is read.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::keyset_reader::KeysetReader;
use super::window_reader::{SKIP_ROWS_MAX, WindowReader};
use super::{Listing, PageSummary, Plan, ReadScope, Reader, Request, page_rows};
use crate::error::SyncError;
use crate::incident::gap::{Gap, GapReason};
use crate::incident::window::{Window, floor_to_second, to_delta};
use crate::tenant::Source;

/// After this many failures in a row the probe tests again for an outage.
const FAILURES_PER_PROBE: usize = 8;
/// This many consecutive failing rows of one second are an outage, not unservable incidents.
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
    source: Source,
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
    /// Where the gaps of this run begin. One that is found again does not count again.
    left_out: Vec<DateTime<Utc>>,
    found: Option<Gap>,
}

impl IsolationSearch {
    pub(super) fn of(source: Source) -> Self {
        Self { source, ..Self::default() }
    }

    pub(super) fn leave_out(&mut self, gap: Gap) {
        if !self.left_out.contains(&gap.from) {
            self.left_out.push(gap.from);
        }
        self.found = Some(gap);
    }

    pub(super) fn is_on(&self) -> bool {
        self.probe.is_some() || self.until.is_some()
    }

    pub(super) fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    pub(super) fn probe_request(&self) -> Option<Request> {
        let second = |from| Window {
            from: Some(from),
            to: Some(from + TimeDelta::seconds(1)),
            status: None,
        };
        self.probe.as_ref()?;
        let listing = match self.source {
            Source::Defender => Listing::Incidents,
            // The row may be one that only fails to be expanded.
            Source::Graph => Listing::Versions,
        };
        let probe = Request { listing, ..Request::probe() };
        Some(match self.good {
            None => probe,
            Some(good) => Request { window: second(floor_to_second(good)), ..probe },
        })
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
        self.left_out.len() < if self.good.is_some() { GAPS_MAX } else { 1 }
    }
}

impl Plan {
    /// Tries a gap again: its one second whole, and if that fails in pieces. [`Plan::take_gap`] returns it if it stays.
    pub fn of_gap(gap: &Gap, source: Source) -> Self {
        let scope = ReadScope {
            from: Some(gap.from),
            to: Some(gap.to),
            lookback: Duration::ZERO,
            status: None,
        };
        let mut plan = Self::new(scope, &[], source);
        plan.upper = Some(gap.to);
        plan.search.until = Some(gap.to);
        // The first failure asks whether it is an outage: most runs with a gap begin like this.
        plan.search.in_a_row = match source {
            Source::Defender => FAILURES_PER_PROBE - 1,
            // A page and a list of versions.
            Source::Graph => FAILURES_PER_PROBE - 2,
        };
        plan
    }

    /// Whether the next request is part of a search: it is asked once, because the search itself asks again.
    pub fn is_searching(&self) -> bool {
        let is_in_pieces = match &self.current {
            None => false,
            Some(Reader::Window(reader)) => reader.top < page_rows(self.source, self.listing),
            Some(Reader::Keyset(reader)) => reader.is_in_pieces(),
        };
        self.search.is_on() || is_in_pieces
    }

    /// The last request failed with this error, which becomes the reason of the gap that the search may end in. Returns
    /// whether there is a smaller request to make; if not, it is an outage.
    pub fn failed(&mut self, error: &SyncError) -> bool {
        if self.listing == Listing::Alerts {
            return self.shrink();
        }
        match self.current.take() {
            None => false,
            Some(Reader::Window(reader)) if self.source == Source::Defender => {
                self.window_failed(reader, error)
            }
            Some(Reader::Window(reader)) => self.graph_window_failed(reader, error),
            Some(Reader::Keyset(reader)) => self.keyset_failed(reader, error),
        }
    }

    /// Alerts are not left out: what fails is asked for in smaller pages, and what is before it stays read.
    fn shrink(&mut self) -> bool {
        match &mut self.current {
            None => false,
            Some(Reader::Window(reader)) => reader.shrink(),
            Some(Reader::Keyset(reader)) => reader.shrink(),
        }
    }

    pub(super) fn window_failed(&mut self, mut reader: WindowReader, error: &SyncError) -> bool {
        reader.link = None;
        let smallest_top = page_rows(self.source, self.listing) / 4;
        if !self.search.is_on() && reader.top > smallest_top {
            reader.top /= 2;
            self.current = Some(Reader::Window(reader));
            return true;
        }
        if !self.may_leave_out() || !self.count_failure() {
            return false;
        }
        if let Some(reason) = reader.row_by_row.as_mut() {
            *reason = error.into();
            if reader.top > 1 {
                reader.top = 1;
            } else {
                reader.skip += 1;
            }
            self.current = Some(Reader::Window(reader));
            return self.search.in_a_row <= FAILED_ROWS_MAX;
        }
        self.current = Some(Reader::Window(reader));
        self.isolate(error);
        true
    }

    /// The versions of a window that fails are listed first; what the list cannot show either is searched for.
    fn graph_window_failed(&mut self, reader: WindowReader, error: &SyncError) -> bool {
        if reader.row_by_row.is_some() {
            let is_too_deep = reader.skip + 1 >= SKIP_ROWS_MAX;
            return !is_too_deep && self.window_failed(reader, error);
        }
        if self.search.probe.is_some() || !self.count_failure() {
            return false;
        }
        self.current = Some(Reader::Keyset(KeysetReader::of_failed(reader.window, self.listing)));
        true
    }

    pub(super) fn keyset_failed(&mut self, mut reader: KeysetReader, error: &SyncError) -> bool {
        if self.search.probe.is_some() {
            return false;
        }
        let is_one = !reader.is_list();
        if is_one && (!self.may_leave_out_one() || !self.count_failure()) {
            return false;
        }
        if self.search.is_on() && reader.is_list() && reader.is_of_incidents() {
            self.search.in_a_row += 1;
        }
        let is_answered = reader.failed(error.into());
        self.current = Some(Reader::Keyset(reader));
        if is_answered {
            return true;
        }
        if !self.may_leave_out() || !self.count_failure() {
            return false;
        }
        self.isolate(error);
        true
    }

    /// Whether what fails may be left out: an open-ended window has no place for a gap, and many gaps are an outage.
    pub(super) fn may_leave_out(&self) -> bool {
        !self.unbounded && self.search.probe.is_none() && self.search.has_room()
    }

    /// The same for one incident: that it is listed shows that the service answers.
    pub(super) fn may_leave_out_one(&self) -> bool {
        !self.unbounded && self.search.left_out.len() < GAPS_MAX
    }

    pub(super) fn count_failure(&mut self) -> bool {
        self.search.failures += 1;
        self.search.in_a_row += 1;
        self.search.failures <= FAILURES_MAX
    }

    /// Halves the window that fails, unless it is time to ask whether the service answers at all.
    fn isolate(&mut self, error: &SyncError) {
        let may_be_an_outage = !self.search.is_on() || self.search.in_a_row >= FAILURES_PER_PROBE;
        match self.upper.filter(|_| !may_be_an_outage) {
            Some(upper) => self.halve(upper, error.into()),
            None => self.search.probe = Some(error.into()),
        }
    }

    /// The gap that the last page completed: store it before the watermark passes it.
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.search.found.take()
    }

    /// Puts the halves of the window that fails in its place, or begins to read its only second in pieces.
    pub(super) fn halve(&mut self, upper: DateTime<Utc>, reason: GapReason) {
        let Some(reader) = self.current.take() else { return };
        let window = reader.window();
        let from = window.from.unwrap_or_else(|| self.oldest(upper));
        let to = window.to.unwrap_or(upper);
        let window = Window { from: Some(from), to: Some(to), ..window };
        self.search.until = self.search.until.max(Some(to));
        self.current = match middle(from, to) {
            Some(edge) => {
                let (first, rest) = window.split_at(edge);
                self.pending.push(rest);
                Some(self.reader(first))
            }
            None => Some(Reader::Window(WindowReader::of_pieces(
                window,
                reason,
                self.source,
                self.listing,
            ))),
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
        let skip = reader.skip + page.rows.len();
        let top = (reader.top * 2).min(page_rows(self.source, self.listing));
        let is_too_deep = self.source == Source::Graph && skip + top > SKIP_ROWS_MAX;
        let is_linked = self.source == Source::Graph && page.next_link.is_some();
        let is_cut = page.cut.is_some();
        let has_more =
            is_cut || page.rows.len() >= reader.top || is_linked && !page.rows.is_empty();
        if has_more && reader.pages < ROW_BY_ROW_PAGES_MAX && !is_too_deep {
            (reader.skip, reader.top, reader.row_by_row) = (skip, top, Some(reason));
            self.current = Some(Reader::Window(reader));
            return None;
        }
        if let (Some(from), Some(to)) = (reader.window.from, reader.window.to) {
            self.search.leave_out(Gap { from, to, reason });
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
