//! Reads a list that moves while it is read, and loses nothing. Pure: from the content of a page
//! it decides the next request. How the pages of one window follow each other depends on the API: pages by `$skip` that
//! overlap are in `window_reader`, pages by time in `keyset_reader`.
//!
//! What the API cannot serve at all is found and left out: one incident by `retreat`, a part of the list by
//! `isolation_search`.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::error::{Peer, SyncError};
use crate::incident::gap::Gap;
use crate::incident::window::{Window, floor_to_second, to_delta};
use crate::tenant::Source;

mod isolation_search;
mod keyset_reader;
mod large_incident;
mod request;
mod retreat;
mod window_reader;

use isolation_search::IsolationSearch;
use keyset_reader::KeysetReader;
use request::page_rows;
pub use request::{Cut, Listing, PageSummary, Request};
use window_reader::{Progress, WindowReader};

/// The smallest difference of two times that we distinguish: the length of a window of one instant.
pub const INSTANT: TimeDelta = TimeDelta::microseconds(1);
/// A window's upper edge stays this far behind the server's clock: its index may lag, and `Date` has whole seconds.
pub const CONSISTENCY_LAG: TimeDelta = TimeDelta::seconds(5);
/// The first window of a backfill. The next ones grow and shrink with what a window held.
const FIRST_WINDOW: TimeDelta = TimeDelta::days(30);
const SHORTEST_WINDOW: TimeDelta = TimeDelta::minutes(1);
const LONGEST_WINDOW: TimeDelta = TimeDelta::days(180);
/// A window that needed more pages than this is followed by a shorter one: a kill costs at most one window's pages.
const PAGES_PER_WINDOW: usize = 10;

/// One tenant run's reading plan: an open-ended page first, and windows if that was full.
#[derive(Debug)]
pub struct Plan {
    scope: ReadScope,
    source: Source,
    /// What its pages list.
    listing: Listing,
    /// Windows still to read, the oldest on top. One without an upper edge gets it from the server's clock.
    pending: Vec<Window>,
    current: Option<Reader>,
    upper: Option<DateTime<Utc>>,
    newest: Option<DateTime<Utc>>,
    window_length: TimeDelta,
    cutting: bool,
    unbounded: bool,
    search: IsolationSearch,
}

/// The reading of one window, by the strategy that the API allows.
#[derive(Debug)]
enum Reader {
    Window(WindowReader),
    Keyset(KeysetReader),
}

impl Reader {
    fn window(&self) -> Window {
        match self {
            Self::Window(reader) => reader.window,
            Self::Keyset(reader) => reader.window,
        }
    }

    fn request(&self) -> Request {
        match self {
            Self::Window(reader) => reader.request(),
            Self::Keyset(reader) => reader.request(),
        }
    }
}

/// What a run is to read.
#[derive(Debug, Clone, Copy)]
pub struct ReadScope {
    /// From this `lastUpdateTime` on; `None` reads everything that the API retains.
    pub from: Option<DateTime<Utc>>,
    /// Up to this `lastUpdateTime`; `None` reads up to now.
    pub to: Option<DateTime<Utc>>,
    /// How far back everything goes.
    pub lookback: Duration,
    /// Only incidents of this status.
    pub status: Option<&'static str>,
}

impl Plan {
    /// Begins with one open-ended page: nearly every poll ends there, and it shows the server's time. `gaps` are known
    /// not to be served and are left out.
    pub fn new(scope: ReadScope, gaps: &[Gap], source: Source) -> Self {
        Self::of(Listing::Incidents, scope, gaps, source)
    }

    /// The same for the versions of Graph's incidents, which cost little to list.
    pub fn of_versions(scope: ReadScope, gaps: &[Gap]) -> Self {
        Self::of(Listing::Versions, scope, gaps, Source::Graph)
    }

    /// The same for Graph's alerts, by their own times. None of them is left out.
    pub fn of_alerts(scope: ReadScope) -> Self {
        Self::of(Listing::Alerts, scope, &[], Source::Graph)
    }

    fn of(listing: Listing, scope: ReadScope, gaps: &[Gap], source: Source) -> Self {
        let mut plan = Self {
            scope,
            source,
            listing,
            pending: isolation_search::around(scope, gaps),
            current: None,
            upper: None,
            newest: None,
            window_length: FIRST_WINDOW,
            cutting: false,
            unbounded: false,
            search: IsolationSearch::of(source),
        };
        plan.current = plan.next_window();
        plan
    }

    /// The next request, or `None` when everything is read.
    pub fn request(&self) -> Option<Request> {
        self.search.probe_request().or_else(|| self.current.as_ref().map(Reader::request))
    }

    /// Takes a page. Where it drains a window, or shows that everything before some time is read, answers the watermark
    /// that now holds: store it with this page's rows and with what [`Plan::take_gap`] gives.
    pub fn accept(&mut self, page: &PageSummary) -> Result<Option<DateTime<Utc>>, SyncError> {
        let upper = *self.upper.get_or_insert(page.server_time - CONSISTENCY_LAG);
        if let Some(reason) = self.search.take_probe() {
            self.halve(upper, reason);
            return Ok(None);
        }
        self.newest = self.newest.max(page.newest());
        match self.current.take() {
            None => Ok(None),
            Some(Reader::Window(reader)) => self.accept_by_window(reader, page, upper),
            Some(Reader::Keyset(reader)) => self.accept_by_keyset(reader, page, upper),
        }
    }

    fn accept_by_window(
        &mut self,
        mut reader: WindowReader,
        page: &PageSummary,
        upper: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, SyncError> {
        if reader.window.to.is_none() && !self.unbounded && !reader.fits(page) {
            self.bound(reader.window, upper);
            return Ok(None);
        }
        if page.cut.is_some() && !reader.goes_on_after(page) {
            return self.accept_too_large(reader, page);
        }
        if let Some(reason) = reader.row_by_row.take() {
            return Ok(self.accept_row_by_row(reader, reason, page, upper));
        }
        self.search.served(page);
        let progress = reader.accept(page);
        let is_linked = page.next_link.is_some() && self.source == Source::Defender;
        match progress {
            Progress::Continues if self.cutting && !reader.is_rescanning() && !is_linked => {
                self.cut(reader.window, page);
                Ok(None)
            }
            Progress::Continues => {
                self.current = Some(Reader::Window(reader));
                Ok(None)
            }
            Progress::Endless => {
                Err(SyncError::EndlessListing { window: reader.window.to_string() })
            }
            Progress::Disorder if reader.is_rescanning() || self.unbounded || self.cutting => {
                Err(SyncError::UnstableListing { window: reader.window.to_string() })
            }
            Progress::Disorder if self.source == Source::Graph => {
                let reader = WindowReader::of_instant(reader.window, self.source, self.listing);
                self.current = Some(Reader::Window(reader));
                Ok(None)
            }
            Progress::Disorder | Progress::Instant | Progress::Doubtful(_) => {
                self.cutting = true;
                let reader = WindowReader::new(reader.window, self.source, self.listing);
                self.current = Some(Reader::Window(reader));
                Ok(None)
            }
            Progress::Drained => Ok(Some(self.window_done(&reader, upper))),
        }
    }

    fn accept_by_keyset(
        &mut self,
        mut reader: KeysetReader,
        page: &PageSummary,
        upper: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, SyncError> {
        if let Some(failure) = page.alerts_failure.as_ref().filter(|_| !self.may_leave_out_one()) {
            return Err(failure.clone());
        }
        if let Some(cut) = page.cut.filter(|_| !reader.goes_on_after(page)) {
            let peer = Peer::from(self.source);
            let error = SyncError::BodyTooLarge { peer, bytes_max: cut.bytes_max };
            return if self.keyset_failed(reader, &error) { Ok(None) } else { Err(error) };
        }
        let before = reader.window.from;
        if reader.window.to.is_none() && !self.unbounded && reader.is_list() && !reader.fits(page) {
            if before.is_none() {
                self.bound(reader.window, upper);
                return Ok(None);
            }
            // What was read stays read: the order is that of the times.
            reader.window.to = Some(upper);
        }
        if reader.is_of_incidents() {
            self.search.served(page);
        }
        let progress = reader.accept(page);
        if let Some(gap) = reader.take_gap() {
            self.search.leave_out(gap);
        }
        let window = reader.window;
        let watermark = window.from.filter(|from| before < Some(*from)).map(|from| from.min(upper));
        match progress {
            Progress::Continues => {
                self.current = Some(Reader::Keyset(reader));
                Ok(watermark)
            }
            Progress::Drained => Ok(Some(self.pass_over(window, upper))),
            Progress::Endless => Err(SyncError::EndlessListing { window: window.to_string() }),
            Progress::Instant | Progress::Doubtful(_) | Progress::Disorder if self.unbounded => {
                Err(SyncError::UnstableListing { window: window.to_string() })
            }
            Progress::Instant => {
                self.sweep_first_instant(window);
                Ok(watermark)
            }
            Progress::Doubtful(instant) => {
                // Where the order is that of the times, nothing is before the instant.
                let (first, rest) = window.split_at(instant);
                self.pending.push(rest);
                self.current = Some(self.reader(first));
                Ok(watermark)
            }
            Progress::Disorder => {
                self.cutting = true;
                self.cut(window, page);
                Ok(watermark)
            }
        }
    }

    /// Reads the first instant of a window with `$skip`, because it has more rows than a page.
    fn sweep_first_instant(&mut self, window: Window) {
        let after = window.from.map(|from| from + INSTANT);
        let instant = match after.filter(|after| window.to.is_none_or(|to| *after < to)) {
            Some(after) => {
                let (instant, rest) = window.split_at(after);
                self.pending.push(rest);
                instant
            }
            None => window,
        };
        self.current = Some(Reader::Window(match self.listing {
            Listing::Alerts => WindowReader::of_instant(instant, self.source, self.listing),
            listing => WindowReader::new(instant, self.source, listing),
        }));
    }

    /// The API refused the last request as wrong. Answers whether there is another way to ask: a deep `$skip` is avoided
    /// by cutting the window, an upper edge (`lt` is not documented) by reading one open-ended window, an order (nor is
    /// `$orderby`) by cutting as well.
    pub fn refused(&mut self) -> bool {
        match self.current.take() {
            Some(Reader::Window(reader)) if !self.search.is_on() => self.window_refused(reader),
            Some(Reader::Keyset(reader)) if !self.search.is_probing() => {
                self.keyset_refused(reader)
            }
            current => {
                self.current = current;
                false
            }
        }
    }

    fn window_refused(&mut self, reader: WindowReader) -> bool {
        if reader.skip > 0 && !self.unbounded && !reader.is_rescanning() {
            self.cutting = true;
        } else if reader.skip == 0 && reader.window.to.is_some() && self.source == Source::Defender
        {
            self.unbounded = true;
            self.cutting = false;
            self.pending.clear();
        } else {
            self.current = Some(Reader::Window(reader));
            return false;
        }
        let to = if self.unbounded { None } else { reader.window.to };
        let window = Window { to, ..reader.window };
        self.current = Some(Reader::Window(WindowReader::new(window, self.source, self.listing)));
        true
    }

    fn keyset_refused(&mut self, mut reader: KeysetReader) -> bool {
        if reader.is_in_retreat() {
            return false;
        }
        if reader.window.to.take().is_some() {
            self.unbounded = true;
            self.pending.clear();
            // A gap that is tried again has an edge, too.
            self.search.window_started(None);
            self.current = Some(Reader::Keyset(reader));
            return true;
        }
        let is_first = !self.unbounded;
        self.cutting = true;
        self.current =
            Some(Reader::Window(WindowReader::new(reader.window, self.source, self.listing)));
        is_first
    }

    /// Gives an open-ended window its edges.
    fn bound(&mut self, window: Window, upper: DateTime<Utc>) {
        let from = window.from.unwrap_or_else(|| self.oldest(upper));
        self.pending.push(Window { from: Some(from), to: Some(upper), ..window });
        self.current = self.next_window();
    }

    fn oldest(&self, upper: DateTime<Utc>) -> DateTime<Utc> {
        floor_to_second(upper - to_delta(self.scope.lookback))
    }

    fn next_window(&mut self) -> Option<Reader> {
        let window = self.pending.pop();
        self.search.window_started(window);
        let window = window?;
        // Pages by time need no shorter windows: a kill costs one page.
        let is_whole = self.cutting || self.source == Source::Graph;
        if let (Some(from), Some(to), false) = (window.from, window.to, is_whole) {
            let edge = floor_to_second(from + self.window_length);
            if from < edge && edge < to {
                let (first, rest) = window.split_at(edge);
                self.pending.push(rest);
                return Some(self.reader(first));
            }
        }
        Some(self.reader(window))
    }

    fn reader(&self, window: Window) -> Reader {
        match self.source {
            Source::Graph if !self.cutting => {
                Reader::Keyset(KeysetReader::new(window, self.listing))
            }
            source => Reader::Window(WindowReader::new(window, source, self.listing)),
        }
    }

    fn window_done(&mut self, reader: &WindowReader, upper: DateTime<Utc>) -> DateTime<Utc> {
        match reader.pages {
            0..=2 => self.window_length = (self.window_length * 4).min(LONGEST_WINDOW),
            3..=PAGES_PER_WINDOW => {}
            _ => self.window_length = (self.window_length / 2).max(SHORTEST_WINDOW),
        }
        self.pass_over(reader.window, upper)
    }

    /// Moves behind a window; returns the watermark there.
    fn pass_over(&mut self, window: Window, upper: DateTime<Utc>) -> DateTime<Utc> {
        self.current = self.next_window();
        match window.to {
            Some(edge) if self.current.is_some() => edge,
            _ => self.newest.map_or_else(
                || self.scope.from.unwrap_or_else(|| self.oldest(upper)),
                |newest| newest.min(upper),
            ),
        }
    }

    /// Puts two parts of a window that did not fit one page in its place, or sweeps an instant that cannot be cut.
    fn cut(&mut self, window: Window, page: &PageSummary) {
        match cutting_edge(window, page) {
            Some(edge) => {
                let (first, rest) = window.split_at(edge);
                self.pending.push(rest);
                self.pending.push(first);
                self.current = self.next_window();
            }
            None => {
                let reader = WindowReader::of_instant(window, self.source, self.listing);
                self.current = Some(Reader::Window(reader));
            }
        }
    }
}

/// Where a window is cut so that both parts are smaller: at the median of the times that the page shows in it, or in its
/// middle if the page, which may be of a longer window, shows others. `None` leaves no parts: a single instant.
fn cutting_edge(window: Window, page: &PageSummary) -> Option<DateTime<Utc>> {
    let inside = |edge: &DateTime<Utc>| {
        window.from.is_none_or(|from| from < *edge) && window.to.is_none_or(|to| *edge < to)
    };
    let mut times: Vec<_> = page.rows.iter().filter_map(|row| row.updated).collect();
    times.sort_unstable();
    let newest = *times.last()?;
    times.retain(|time| inside(time) || window.from == Some(*time));
    let Some(median) = times.get(times.len() / 2).copied() else {
        let (from, to) = window.from.zip(window.to).filter(|(_, to)| *to <= newest)?;
        return Some((from + (to - from) / 2).trunc_subsecs(6)).filter(inside);
    };
    [floor_to_second(median), median, median + INSTANT].into_iter().find(inside)
}

#[cfg(test)]
pub(crate) mod simulation;
