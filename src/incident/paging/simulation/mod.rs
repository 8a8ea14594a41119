//! A list that changes while it is paged, in every stable order and in none: what the plan says is read must be read.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{Listing, PageSummary, Request};
use crate::error::{Peer, SyncError};
use crate::incident::raw::ListedVersion;
use crate::incident::window::floor_to_second;
use crate::tenant::Source;

mod alerts;
mod client;
mod endless;
mod failures;
mod keyset;
mod listing;
mod recorded;
mod retreat;

/// What a page with a poisoned incident fails with.
const FAILURE: SyncError = SyncError::Timeout { peer: Peer::Defender };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    NewestFirst,
    OldestFirst,
    ById,
    ByIdDescending,
    Scattered,
    Random,
}

pub(crate) const STABLE: [Order; 5] =
    [Order::NewestFirst, Order::OldestFirst, Order::ById, Order::ByIdDescending, Order::Scattered];

pub(crate) const SOURCES: [Source; 2] = [Source::Defender, Source::Graph];

/// How an incident is served whose alerts cannot be expanded in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alone {
    Served,
    WithoutAlerts,
    Fails,
}

/// Which pages have a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    None,
    FullPages,
    /// Full pages, and pages that are shorter than asked for by a random number of rows.
    ShortPages,
}

/// What the server does with a `$skip` that is too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ceiling {
    None,
    Refused,
    Empty,
    ShortPage,
}

/// Rows that `$skip` reaches.
const CEILING_ROWS: usize = 500;

/// The server: incidents with a last update, a clock in milliseconds, and a small generator.
pub(crate) struct Server {
    pub(crate) updated: BTreeMap<i64, i64>,
    /// A page that would show one of these fails.
    pub(crate) unservable: BTreeSet<i64>,
    /// A page of incidents that would show one of these fails, a list of versions does not.
    pub(crate) unexpandable: BTreeMap<i64, Alone>,
    pub(crate) links: Links,
    pub(crate) ceiling: Ceiling,
    pub(crate) ignores_order: bool,
    is_down: bool,
    pub(crate) now: i64,
    pub(crate) order: Order,
    random: u64,
    /// What changed shows after this long; where it is uneven, after up to this long.
    pub(crate) lag: i64,
    pub(crate) is_lag_uneven: bool,
    pub(crate) requests: usize,
}

pub(crate) fn time(milliseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_767_225_600_000 + milliseconds)
        .expect("the test's times are in range")
}

/// A page from the beginning of a list has no ceiling but its own maximum.
fn is_beyond_ceiling(request: &Request) -> bool {
    request.skip > 0 && request.skip + request.top > CEILING_ROWS
}

/// It stays the same, to keep things simple.
fn status_of(id: i64) -> &'static str {
    ["Active", "InProgress", "Resolved"][id.rem_euclid(3) as usize]
}

/// The first millisecond that is not before the time.
fn milliseconds(time: DateTime<Utc>) -> i64 {
    let micros = time.timestamp_micros() - 1_767_225_600_000_000;
    micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0)
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Server {
    pub(crate) fn new(order: Order, seed: u64, incidents: i64, span: i64, lag: i64) -> Self {
        let (updated, unservable) = (BTreeMap::new(), BTreeSet::new());
        let mut server = Self {
            updated,
            unservable,
            unexpandable: BTreeMap::new(),
            links: Links::None,
            ceiling: Ceiling::None,
            ignores_order: false,
            is_down: false,
            now: span,
            order,
            random: seed,
            lag,
            is_lag_uneven: false,
            requests: 0,
        };
        for id in 1..=incidents {
            let updated = (server.next() % span as u64) as i64;
            server.updated.insert(id, updated);
        }
        server.now += 60_000;
        server
    }

    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }

    pub(crate) fn churn(&mut self, updates: usize) {
        for _ in 0..updates {
            self.now += 1 + (self.next() % 400) as i64;
            let id = 1 + (self.next() % (self.updated.len() as u64 + 1)) as i64;
            self.updated.insert(id, self.now);
        }
    }

    /// Whether the request is answered with 400.
    pub(crate) fn refuses(&self, request: &Request) -> bool {
        self.ceiling == Ceiling::Refused && is_beyond_ceiling(request)
    }

    pub(crate) fn page(&mut self, request: &Request) -> Option<PageSummary> {
        self.requests += 1;
        let salt = self.next();
        if let Listing::Incident(id) = request.listing {
            return self.one(id);
        }
        let listed = self.listed(request, salt);
        let rows: Vec<_> = listed.iter().copied().skip(request.skip).take(request.top).collect();
        let fails = |id: &i64| {
            let is_expanded = request.listing == Listing::Incidents;
            self.unservable.contains(id) || is_expanded && self.unexpandable.contains_key(id)
        };
        if self.is_down || rows.iter().any(|(id, _)| fails(id)) {
            return None;
        }
        let (rows, next_link) = self.cut_short(rows, request, listed.len(), salt);
        Some(self.summary(rows, next_link))
    }

    fn summary(&self, rows: Vec<(i64, i64)>, next_link: Option<String>) -> PageSummary {
        let row = |(id, updated)| ListedVersion { id, updated: Some(time(updated)) };
        PageSummary {
            rows: rows.into_iter().map(row).collect(),
            server_time: floor_to_second(time(self.now)),
            next_link,
            alerts_failure: None,
            cut: None,
        }
    }

    fn one(&self, id: i64) -> Option<PageSummary> {
        let alone = self.unexpandable.get(&id).copied().unwrap_or(Alone::Served);
        let updated = *self.updated.get(&id)?;
        let fails = self.is_down || self.unservable.contains(&id) || alone == Alone::Fails;
        let alerts_failure = (alone == Alone::WithoutAlerts).then_some(FAILURE);
        let page = PageSummary { alerts_failure, ..self.summary(vec![(id, updated)], None) };
        (!fails).then_some(page)
    }

    /// Link and ceiling. A short page has at least one row, so that reading it again leads on.
    fn cut_short(
        &self,
        mut rows: Vec<(i64, i64)>,
        request: &Request,
        listed: usize,
        salt: u64,
    ) -> (Vec<(i64, i64)>, Option<String>) {
        let link = || Some("https://graph.example/next".to_owned());
        if is_beyond_ceiling(request) {
            match self.ceiling {
                Ceiling::Empty => rows.clear(),
                Ceiling::ShortPage => rows.truncate(CEILING_ROWS.saturating_sub(request.skip)),
                Ceiling::None | Ceiling::Refused => {}
            }
        }
        let is_full = rows.len() == request.top;
        match self.links {
            Links::ShortPages if salt.is_multiple_of(3) && listed > request.skip + 2 => {
                // Not shorter than what is held of the instant at the edge: that leads nowhere.
                let kept = rows.len() - rows.len() / 3;
                let is_shorter = kept < rows.len();
                rows.truncate(kept);
                (rows, if is_full || is_shorter { link() } else { None })
            }
            Links::FullPages | Links::ShortPages if is_full => (rows, link()),
            _ => (rows, None),
        }
    }

    /// The list of a request's window, in the order of the server.
    fn listed(&self, request: &Request, salt: u64) -> Vec<(i64, i64)> {
        // What the index does not show yet is not in the list, as if it had not changed.
        let lag = |id: i64, updated: i64| match self.is_lag_uneven {
            true => (mix((id ^ updated) as u64) % (self.lag as u64 + 1)) as i64,
            false => self.lag,
        };
        let (from, to) = (request.window.from, request.window.to);
        let (from, to) = (from.map_or(i64::MIN, milliseconds), to.map_or(i64::MAX, milliseconds));
        let mut rows: Vec<(i64, i64)> = self
            .updated
            .iter()
            .map(|(id, updated)| (*id, *updated))
            .filter(|(_, updated)| (from..to).contains(updated))
            .filter(|(id, _)| request.window.status.is_none_or(|status| status == status_of(*id)))
            .filter(|(id, updated)| updated + lag(*id, *updated) <= self.now)
            .collect();
        rows.sort_by_key(|(id, updated)| match self.order {
            Order::NewestFirst => (-updated, *id),
            Order::OldestFirst => (*updated, *id),
            Order::ById => (*id, 0),
            Order::ByIdDescending => (-id, 0),
            Order::Scattered => (mix(*id as u64) as i64, 0),
            Order::Random => (mix(*id as u64 ^ salt) as i64, 0),
        });
        if request.is_ascending && !self.ignores_order {
            // Stable: rows of one time stay in the order above.
            rows.sort_by_key(|(_, updated)| *updated);
        }
        rows
    }
}
