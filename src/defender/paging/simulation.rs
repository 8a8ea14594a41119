//! A list that changes while it is paged, in every stable order and in none: what the plan says is read must be read.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::error::Peer;

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

/// The server: incidents with a last update, a clock in milliseconds, and a small generator.
pub(crate) struct Server {
    pub(crate) updated: BTreeMap<i64, i64>,
    /// A page that would show one of these fails.
    pub(crate) poison: BTreeSet<i64>,
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

/// Which stays the same for ever, to keep things simple.
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
        let (updated, poison) = (BTreeMap::new(), BTreeSet::new());
        let mut server = Self {
            updated,
            poison,
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

    pub(crate) fn page(&mut self, request: &Request) -> Option<PageSummary> {
        self.requests += 1;
        let salt = self.next();
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
        let rows: Vec<_> = rows.into_iter().skip(request.skip).take(request.top).collect();
        if self.is_down || rows.iter().any(|(id, _)| self.poison.contains(id)) {
            return None;
        }
        let rows = rows
            .into_iter()
            .map(|(id, updated)| ListedVersion { id, updated: Some(time(updated)) })
            .collect();
        Some(PageSummary {
            rows,
            server_time: time(self.now).trunc_subsecs_down(),
            next_link: None,
        })
    }
}

trait TruncateDown {
    fn trunc_subsecs_down(self) -> Self;
}

impl TruncateDown for DateTime<Utc> {
    fn trunc_subsecs_down(self) -> Self {
        floor_to_second(self)
    }
}

#[derive(Default)]
struct Client {
    stored: BTreeMap<i64, DateTime<Utc>>,
    watermark: Option<DateTime<Utc>>,
    gaps: Vec<Gap>,
}

const OVERLAP: Duration = Duration::from_secs(600);
const EVERYTHING: ReadScope =
    ReadScope { from: None, to: None, lookback: Duration::from_secs(180 * 86_400), status: None };

impl Client {
    /// Answers whether everything was read.
    fn pass(&mut self, server: &mut Server, churn: usize) -> bool {
        let from =
            self.watermark.map(|watermark| crate::incident::window::poll_from(watermark, OVERLAP));
        self.read(server, churn, ReadScope { from, ..EVERYTHING })
    }

    fn read(&mut self, server: &mut Server, churn: usize, scope: ReadScope) -> bool {
        let mut plan = Plan::new(scope, &self.gaps);
        while let Some(request) = plan.request() {
            let page = server.page(&request);
            server.churn(churn);
            let Some(page) = page else {
                if plan.failed(&FAILURE) {
                    continue;
                }
                return false;
            };
            for row in &page.rows {
                let updated = row.updated.expect("the test's rows have times");
                let stored = self.stored.entry(row.id).or_insert(updated);
                *stored = updated.max(*stored);
            }
            let watermark = plan.accept(&page).expect("the listing can be read");
            self.gaps.extend(plan.take_gap());
            if let Some(watermark) = watermark.filter(|_| scope.to.is_none()) {
                self.watermark = self.watermark.max(Some(watermark));
                self.check(server);
            }
            assert!(server.requests < 200_000, "the plan does not end");
        }
        true
    }

    /// Tries the holes again.
    fn fill(&mut self, server: &mut Server) {
        for gap in std::mem::take(&mut self.gaps) {
            let mut plan = Plan::of_gap(&gap);
            while let Some(request) = plan.request() {
                match server.page(&request) {
                    Some(page) => {
                        self.stored.extend(
                            page.rows
                                .iter()
                                .map(|row| (row.id, row.updated.expect("rows have times"))),
                        );
                        plan.accept(&page).expect("the hole can be read");
                    }
                    None => assert!(plan.failed(&FAILURE), "an outage?"),
                }
            }
            self.gaps.extend(plan.take_gap());
        }
    }

    fn is_in_a_gap(&self, time: DateTime<Utc>) -> bool {
        self.gaps.iter().any(|gap| gap.from <= time && time < gap.to)
    }

    /// The promise of a watermark: every version that is current and older than it is stored or lies in a known hole.
    fn check(&self, server: &Server) {
        for (id, updated) in &server.updated {
            if Some(time(*updated)) < self.watermark && !self.is_in_a_gap(time(*updated)) {
                assert_eq!(
                    self.stored.get(id),
                    Some(&time(*updated)),
                    "incident {id} is missing below the watermark"
                );
            }
        }
    }
}

fn run(order: Order, seed: u64, incidents: i64, churn: usize, lag: i64) -> usize {
    let mut server = Server::new(order, seed, incidents, 20 * 86_400_000, lag);
    let mut client = Client::default();
    for _ in 0..6 {
        client.pass(&mut server, churn);
        server.churn(30);
        server.now += 300_000;
    }
    server.now += 60_000;
    client.pass(&mut server, 0);
    let truth: BTreeMap<_, _> =
        server.updated.iter().map(|(id, updated)| (*id, time(*updated))).collect();
    assert_eq!(client.stored, truth, "something was lost");
    server.requests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn stable_order_loses_no_incident(
        order in prop::sample::select(STABLE.to_vec()),
        seed: u64,
        incidents in 1..1_500_i64,
        churn in 0..12_usize,
        lag in prop::sample::select(vec![0_i64, 400, 3_000]),
    ) {
        run(order, seed, incidents, churn, lag);
    }

    #[test]
    fn random_order_loses_no_incident(seed: u64, incidents in 1..900_i64, churn in 0..3_usize) {
        run(Order::Random, seed, incidents, churn, 0);
    }
}

#[test]
fn crowded_instant_in_random_order_is_read_whole() {
    let mut server = Server::new(Order::Random, 7, 260, 1, 0);
    let mut client = Client::default();
    client.pass(&mut server, 0);
    assert_eq!(client.stored.len(), 260);
}

#[test]
fn paging_without_faults_costs_few_extra_requests() {
    for order in STABLE {
        let mut server = Server::new(order, 3, 10_000, 20 * 86_400_000, 0);
        let mut client = Client::default();
        client.pass(&mut server, 0);
        let needed = 10_000 / PAGE_ROWS + 1;
        assert!(
            server.requests * 100 <= needed * 105,
            "{order:?}: {} requests for {needed}",
            server.requests
        );
    }
}

#[test]
fn poll_without_changes_is_one_request() {
    let mut server = Server::new(Order::NewestFirst, 5, 400, 20 * 86_400_000, 0);
    let mut client = Client::default();
    client.pass(&mut server, 0);
    let before = server.requests;
    client.pass(&mut server, 0);
    assert_eq!(server.requests - before, 1);
}

#[test]
fn duplicate_in_a_page_does_not_restart_window() {
    let row = |id: i64| ListedVersion { id, updated: Some(time(id)) };
    let mut plan =
        Plan::new(ReadScope { lookback: Duration::from_secs(86_400), ..EVERYTHING }, &[]);
    let server_time = time(86_400_000);
    let full: Vec<ListedVersion> = (1..=100).map(row).collect();
    let page = |rows: Vec<ListedVersion>| PageSummary { rows, server_time, next_link: None };
    plan.accept(&page(full.clone())).unwrap();
    let mut first = full;
    first[50] = first[49];
    plan.accept(&page(first)).unwrap();
    assert_eq!(plan.request().unwrap().skip, 96);
    let end = vec![row(97), row(98), row(99), row(100), row(101)];
    assert_eq!(plan.accept(&page(end)).unwrap(), Some(time(101)));
    assert_eq!(plan.request(), None);
}

#[test]
fn refused_deep_skip_splits_the_window() {
    let mut server = Server::new(Order::ById, 11, 900, 20 * 86_400_000, 0);
    let mut plan = Plan::new(EVERYTHING, &[]);
    let mut seen = BTreeMap::new();
    while let Some(request) = plan.request() {
        if request.skip > 150 {
            assert!(plan.refused());
            continue;
        }
        let page = server.page(&request).unwrap();
        seen.extend(page.rows.iter().map(|row| (row.id, ())));
        plan.accept(&page).unwrap();
    }
    assert_eq!(seen.len(), 900);
}

#[test]
fn refused_upper_bound_is_left_out() {
    let mut server = Server::new(Order::OldestFirst, 11, 450, 20 * 86_400_000, 0);
    let mut plan = Plan::new(EVERYTHING, &[]);
    let mut seen = BTreeMap::new();
    while let Some(request) = plan.request() {
        if request.window.to.is_some() {
            assert!(plan.refused());
            continue;
        }
        let page = server.page(&request).unwrap();
        server.churn(2);
        seen.extend(page.rows.iter().map(|row| (row.id, ())));
        plan.accept(&page).unwrap();
    }
    assert!(seen.len() >= 450);
}

#[test]
fn next_link_is_followed_to_its_end() {
    let row = |id: i64| ListedVersion { id, updated: Some(time(id)) };
    let mut plan = Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[]);
    let page = |rows: Vec<ListedVersion>, link: Option<&str>| PageSummary {
        rows,
        server_time: time(86_400_000),
        next_link: link.map(str::to_owned),
    };
    plan.accept(&page(vec![row(1)], Some("a"))).unwrap();
    // The opening page told of more: the window is read from its start, now bounded.
    assert_eq!(plan.request().unwrap().link, None);
    plan.accept(&page(vec![row(1)], Some("b"))).unwrap();
    assert_eq!(plan.request().unwrap().link.as_deref(), Some("b"));
    assert_eq!(plan.accept(&page(vec![row(2)], None)).unwrap(), Some(time(2)));
}

#[test]
fn future_row_does_not_advance_watermark() {
    let mut plan = Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[]);
    let rows = vec![ListedVersion { id: 1, updated: Some(time(90_000_000)) }];
    let page = PageSummary { rows, server_time: time(60_000), next_link: None };
    assert_eq!(plan.accept(&page).unwrap(), Some(time(55_000)));
}

/// Reads a list with poison in it until a calm run has read everything; answers the requests that this took.
fn run_poisoned(order: Order, seed: u64, incidents: i64, poison: &[i64], churn: usize) -> usize {
    let mut server = Server::new(order, seed, incidents, 20 * 86_400_000, 0);
    server.poison = poison.iter().map(|at| 1 + at % incidents).collect();
    let mut client = Client::default();
    for _ in 0..4 {
        client.pass(&mut server, churn);
        server.churn(30);
        server.now += 300_000;
    }
    server.now += 60_000;
    let tries = (1..=9).find(|_| client.pass(&mut server, 0));
    assert!(tries.is_some(), "the rest of the list is never read");
    let requests = server.requests;
    let truth: BTreeMap<_, _> =
        server.updated.iter().map(|(id, updated)| (*id, time(*updated))).collect();
    let served = |id: &i64| !server.poison.contains(id);
    for (id, updated) in
        truth.iter().filter(|(id, updated)| served(id) && !client.is_in_a_gap(**updated))
    {
        assert_eq!(
            client.stored.get(id),
            Some(updated),
            "incident {id} is missing beside the poison"
        );
    }
    // What moved in the very second of a poison while that was read, or is in no order, is found when it is tried again.
    for _ in 0..60 {
        client.fill(&mut server);
    }
    let served = |id: &i64| !server.poison.contains(id);
    for (id, updated) in truth.iter().filter(|(id, _)| served(id)) {
        assert_eq!(
            client.stored.get(id),
            Some(updated),
            "incident {id} is missing in the second of a poison"
        );
    }
    server.poison.clear();
    client.fill(&mut server);
    assert!(client.gaps.is_empty(), "a healed hole stays");
    assert_eq!(client.stored, truth, "something was lost");
    requests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_order_reads_all_but_unservable_incidents(
        order in prop::sample::select([STABLE.to_vec(), vec![Order::Random]].concat()),
        seed: u64,
        incidents in 1..1_200_i64,
        poison in prop::collection::vec(0..1_200_i64, 1..4),
        churn in 0..6_usize,
    ) {
        let churn = if order == Order::Random { churn.min(1) } else { churn };
        run_poisoned(order, seed, incidents, &poison, churn);
    }
}

#[test]
fn isolating_unservable_incident_costs_few_requests() {
    for order in STABLE {
        for at in [0, 137, 299, 598, 599] {
            let mut server = Server::new(order, 3, 600, 20 * 86_400_000, 0);
            server.poison = [at + 1].into();
            let mut client = Client::default();
            assert!(client.pass(&mut server, 0));
            assert_eq!((client.stored.len(), client.gaps.len()), (599, 1));
            assert!(server.requests < 80, "{order:?} {at}: {} requests", server.requests);
            let before = server.requests;
            assert!(client.pass(&mut server, 0));
            assert!(server.requests <= before + 2, "{order:?} {at}: a hole is searched for anew");
            let before = server.requests;
            assert!(client.read(&mut server, 0, EVERYTHING));
            assert!(server.requests <= before + 25, "{order:?} {at}: a hole is searched for anew");
        }
    }
}

#[test]
fn outage_at_any_request_leaves_no_gap() {
    for order in [Order::NewestFirst, Order::ById] {
        for at in 0..75 {
            let mut server = Server::new(order, 5, 900, 20 * 86_400_000, 0);
            server.poison.insert(450);
            let mut client = Client::default();
            let mut plan = Plan::new(EVERYTHING, &[]);
            let mut failures = 0;
            let mut is_given_up = false;
            while let Some(request) = plan.request().filter(|_| !is_given_up) {
                server.is_down = server.requests >= at;
                match server.page(&request) {
                    Some(page) => drop(plan.accept(&page).unwrap()),
                    None => is_given_up = !plan.failed(&FAILURE),
                }
                failures += usize::from(server.is_down);
                client.gaps.extend(plan.take_gap().filter(|_| server.is_down));
            }
            assert!(
                is_given_up || server.requests <= at,
                "{order:?}: the outage after {at} requests was not noticed"
            );
            assert!(failures <= 9, "{order:?}: {failures} failures after {at} requests");
            assert_eq!(client.gaps, [], "{order:?}: an outage after {at} requests is no hole");
        }
    }
}

#[test]
fn gap_carries_class_and_message_of_its_failure() {
    let mut server = Server::new(Order::ById, 5, 600, 20 * 86_400_000, 0);
    server.poison.insert(450);
    let mut client = Client::default();
    assert!(client.pass(&mut server, 0));
    let reasons: Vec<&GapReason> = client.gaps.iter().map(|gap| &gap.reason).collect();
    assert_eq!(reasons, [&GapReason::from(&FAILURE)]);
    client.fill(&mut server);
    assert_eq!(client.gaps.len(), 1, "a retried gap keeps a reason");
    assert_eq!(client.gaps[0].reason.class, FAILURE.diagnosis().class.as_str());
}

#[test]
fn many_gaps_count_as_outage_for_one_run() {
    let mut server = Server::new(Order::ById, 5, 900, 20 * 86_400_000, 0);
    server.poison = (1..=8).map(|at| at * 100).collect();
    let mut client = Client::default();
    assert!(!client.pass(&mut server, 0), "eight holes are too many for one run");
    assert_eq!(client.gaps.len(), 5);
    assert!(client.pass(&mut server, 0));
    assert_eq!((client.gaps.len(), client.stored.len()), (8, 892));
}

#[test]
fn unservable_rows_in_one_second_hide_no_others() {
    for order in STABLE {
        let mut server = Server::new(order, 7, 260, 1, 0);
        server.poison = [20, 137, 138, 260].into();
        let mut client = Client::default();
        assert!(client.pass(&mut server, 0));
        assert_eq!((client.gaps.len(), client.stored.len()), (1, 256), "{order:?}");
    }
}

fn endless(link: Option<&str>, mut id: impl FnMut(usize) -> i64) -> (usize, SyncError) {
    let mut plan = Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[]);
    for page in 0..100_000 {
        let rows = (0..100)
            .map(|at| id(page * 100 + at))
            .map(|id| ListedVersion { id, updated: Some(time(id % 10_000)) });
        let link = link.map(|link| format!("{link}{}", page % 3));
        let facts =
            PageSummary { rows: rows.collect(), server_time: time(86_400_000), next_link: link };
        assert!(plan.request().is_some(), "the plan holds an endless list for read");
        if let Err(error) = plan.accept(&facts) {
            return (page, error);
        }
    }
    panic!("the plan does not end");
}

#[test]
fn endless_list_ends_with_an_error() {
    let (pages, error) = endless(Some("next"), |at| (at % 300) as i64);
    assert!(
        pages < 40 && matches!(error, SyncError::EndlessListing { .. }),
        "links in a loop: {pages} {error}"
    );
    let (pages, error) = endless(Some("next"), |at| at as i64);
    assert!(
        pages <= 2_001 && matches!(error, SyncError::EndlessListing { .. }),
        "new rows: {pages} {error}"
    );
    let (pages, error) = endless(None, |at| (at % 100) as i64);
    assert!(
        pages < 400 && matches!(error, SyncError::UnstableListing { .. }),
        "the same page: {pages} {error}"
    );
    let (pages, error) = endless(None, |at| at as i64);
    assert!(pages <= 2_500, "new rows without end: {pages} {error}");
}

#[test]
fn next_links_that_skip_rows_end_with_an_error() {
    let row = |id: i64| ListedVersion { id, updated: Some(time(id)) };
    let mut plan = Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[]);
    let refused = (0..1_000).find_map(|_| {
        let is_linked = plan.request().expect("the list was not read whole").link.is_some();
        let rows = (1..=if is_linked { 50 } else { 100 }).map(row).collect();
        let next_link = (!is_linked).then(|| "next".to_owned());
        plan.accept(&PageSummary { rows, server_time: time(86_400_000), next_link }).err()
    });
    assert!(matches!(refused, Some(SyncError::UnstableListing { .. })), "{refused:?}");
}

#[test]
fn ignored_skip_is_read_by_smaller_windows() {
    for order in STABLE {
        let mut server = Server::new(order, 11, 900, 20 * 86_400_000, 0);
        let mut client = Client::default();
        let mut plan = Plan::new(EVERYTHING, &[]);
        while let Some(request) = plan.request() {
            let page = server.page(&Request { skip: 0, ..request }).unwrap();
            client.stored.extend(page.rows.iter().map(|row| (row.id, row.updated.unwrap())));
            plan.accept(&page).unwrap();
            assert!(server.requests < 500, "{order:?}: the plan does not end");
        }
        assert_eq!(client.stored.len(), 900, "{order:?}");
    }
}
