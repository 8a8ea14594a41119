//! What an API that cannot expand alerts fails to serve: pages become smaller, and the incident that fails is read alone.
//!
//! The versions that such a page should show are listed without their alerts. That the API serves this list tells an outage
//! from a page that fails; the list says which incident fails, and whether a smaller page shows all that it should. An
//! incident that cannot be read even alone, or whose alerts cannot, becomes a gap of its own instant.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, Utc};

use super::window_reader::{Progress, RESCANS_MAX, SKIP_ROWS_MAX};
use super::{INSTANT, PageSummary};
use crate::error::SyncError;
use crate::incident::gap::{Gap, GapReason};
use crate::incident::raw::ListedVersion;
use crate::tenant::Source;

/// What to request next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    /// This many rows, with their alerts.
    Page(usize),
    /// The versions from the lower edge on.
    List {
        /// `$skip`, for an instant that one page does not show.
        skip: usize,
    },
    One(ListedVersion),
}

/// The reading of what was listed.
#[derive(Debug)]
pub(super) struct Retreat {
    /// Listed and not read, the oldest first.
    unread: VecDeque<ListedVersion>,
    /// Where the list continues; `None` once it reached the end of the window.
    end: Option<DateTime<Utc>>,
    /// Whether there is a list to read from.
    is_listed: bool,
    /// Whether the instant at the lower edge is longer than a list.
    is_in_parts: bool,
    /// Rows of that instant that earlier lists showed.
    skip: usize,
    /// Lists that contradicted what was read, one after the other.
    relists: usize,
    /// Whether a list of this instant showed something unread since its first part.
    is_news: bool,
    page_rows: usize,
    /// New rows that the next page asks for: halved by a failure, doubled by a page.
    piece: usize,
    /// Incidents that were read alone after the last failure: doubled by each failure, so that a tenant for which no page
    /// can be expanded costs little more than a request an incident.
    alone: usize,
    /// How many of them are still to be read.
    alone_left: usize,
    /// Becomes a gap once the API shows that it is not an outage.
    suspect: Option<Gap>,
    found: Option<Gap>,
}

impl Retreat {
    pub(super) fn new(page_rows: usize) -> Self {
        Self {
            unread: VecDeque::new(),
            end: None,
            is_listed: false,
            is_in_parts: false,
            skip: 0,
            relists: 0,
            is_news: false,
            page_rows,
            piece: page_rows / 2,
            alone: 0,
            alone_left: 0,
            suspect: None,
            found: None,
        }
    }

    pub(super) fn ask(&self, held_at_edge: usize) -> Ask {
        let Some(first) = self.unread.front().filter(|_| self.suspect.is_none()) else {
            return Ask::List { skip: self.skip };
        };
        // Rows of the edge that are held come first or among the others, so the page must have room for them.
        let top = (held_at_edge + self.piece.min(self.unread.len())).min(self.page_rows);
        if self.alone_left > 0 || top <= held_at_edge { Ask::One(*first) } else { Ask::Page(top) }
    }

    pub(super) fn has_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    pub(super) fn take_gap(&mut self) -> Option<Gap> {
        self.found.take()
    }

    /// Whether all that the window holds is read.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_listed && self.unread.is_empty() && self.end.is_none()
    }

    /// Whether pages of full size may be asked for again.
    pub(super) fn is_over(&self) -> bool {
        let is_read = self.is_listed && self.unread.is_empty() && self.found.is_none();
        is_read && !self.is_in_parts && self.piece >= self.page_rows
    }

    /// Before this time everything is read.
    pub(super) fn edge(&self) -> Option<DateTime<Utc>> {
        self.unread.front().map_or(self.end, |row| row.updated)
    }

    /// The edge left the instant that was listed in parts.
    pub(super) fn moved(&mut self) {
        (self.is_in_parts, self.skip, self.relists, self.is_news) = (false, 0, 0, false);
    }

    /// Takes a list, sorted by time, and what of it is not read. That it was served confirms the suspect.
    pub(super) fn listed(
        &mut self,
        rows: &[ListedVersion],
        unread: VecDeque<ListedVersion>,
        is_whole: bool,
        from: Option<DateTime<Utc>>,
        held_at_edge: usize,
    ) -> Progress {
        self.found = self.suspect.take();
        self.is_listed = true;
        self.is_news |= !unread.is_empty();
        self.unread = unread;
        let last = rows.last().and_then(|row| row.updated);
        self.end = last.max(from).filter(|_| !is_whole);
        if is_whole && self.unread.len() == 1 {
            // The page that failed had nothing else to show.
            self.alone_left = 1;
        }
        if !is_whole && last <= from {
            self.is_in_parts = true;
            self.skip += rows.len();
            let is_too_deep = self.skip + self.page_rows > SKIP_ROWS_MAX;
            return if rows.is_empty() || is_too_deep {
                Progress::Disorder
            } else {
                Progress::Continues
            };
        }
        let at_edge = |row: &&ListedVersion| row.updated == from;
        let known = held_at_edge + self.unread.iter().filter(at_edge).count();
        let is_proven = !self.is_news && known >= self.skip + rows.iter().filter(at_edge).count();
        if self.skip == 0 || is_proven {
            return Progress::Continues;
        }
        // Rows of one time have no order, so the parts of the list may have shown one of them twice and another never.
        self.unread.retain(|row| row.updated == from);
        self.end = from;
        (self.skip, self.is_news) = (0, false);
        self.contradicted()
    }

    /// A page of the rows that are next. It need not be in order: the edge moves to the first listed row that is not read.
    pub(super) fn served(&mut self, page: &PageSummary) -> Progress {
        let read: HashMap<i64, _> = page.rows.iter().map(|row| (row.id, row.updated)).collect();
        let before = self.unread.len();
        // Listed was a version that a later one on the page has replaced.
        self.unread.retain(|row| read.get(&row.id).is_none_or(|updated| *updated < row.updated));
        let is_left_out = self.unread.front().is_some_and(|row| row.updated < page.newest());
        if self.unread.len() == before || is_left_out {
            self.forget_list();
            return self.contradicted();
        }
        self.relists = 0;
        self.piece = (self.piece * 2).min(self.page_rows);
        self.alone = 0;
        Progress::Continues
    }

    pub(super) fn piece_failed(&mut self) {
        let piece = self.piece.min(self.unread.len());
        self.piece = (piece / 2).max(1);
        if piece <= 1 {
            self.alone = (self.alone * 2).clamp(1, self.page_rows);
            self.alone_left = self.alone;
        }
    }

    pub(super) fn one_served(&mut self, row: ListedVersion, page: &PageSummary) {
        let served = page.rows.iter().find(|served| served.id == row.id);
        let other = SyncError::ApiReply {
            api: Source::Graph,
            what: "it is not the incident that was asked for".to_owned(),
        };
        let missing = served.is_none().then_some(&other);
        match page.alerts_failure.as_ref().or(missing) {
            Some(failure) => self.suspect(served.unwrap_or(&row).updated, failure.into()),
            None => self.one_done(),
        }
    }

    pub(super) fn one_failed(&mut self, row: ListedVersion, reason: GapReason) {
        self.suspect(row.updated, reason);
    }

    fn suspect(&mut self, updated: Option<DateTime<Utc>>, reason: GapReason) {
        self.one_done();
        self.suspect = updated.map(|from| Gap { from, to: from + INSTANT, reason });
        self.forget_list();
    }

    fn one_done(&mut self) {
        self.unread.pop_front();
        self.alone_left = self.alone_left.saturating_sub(1);
    }

    fn forget_list(&mut self) {
        self.unread.clear();
        self.end = None;
        self.is_listed = false;
    }

    fn contradicted(&mut self) -> Progress {
        self.relists += 1;
        if self.relists > RESCANS_MAX { Progress::Disorder } else { Progress::Continues }
    }
}
