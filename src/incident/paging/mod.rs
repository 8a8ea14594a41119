//! Reads a list that moves while it is read, and loses nothing. Pure: from the content of a page
//! it decides the next request. How the pages of one window follow each other is in [`window_reader`].
//!
//! What the API cannot serve at all is found and left out, see [`isolation_search`].

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::SyncError;
use crate::incident::gap::Gap;
use crate::incident::raw::ListedVersion;
use crate::incident::window::{Window, floor_to_second, to_delta};

mod isolation_search;
mod window_reader;

use isolation_search::IsolationSearch;
use window_reader::{Progress, WindowReader};

/// The API's page maximum; more is answered with 400 (demisto/content#12434).
pub const PAGE_ROWS: usize = 100;

/// A window's upper edge stays this far behind the server's clock: its index may lag, and `Date` has whole seconds.
const CONSISTENCY_LAG: TimeDelta = TimeDelta::seconds(5);
/// The first window of a backfill. The next ones grow and shrink with what a window held.
const FIRST_WINDOW: TimeDelta = TimeDelta::days(30);
const SHORTEST_WINDOW: TimeDelta = TimeDelta::minutes(1);
const LONGEST_WINDOW: TimeDelta = TimeDelta::days(180);
/// A window that needed more pages than this is followed by a shorter one: a kill costs at most one window's pages.
const PAGES_PER_WINDOW: usize = 10;

/// What a page held.
#[derive(Debug, Clone)]
pub struct PageSummary {
    /// Its rows in the order served.
    pub rows: Vec<ListedVersion>,
    /// The server's clock.
    pub server_time: DateTime<Utc>,
    /// The server's own continuation, already checked to lead to the configured host.
    pub next_link: Option<String>,
}

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The part of the list.
    pub window: Window,
    /// `$skip`.
    pub skip: usize,
    /// `$top`.
    pub top: usize,
    /// The server's continuation, asked for instead of window and skip.
    pub link: Option<String>,
}

/// No incident was updated this late: the year 2100.
const NEVER: DateTime<Utc> = DateTime::from_timestamp_nanos(4_102_444_800_000_000_000);

impl Request {
    /// A request that the API answers with an empty page: the cheapest test of token, permission and service.
    pub fn probe() -> Self {
        let window = Window { from: Some(NEVER), to: None, status: None };
        Self { window, skip: 0, top: 1, link: None }
    }
}

/// One tenant run's reading plan: an open-ended page first, and windows if that was full.
#[derive(Debug)]
pub struct Plan {
    scope: ReadScope,
    /// Windows still to read, the oldest on top. One without an upper edge gets it from the server's clock.
    pending: Vec<Window>,
    current: Option<WindowReader>,
    upper: Option<DateTime<Utc>>,
    newest: Option<DateTime<Utc>>,
    window_length: TimeDelta,
    cutting: bool,
    unbounded: bool,
    search: IsolationSearch,
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
    pub fn new(scope: ReadScope, gaps: &[Gap]) -> Self {
        let mut plan = Self {
            scope,
            pending: isolation_search::around(scope, gaps),
            current: None,
            upper: None,
            newest: None,
            window_length: FIRST_WINDOW,
            cutting: false,
            unbounded: false,
            search: IsolationSearch::default(),
        };
        plan.current = plan.next_window();
        plan
    }

    /// The next request, or `None` when everything is read.
    pub fn request(&self) -> Option<Request> {
        self.search.probe_request().or_else(|| self.current.as_ref().map(WindowReader::request))
    }

    /// Takes a page. When it drains a window, answers the watermark that now holds: store it with this page's rows and
    /// with what [`Plan::take_gap`] gives.
    pub fn accept(&mut self, page: &PageSummary) -> Result<Option<DateTime<Utc>>, SyncError> {
        let upper = *self.upper.get_or_insert(page.server_time - CONSISTENCY_LAG);
        if let Some(reason) = self.search.take_probe() {
            self.halve(upper, reason);
            return Ok(None);
        }
        self.newest = self.newest.max(page.rows.iter().filter_map(|row| row.updated).max());
        let Some(mut reader) = self.current.take() else { return Ok(None) };
        if reader.window.to.is_none() && !self.unbounded && !reader.fits(page) {
            self.bound(reader.window, upper);
            return Ok(None);
        }
        if let Some(reason) = reader.row_by_row.take() {
            return Ok(self.accept_row_by_row(reader, reason, page, upper));
        }
        self.search.served(page);
        match reader.accept(page) {
            Progress::Continues
                if self.cutting && !reader.is_rescanning() && page.next_link.is_none() =>
            {
                self.cut(&reader, page);
                Ok(None)
            }
            Progress::Continues => {
                self.current = Some(reader);
                Ok(None)
            }
            Progress::Endless => {
                Err(SyncError::EndlessListing { window: reader.window.to_string() })
            }
            Progress::Disorder if reader.is_rescanning() || self.unbounded || self.cutting => {
                Err(SyncError::UnstableListing { window: reader.window.to_string() })
            }
            Progress::Disorder => {
                self.cutting = true;
                self.current = Some(WindowReader::new(reader.window));
                Ok(None)
            }
            Progress::Drained => Ok(Some(self.window_done(&reader, upper))),
        }
    }

    /// The API refused the last request as wrong. Answers whether there is another way to ask: a deep `$skip` is avoided
    /// by cutting the window, an upper edge (`lt` is not documented) by reading one open-ended window.
    pub fn refused(&mut self) -> bool {
        let Some(reader) = self.current.as_ref().filter(|_| !self.search.is_on()) else {
            return false;
        };
        if reader.skip > 0 && !self.unbounded && !reader.is_rescanning() {
            self.cutting = true;
        } else if reader.skip == 0 && reader.window.to.is_some() {
            self.unbounded = true;
            self.cutting = false;
            self.pending.clear();
        } else {
            return false;
        }
        let to = if self.unbounded { None } else { reader.window.to };
        self.current = Some(WindowReader::new(Window { to, ..reader.window }));
        true
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

    fn next_window(&mut self) -> Option<WindowReader> {
        let window = self.pending.pop();
        self.search.window_started(window);
        let window = window?;
        if let (Some(from), Some(to), false) = (window.from, window.to, self.cutting) {
            let edge = floor_to_second(from + self.window_length);
            if from < edge && edge < to {
                let (first, rest) = window.split_at(edge);
                self.pending.push(rest);
                return Some(WindowReader::new(first));
            }
        }
        Some(WindowReader::new(window))
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
    fn cut(&mut self, reader: &WindowReader, page: &PageSummary) {
        match cutting_edge(reader.window, page) {
            Some(edge) => {
                let (first, rest) = reader.window.split_at(edge);
                self.pending.push(rest);
                self.pending.push(first);
                self.current = self.next_window();
            }
            None => {
                self.current = Some(WindowReader::of_instant(reader.window));
            }
        }
    }
}

/// The median of what the page shows, as long as it leaves both parts smaller than the whole.
fn cutting_edge(window: Window, page: &PageSummary) -> Option<DateTime<Utc>> {
    let mut times: Vec<_> = page.rows.iter().filter_map(|row| row.updated).collect();
    times.sort_unstable();
    let median = *times.get(times.len() / 2)?;
    let inside = |edge: &DateTime<Utc>| {
        window.from.is_none_or(|from| from < *edge) && window.to.is_none_or(|to| *edge < to)
    };
    let after = median + TimeDelta::microseconds(1);
    [floor_to_second(median), median, after].into_iter().find(inside)
}

#[cfg(test)]
pub(crate) mod simulation;
