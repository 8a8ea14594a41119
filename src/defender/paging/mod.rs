//! Reads a list that moves while it is read, and loses nothing. Pure: from the content of a page
//! it decides the next request.
//!
//! `$skip` counts over a list whose rows leave or jump when they are updated, so all behind them shift. Pages therefore
//! overlap, and a page is accepted only if it begins with the rows that were read last, in their order and in the very
//! version that it shows: in any stable order all rows before them were then read, and all rows after them are in this
//! page. Otherwise the reader steps back. A list in no stable order is cut until each part fits one page, which is
//! complete by itself.
//!
//! What the API cannot serve at all is found and left out, see `isolation_search`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::SyncError;
use crate::incident::gap::{Gap, GapReason};
use crate::incident::raw::ListedVersion;
use crate::incident::window::{Window, floor_to_second, to_delta};

mod isolation_search;

use isolation_search::IsolationSearch;

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
/// The second page of a window proves the order with this many rows; by chance they agree once in a hundred million.
const OVERLAP_FIRST: usize = 4;
const OVERLAP_MAX: usize = 20;
/// So many rows in the order held prove a continuation even where the row that was read last has left the list.
const LEAD_PROOF: usize = 10;
const RESTARTS_MAX: usize = 3;
const STEPS_BACK_MAX: usize = 200;
/// How often one instant with more than a page of rows is read before its rows must all have shown up.
const RESCANS_MAX: usize = 40;
/// A window with more full pages than this does not end: links that lead on and on, or rows that are made up for each page.
const PAGES_MAX: usize = 2_000;
/// So many full pages without one new row are no window that is read, but a server that ignores where we are.
const PAGES_WITHOUT_PROGRESS_MAX: usize = 20;
/// A list in no stable order repeats itself by nature, and is given more time.
const RESCAN_PAGES_WITHOUT_PROGRESS_MAX: usize = 200;

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
                self.current =
                    Some(WindowReader { rescans: Some(0), ..WindowReader::new(reader.window) });
            }
        }
    }
}

fn repeated(rows: &[ListedVersion]) -> usize {
    let distinct: HashSet<i64> = rows.iter().map(|row| row.id).collect();
    rows.len() - distinct.len()
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

/// The reading of one window.
#[derive(Debug)]
struct WindowReader {
    window: Window,
    /// The version held of each row that an accepted page showed, and its place in the order of reading.
    held: HashMap<i64, (Option<DateTime<Utc>>, usize)>,
    /// Place of the row that was read last.
    last: usize,
    skip: usize,
    top: usize,
    link: Option<String>,
    overlap: usize,
    step: usize,
    steps_back: usize,
    restarts: usize,
    pages: usize,
    /// Full pages in a row that showed nothing new.
    pages_without_progress: usize,
    /// Rows that a page showed twice; they count in `$skip` but are one incident.
    repeated: usize,
    /// Set while one instant in no stable order is read again and again; counts the readings.
    rescans: Option<usize>,
    /// Set while a window that fails is read in small pieces, see [`isolation_search`]: the last failure.
    row_by_row: Option<GapReason>,
}

enum Progress {
    Continues,
    Drained,
    Disorder,
    Endless,
}

impl WindowReader {
    fn new(window: Window) -> Self {
        Self {
            window,
            held: HashMap::new(),
            last: 0,
            skip: 0,
            top: PAGE_ROWS,
            link: None,
            overlap: OVERLAP_FIRST,
            step: 0,
            steps_back: 0,
            restarts: 0,
            pages: 0,
            pages_without_progress: 0,
            repeated: 0,
            rescans: None,
            row_by_row: None,
        }
    }

    fn is_rescanning(&self) -> bool {
        self.rescans.is_some()
    }

    fn request(&self) -> Request {
        Request { window: self.window, skip: self.skip, top: self.top, link: self.link.clone() }
    }

    /// Whether the page shows all that the window holds, as far as its length tells.
    fn fits(&self, page: &PageSummary) -> bool {
        page.rows.len() < self.top && page.next_link.is_none()
    }

    /// The row's place in the order of reading, if this very version of it is held.
    fn read_index(&self, row: &ListedVersion) -> Option<usize> {
        self.held
            .get(&row.id)
            .filter(|(updated, _)| *updated == row.updated)
            .map(|(_, index)| *index)
    }

    fn accept(&mut self, page: &PageSummary) -> Progress {
        self.pages += 1;
        if self.pages > PAGES_MAX * PAGE_ROWS / self.top {
            return Progress::Endless;
        }
        let was_linked = self.link.take().is_some();
        let mut lead = 0;
        if self.skip > 0 && !was_linked && !self.is_rescanning() {
            let indexes: Vec<usize> =
                page.rows.iter().map_while(|row| self.read_index(row)).collect();
            lead = indexes.len();
            let is_in_order = indexes.is_sorted_by(|a, b| a < b)
                && page.rows[lead..].iter().all(|row| self.read_index(row).is_none());
            if !is_in_order {
                return self.restart();
            }
            if indexes.last() != Some(&self.last) && lead < LEAD_PROOF {
                return self.step_back();
            }
            self.overlap = if self.step == 0 { (self.overlap / 2).max(1) } else { self.overlap };
        }
        self.step = 0;
        self.hold(&page.rows, lead);
        if !self.fits(page) && self.is_stuck() {
            return if page.next_link.is_some() { Progress::Endless } else { Progress::Disorder };
        }
        let end = self.skip + page.rows.len();
        if page.next_link.is_some() {
            self.link.clone_from(&page.next_link);
            self.skip = end;
            return Progress::Continues;
        }
        if page.rows.len() >= self.top && !was_linked {
            self.skip = end - self.overlap;
            return Progress::Continues;
        }
        let is_complete = self.skip == 0 || self.held.len() + self.repeated >= end;
        if is_complete { Progress::Drained } else { self.restart() }
    }

    fn is_stuck(&self) -> bool {
        self.pages_without_progress
            > if self.is_rescanning() {
                RESCAN_PAGES_WITHOUT_PROGRESS_MAX
            } else {
                PAGES_WITHOUT_PROGRESS_MAX
            }
    }

    fn hold(&mut self, rows: &[ListedVersion], lead: usize) {
        let before = self.held.len();
        self.repeated += repeated(&rows[lead..]);
        for row in &rows[lead..] {
            let index = self.held.len() + 1;
            self.held
                .entry(row.id)
                .and_modify(|held| held.0 = row.updated)
                .or_insert((row.updated, index));
        }
        self.pages_without_progress =
            if self.held.len() > before { 0 } else { self.pages_without_progress + 1 };
        self.last = rows.last().and_then(|row| self.read_index(row)).unwrap_or(self.last);
    }

    fn step_back(&mut self) -> Progress {
        self.steps_back += 1;
        if self.steps_back > STEPS_BACK_MAX {
            return Progress::Disorder;
        }
        self.step = (self.step * 2).max(1);
        self.skip = self.skip.saturating_sub(self.step);
        self.overlap = (self.overlap + self.step).min(OVERLAP_MAX);
        Progress::Continues
    }

    /// What was read contradicts a stable order: a row came late to the server's index, or there is no order.
    fn restart(&mut self) -> Progress {
        self.skip = 0;
        self.step = 0;
        self.repeated = 0;
        if let Some(rescans) = self.rescans.as_mut() {
            *rescans += 1;
            return if *rescans > RESCANS_MAX { Progress::Disorder } else { Progress::Continues };
        }
        self.held.clear();
        self.restarts += 1;
        if self.restarts > RESTARTS_MAX { Progress::Disorder } else { Progress::Continues }
    }
}

#[cfg(test)]
pub(crate) mod simulation;
