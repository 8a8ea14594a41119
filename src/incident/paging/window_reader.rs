//! Pages by `$skip` that overlap: the strategy for an API without an order of its own.
//!
//! `$skip` counts over a list whose rows leave or jump when they are updated, so all behind them shift. Pages therefore
//! overlap, and a page is accepted only if it begins with the rows that were read last, in their order and in the very
//! version that it shows: in any stable order all rows before them were then read, and all rows after them are in this
//! page. Otherwise the reader steps back. A list in no stable order is cut until each part fits one page, which is
//! complete by itself.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::request::ALERTS_OF_INSTANT;
use super::{Listing, PageSummary, Request, page_rows};
use crate::incident::gap::GapReason;
use crate::incident::raw::ListedVersion;
use crate::incident::window::Window;
use crate::tenant::Source;

/// The second page of a window proves the order with this many rows; by chance they agree once in a hundred million.
const OVERLAP_FIRST: usize = 4;
const OVERLAP_MAX: usize = 20;
/// So many rows in the order held prove a continuation even where the row that was read last has left the list.
const LEAD_PROOF: usize = 10;
const RESTARTS_MAX: usize = 3;
const STEPS_BACK_MAX: usize = 200;
/// How often one instant with more than a page of rows is read before its rows must all have shown up.
pub(super) const RESCANS_MAX: usize = 40;
/// A window with more full pages than this does not end: links that lead on and on, or rows that are made up for each page.
const PAGES_MAX: usize = 2_000;
/// So many full pages without one new row are no window that is read, but a server that ignores where we are.
const PAGES_WITHOUT_PROGRESS_MAX: usize = 20;
/// A list in no stable order repeats itself by nature, and is given more time.
const RESCAN_PAGES_WITHOUT_PROGRESS_MAX: usize = 200;

/// Graph answers a `$skip` near 500 with 400, an empty page or a page cut short, which would be taken for the end.
pub(super) const SKIP_ROWS_MAX: usize = 450;

/// The reading of one window.
#[derive(Debug)]
pub(super) struct WindowReader {
    pub(super) window: Window,
    source: Source,
    listing: Listing,
    page_rows: usize,
    /// The version held of each row that an accepted page showed, and its place in the order of reading.
    held: HashMap<i64, (Option<DateTime<Utc>>, usize)>,
    /// Place of the row that was read last.
    last: usize,
    pub(super) skip: usize,
    pub(super) top: usize,
    pub(super) link: Option<String>,
    /// Set after a page that was cut: so many rows fit one page.
    rows_that_fit: Option<usize>,
    overlap: usize,
    step: usize,
    steps_back: usize,
    restarts: usize,
    pub(super) pages: usize,
    /// Full pages in a row that showed nothing new.
    pages_without_progress: usize,
    /// Rows that a page showed twice; they count in `$skip` but are one incident.
    repeated: usize,
    /// Set while one instant in no stable order is read again and again; counts the readings.
    pub(super) rescans: Option<usize>,
    /// How many rows that instant had when `held` was emptied last.
    rows_to_hold: Option<usize>,
    /// Set while a window that fails is read in small pieces, see `isolation_search`: the last failure.
    pub(super) row_by_row: Option<GapReason>,
}

pub(super) enum Progress {
    Continues,
    Drained,
    Disorder,
    /// A full page showed nothing but the instant at the lower edge.
    Instant,
    /// A page showed so few times, up to this one, that they prove no order.
    Doubtful(DateTime<Utc>),
    Endless,
}

impl WindowReader {
    pub(super) fn new(window: Window, source: Source, listing: Listing) -> Self {
        Self {
            window,
            source,
            listing,
            page_rows: page_rows(source, listing),
            held: HashMap::new(),
            last: 0,
            skip: 0,
            top: page_rows(source, listing),
            link: None,
            rows_that_fit: None,
            overlap: OVERLAP_FIRST,
            step: 0,
            steps_back: 0,
            restarts: 0,
            pages: 0,
            pages_without_progress: 0,
            repeated: 0,
            rescans: None,
            rows_to_hold: None,
            row_by_row: None,
        }
    }

    /// One instant that cannot be cut, in no stable order: read until as many distinct rows were seen as it has.
    pub(super) fn of_instant(window: Window, source: Source, listing: Listing) -> Self {
        let reader = Self { rescans: Some(0), ..Self::new(window, source, listing) };
        if listing != Listing::Alerts {
            return reader;
        }
        Self { page_rows: ALERTS_OF_INSTANT, top: ALERTS_OF_INSTANT, ..reader }
    }

    /// A second that fails, in pieces that begin with one row.
    pub(super) fn of_pieces(
        window: Window,
        failure: GapReason,
        source: Source,
        listing: Listing,
    ) -> Self {
        Self { row_by_row: Some(failure), top: 1, ..Self::new(window, source, listing) }
    }

    pub(super) fn is_rescanning(&self) -> bool {
        self.rescans.is_some()
    }

    pub(super) fn request(&self) -> Request {
        let (skip, top, link) = (self.skip, self.asked_rows(), self.link.clone());
        Request { skip, top, link, ..Request::of(self.window, self.listing) }
    }

    /// `$top`, which does not reach beyond the ceiling.
    fn asked_rows(&self) -> usize {
        match self.source {
            Source::Defender => self.rows_that_fit.map_or(self.top, |rows| rows.min(self.top)),
            Source::Graph if self.skip == 0 => self.top,
            Source::Graph => self.top.min(SKIP_ROWS_MAX.saturating_sub(self.skip)),
        }
    }

    /// Whether the page shows all that the window holds, judging by its length.
    pub(super) fn fits(&self, page: &PageSummary) -> bool {
        page.cut.is_none() && page.rows.len() < self.asked_rows() && page.next_link.is_none()
    }

    /// Whether the rows of a page that was cut are as good as a page that asked for so many: they show something new, and leave
    /// room for the overlap.
    pub(super) fn goes_on_after(&self, page: &PageSummary) -> bool {
        let is_news = page.rows.iter().any(|row| self.read_index(row).is_none());
        let is_whole = page.alerts_failure.is_none() && self.link.is_none();
        let is_overlapping = page.rows.len() > 1 || self.row_by_row.is_some();
        is_whole && is_overlapping && is_news
    }

    /// The row's place in the order of reading, if this very version of it is held.
    fn read_index(&self, row: &ListedVersion) -> Option<usize> {
        self.held
            .get(&row.id)
            .filter(|(updated, _)| *updated == row.updated)
            .map(|(_, index)| *index)
    }

    pub(super) fn accept(&mut self, page: &PageSummary) -> Progress {
        self.pages += 1;
        if self.pages > PAGES_MAX * self.page_rows / self.top {
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
        let is_linked = page.next_link.is_some() && self.source == Source::Defender;
        if !self.fits(page) && self.is_stuck() {
            return if is_linked { Progress::Endless } else { Progress::Disorder };
        }
        let end = self.skip + page.rows.len();
        if is_linked {
            self.link.clone_from(&page.next_link);
            self.skip = end;
            return Progress::Continues;
        }
        let is_full = page.cut.is_some() || page.rows.len() >= self.asked_rows();
        if is_full && !was_linked {
            self.skip = end
                - if page.cut.is_some() {
                    self.overlap.min(page.rows.len() / 2)
                } else {
                    self.overlap
                };
            self.measure(page);
            let is_too_deep = self.source == Source::Graph && end >= SKIP_ROWS_MAX;
            return if is_too_deep { Progress::Disorder } else { Progress::Continues };
        }
        if page.next_link.is_some() && !was_linked {
            return self.not_the_end();
        }
        let is_complete = self.skip == 0 || self.is_all_held(end);
        if is_complete { Progress::Drained } else { self.restart() }
    }

    /// Whether all rows of a list that ends here are held.
    fn is_all_held(&mut self, end: usize) -> bool {
        if !self.is_rescanning() || self.source == Source::Defender {
            return self.held.len() + self.repeated >= end;
        }
        // A row that was read and has left the list since would count for one that was never seen. No row comes to an
        // instant, so what is listed now was listed when `rows_to_hold` were counted, and each of those was seen since.
        let rows = end - self.repeated;
        if let Some(count) = self.rows_to_hold.filter(|count| rows <= *count)
            && self.held.len() >= count
        {
            return true;
        }
        if self.rows_to_hold != Some(rows) {
            self.rows_to_hold = Some(rows);
            self.held.clear();
        }
        false
    }

    /// A short page says by a link that it is not the end. The link may be `$skip` in disguise and is not followed: a window
    /// is cut, an instant is read again.
    fn not_the_end(&mut self) -> Progress {
        if self.is_rescanning() { self.restart() } else { Progress::Continues }
    }

    fn is_stuck(&self) -> bool {
        self.pages_without_progress
            > if self.is_rescanning() {
                RESCAN_PAGES_WITHOUT_PROGRESS_MAX
            } else {
                PAGES_WITHOUT_PROGRESS_MAX
            }
    }

    /// Asks for fewer rows; returns whether that is possible.
    pub(super) fn shrink(&mut self) -> bool {
        let is_large = self.top > 1;
        self.top = (self.top / 4).max(1);
        is_large
    }

    /// Asks for as many rows as fitted, and for more again while they fit.
    fn measure(&mut self, page: &PageSummary) {
        self.rows_that_fit = match (page.cut, self.rows_that_fit) {
            (Some(_), _) => Some(page.rows.len()),
            (None, rows) => rows.map(|rows| rows * 2).filter(|rows| *rows < self.top),
        };
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

fn repeated(rows: &[ListedVersion]) -> usize {
    let distinct: HashSet<i64> = rows.iter().map(|row| row.id).collect();
    rows.len() - distinct.len()
}
