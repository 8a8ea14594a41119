//! Pages by time: the strategy for an API that lists the oldest update first.
//!
//! Each page is asked for from the time of the last row on. An update moves a row forward in this order, never behind the
//! place that was reached, and there is no offset that could shift. Rows of the same time as the last one are read twice,
//! so that none is lost at the edge of a page.
//!
//! A link says only that there may be more: a page without one that is shorter than asked for ends the window. A page out
//! of order proves nothing, and the window is cut instead. A page that cannot be served is read in pieces, see `retreat`.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::retreat::{Ask, Retreat};
use super::window_reader::Progress;
use super::{Listing, PageSummary, Request, page_rows};
use crate::incident::gap::{Gap, GapReason};
use crate::incident::raw::ListedVersion;
use crate::incident::window::Window;
use crate::tenant::Source;

/// A window with more pages than this does not end: a million incidents.
const PAGES_MAX: usize = 20_000;
/// A row that changes while the server makes a page may stand out of order in it. Another such page in a row is no chance.
const DISORDERED_PAGES_MAX: usize = 1;

/// So many different times in order are no chance.
const ORDER_PROOF: usize = 10;

/// The reading of one window. Everything before its lower edge is read.
#[derive(Debug)]
pub(super) struct KeysetReader {
    pub(super) window: Window,
    /// Versions read at or after the lower edge.
    held: HashSet<(i64, Option<DateTime<Utc>>)>,
    /// What its pages list.
    listing: Listing,
    page_rows: usize,
    pages: usize,
    disordered_pages: usize,
    retreat: Option<Retreat>,
}

impl KeysetReader {
    pub(super) fn new(window: Window, listing: Listing) -> Self {
        Self {
            window,
            held: HashSet::new(),
            listing,
            page_rows: page_rows(Source::Graph, listing),
            pages: 0,
            disordered_pages: 0,
            retreat: None,
        }
    }

    /// A window of which a page failed.
    pub(super) fn of_failed(window: Window, listing: Listing) -> Self {
        let reader = Self::new(window, listing);
        Self { retreat: Some(Retreat::new(reader.page_rows)), ..reader }
    }

    /// What the next request lists.
    fn ask(&self) -> Ask {
        self.retreat
            .as_ref()
            .map_or(Ask::Page(self.page_rows), |retreat| retreat.ask(self.held_at_edge()))
    }

    pub(super) fn request(&self) -> Request {
        let request = |listing, skip, top| Request {
            skip,
            top,
            is_ascending: true,
            ..Request::of(self.window, listing)
        };
        match self.ask() {
            Ask::Page(top) => request(self.listing, 0, top),
            Ask::List { skip } => request(Listing::Versions, skip, self.page_rows),
            Ask::One(row) => request(Listing::Incident(row.id), 0, 1),
        }
    }

    /// Whether the next request is a part of a page that failed.
    pub(super) fn is_in_pieces(&self) -> bool {
        let is_part = self.page_rows < page_rows(Source::Graph, self.listing);
        is_part || self.retreat.is_some() && matches!(self.ask(), Ask::Page(_))
    }

    /// Asks for fewer rows; returns whether that is possible.
    pub(super) fn shrink(&mut self) -> bool {
        let is_large = self.page_rows > 1;
        self.page_rows = (self.page_rows / 4).max(1);
        is_large
    }

    pub(super) fn is_in_retreat(&self) -> bool {
        self.retreat.is_some()
    }

    /// Whether the next page shows a part of the list.
    pub(super) fn is_list(&self) -> bool {
        !matches!(self.ask(), Ask::One(_))
    }

    /// Whether the next page shows whole incidents.
    pub(super) fn is_of_incidents(&self) -> bool {
        !matches!(self.ask(), Ask::List { .. })
    }

    /// The gap that the last page confirmed.
    pub(super) fn take_gap(&mut self) -> Option<Gap> {
        self.retreat.as_mut().and_then(Retreat::take_gap)
    }

    /// Whether the page shows all that the window holds, judging by its length.
    pub(super) fn fits(&self, page: &PageSummary) -> bool {
        let asked = match self.ask() {
            Ask::Page(top) => top,
            Ask::List { .. } => self.page_rows,
            Ask::One(_) => return false,
        };
        page.cut.is_none() && page.rows.len() < asked && page.next_link.is_none()
    }

    /// Whether the rows of a page that was cut are as good as a page that asked for so many. A piece of a failed page is none.
    pub(super) fn goes_on_after(&self, page: &PageSummary) -> bool {
        self.retreat.is_none()
            && self.listing == Listing::Incidents
            && page.newest().is_some_and(|newest| self.window.from < Some(newest))
    }

    fn held_at_edge(&self) -> usize {
        self.held.iter().filter(|(_, updated)| *updated == self.window.from).count()
    }

    fn hold(&mut self, rows: &[ListedVersion]) -> bool {
        let before = self.held.len();
        self.held.extend(rows.iter().map(|row| (row.id, row.updated)));
        self.held.len() > before
    }

    fn holds(&self, row: &ListedVersion) -> bool {
        self.held.contains(&(row.id, row.updated))
    }

    /// Moves the lower edge forward; returns whether it moved.
    fn advance(&mut self, edge: DateTime<Utc>) -> bool {
        if self.window.from.is_some_and(|from| edge <= from) {
            return false;
        }
        self.window.from = Some(edge);
        self.held.retain(|(_, updated)| updated.is_none_or(|updated| updated >= edge));
        true
    }

    pub(super) fn accept(&mut self, page: &PageSummary) -> Progress {
        self.pages += 1;
        if self.pages > PAGES_MAX {
            return Progress::Endless;
        }
        let progress = match self.retreat.take() {
            Some(retreat) => self.accept_in_retreat(retreat, page),
            None => self.accept_page(page),
        };
        let is_past_end = self.window.to.is_some_and(|to| self.window.from >= Some(to));
        match progress {
            Progress::Continues | Progress::Instant if is_past_end => Progress::Drained,
            progress => progress,
        }
    }

    fn accept_page(&mut self, page: &PageSummary) -> Progress {
        // Complete by itself, in whatever order.
        if self.fits(page) {
            return Progress::Drained;
        }
        if !page.is_ascending_from(self.window.from) {
            self.disordered_pages += 1;
            let is_chance = self.disordered_pages <= DISORDERED_PAGES_MAX;
            return if is_chance { Progress::Continues } else { Progress::Disorder };
        }
        if let Some(instant) = self.doubtful_instant(page) {
            return Progress::Doubtful(instant);
        }
        self.disordered_pages = 0;
        let is_news = self.hold(&page.rows);
        let has_moved = page.newest().is_some_and(|newest| self.advance(newest));
        match page.cut.is_some() || page.rows.len() >= self.page_rows {
            true if has_moved => Progress::Continues,
            true if page.rows.iter().all(|row| row.updated == self.window.from) => {
                Progress::Instant
            }
            // Rows without a time, or the order is not what was asked for.
            true => Progress::Disorder,
            // A short page with a link that shows nothing new: the server does not say where the list ends.
            false if !has_moved && !is_news => Progress::Disorder,
            false => Progress::Continues,
        }
    }

    /// The newest time of a page whose few times may be sorted by chance: what the newest rows look like where the order
    /// is ignored. Without an upper edge there is no way to make sure.
    fn doubtful_instant(&self, page: &PageSummary) -> Option<DateTime<Utc>> {
        let to = self.window.to?;
        let newest = page.newest().filter(|newest| self.window.from < Some(*newest))?;
        let times: HashSet<_> = page.rows.iter().filter_map(|row| row.updated).collect();
        (times.len() < ORDER_PROOF && newest < to).then_some(newest)
    }

    fn accept_in_retreat(&mut self, mut retreat: Retreat, page: &PageSummary) -> Progress {
        let progress = match retreat.ask(self.held_at_edge()) {
            Ask::List { .. } => self.accept_listing(&mut retreat, page),
            Ask::One(row) => {
                self.hold(&[row]);
                retreat.one_served(row, page);
                Progress::Continues
            }
            // Complete by itself.
            Ask::Page(top) if page.rows.len() < top && page.next_link.is_none() => {
                return Progress::Drained;
            }
            Ask::Page(_) => {
                self.hold(&page.rows);
                retreat.served(page)
            }
        };
        if matches!(progress, Progress::Continues) && !retreat.has_suspect() {
            if retreat.is_at_end() {
                self.retreat = Some(retreat);
                return Progress::Drained;
            }
            if let Some(edge) = retreat.edge()
                && self.advance(edge)
            {
                retreat.moved();
            }
        }
        self.retreat = Some(retreat).filter(|retreat| !retreat.is_over());
        progress
    }

    fn accept_listing(&self, retreat: &mut Retreat, page: &PageSummary) -> Progress {
        // A row without id or time can neither be read alone nor be left out.
        let is_readable = page.rows.iter().all(|row| row.id >= 0 && row.updated.is_some());
        let is_whole = page.rows.len() < self.page_rows && page.next_link.is_none();
        if !is_readable || !is_whole && !page.is_ascending_from(self.window.from) {
            return Progress::Disorder;
        }
        if let Some(instant) = self.doubtful_instant(page).filter(|_| !is_whole) {
            return Progress::Doubtful(instant);
        }
        let mut rows = page.rows.clone();
        rows.sort_by_key(|row| row.updated);
        let unread = rows.iter().filter(|row| !self.holds(row)).copied().collect();
        retreat.listed(&rows, unread, is_whole, self.window.from, self.held_at_edge())
    }

    /// The last request failed; returns whether there is another one to make in its place.
    pub(super) fn failed(&mut self, reason: GapReason) -> bool {
        let ask = self.ask();
        let Some(retreat) = self.retreat.as_mut() else {
            self.retreat = Some(Retreat::new(self.page_rows));
            return true;
        };
        match ask {
            Ask::List { .. } => return false,
            Ask::Page(_) => retreat.piece_failed(),
            Ask::One(row) => {
                retreat.one_failed(row, reason);
                self.hold(&[row]);
            }
        }
        true
    }
}
