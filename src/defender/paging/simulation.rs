//! A list that changes while it is paged, in every stable order and in none: what the plan says is read must be read.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    NewestFirst,
    OldestFirst,
    ById,
    ByIdDescending,
    Scattered,
    Random,
}

const STABLE: [Order; 5] =
    [Order::NewestFirst, Order::OldestFirst, Order::ById, Order::ByIdDescending, Order::Scattered];

/// The server: incidents with a last update, a clock in milliseconds, and a small generator.
struct Server {
    updated: BTreeMap<i64, i64>,
    now: i64,
    order: Order,
    random: u64,
    lag: i64,
    requests: usize,
}

fn time(milliseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_767_225_600_000 + milliseconds).expect("the test's times are in range")
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Server {
    fn new(order: Order, seed: u64, incidents: i64, span: i64, lag: i64) -> Self {
        let mut server = Self { updated: BTreeMap::new(), now: span, order, random: seed, lag, requests: 0 };
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

    fn churn(&mut self, updates: usize) {
        for _ in 0..updates {
            self.now += 1 + (self.next() % 400) as i64;
            let id = 1 + (self.next() % (self.updated.len() as u64 + 1)) as i64;
            self.updated.insert(id, self.now);
        }
    }

    fn page(&mut self, request: &Request) -> PageFacts {
        self.requests += 1;
        let salt = self.next();
        // What the index does not show yet is not in the list, as if it had not changed.
        let visible = self.now - self.lag;
        let window = request.window;
        let mut rows: Vec<(i64, i64)> = self
            .updated
            .iter()
            .map(|(id, updated)| (*id, *updated))
            .filter(|(_, updated)| *updated <= visible)
            .filter(|(_, updated)| window.from.is_none_or(|from| time(*updated) >= from))
            .filter(|(_, updated)| window.to.is_none_or(|to| time(*updated) < to))
            .collect();
        rows.sort_by_key(|(id, updated)| match self.order {
            Order::NewestFirst => (-updated, *id),
            Order::OldestFirst => (*updated, *id),
            Order::ById => (*id, 0),
            Order::ByIdDescending => (-id, 0),
            Order::Scattered => (mix(*id as u64) as i64, 0),
            Order::Random => (mix(*id as u64 ^ salt) as i64, 0),
        });
        let rows = rows.into_iter().skip(request.skip).take(PAGE_ROWS);
        let rows = rows.map(|(id, updated)| Row { id, updated: Some(time(updated)) }).collect();
        PageFacts { rows, server_time: time(self.now).trunc_subsecs_down(), next_link: None }
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

struct Client {
    stored: BTreeMap<i64, DateTime<Utc>>,
    watermark: Option<DateTime<Utc>>,
}

const OVERLAP: Duration = Duration::from_secs(600);

impl Client {
    fn pass(&mut self, server: &mut Server, churn: usize) {
        let from = self.watermark.map(|watermark| crate::window::poll_from(watermark, OVERLAP));
        let mut plan = Plan::new(Scope { from, lookback: Duration::from_secs(180 * 86_400), status: None });
        while let Some(request) = plan.request() {
            let page = server.page(&request);
            server.churn(churn);
            for row in &page.rows {
                let updated = row.updated.expect("the test's rows have times");
                let stored = self.stored.entry(row.id).or_insert(updated);
                *stored = updated.max(*stored);
            }
            if let Some(watermark) = plan.accept(&page).expect("the listing can be read") {
                self.watermark = self.watermark.max(Some(watermark));
                self.check(server);
            }
            assert!(server.requests < 200_000, "the plan does not end");
        }
    }

    /// The promise of a watermark: every version that is current and older than it is stored.
    fn check(&self, server: &Server) {
        for (id, updated) in &server.updated {
            if Some(time(*updated)) < self.watermark {
                assert_eq!(self.stored.get(id), Some(&time(*updated)), "incident {id} is missing below the watermark");
            }
        }
    }
}

fn run(order: Order, seed: u64, incidents: i64, churn: usize, lag: i64) -> usize {
    let mut server = Server::new(order, seed, incidents, 20 * 86_400_000, lag);
    let mut client = Client { stored: BTreeMap::new(), watermark: None };
    for _ in 0..6 {
        client.pass(&mut server, churn);
        server.churn(30);
        server.now += 300_000;
    }
    server.now += 60_000;
    client.pass(&mut server, 0);
    let truth: BTreeMap<_, _> = server.updated.iter().map(|(id, updated)| (*id, time(*updated))).collect();
    assert_eq!(client.stored, truth, "something was lost");
    server.requests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn nothing_is_lost_in_any_stable_order(
        order in prop::sample::select(STABLE.to_vec()),
        seed: u64,
        incidents in 1..1_500_i64,
        churn in 0..12_usize,
        lag in prop::sample::select(vec![0_i64, 400, 3_000]),
    ) {
        run(order, seed, incidents, churn, lag);
    }

    #[test]
    fn nothing_is_lost_in_no_order(seed: u64, incidents in 1..900_i64, churn in 0..3_usize) {
        run(Order::Random, seed, incidents, churn, 0);
    }
}

#[test]
fn one_instant_with_more_than_a_page_is_read_whole_in_no_order() {
    let mut server = Server::new(Order::Random, 7, 260, 1, 0);
    let mut client = Client { stored: BTreeMap::new(), watermark: None };
    client.pass(&mut server, 0);
    assert_eq!(client.stored.len(), 260);
}

#[test]
fn calm_weather_costs_one_row_a_page() {
    for order in STABLE {
        let mut server = Server::new(order, 3, 10_000, 20 * 86_400_000, 0);
        let mut client = Client { stored: BTreeMap::new(), watermark: None };
        client.pass(&mut server, 0);
        let needed = 10_000 / PAGE_ROWS + 1;
        assert!(server.requests * 100 <= needed * 105, "{order:?}: {} requests for {needed}", server.requests);
    }
}

#[test]
fn a_quiet_poll_is_one_request() {
    let mut server = Server::new(Order::NewestFirst, 5, 400, 20 * 86_400_000, 0);
    let mut client = Client { stored: BTreeMap::new(), watermark: None };
    client.pass(&mut server, 0);
    let before = server.requests;
    client.pass(&mut server, 0);
    assert_eq!(server.requests - before, 1);
}

#[test]
fn an_incident_shown_twice_in_a_page_is_no_disorder() {
    let row = |id: i64| Row { id, updated: Some(time(id)) };
    let mut plan = Plan::new(Scope { from: None, lookback: Duration::from_secs(86_400), status: None });
    let server_time = time(86_400_000);
    let full: Vec<Row> = (1..=100).map(row).collect();
    let page = |rows: Vec<Row>| PageFacts { rows, server_time, next_link: None };
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
fn a_refused_deep_skip_cuts_the_window() {
    let mut server = Server::new(Order::ById, 11, 900, 20 * 86_400_000, 0);
    let mut plan = Plan::new(Scope { from: None, lookback: Duration::from_secs(180 * 86_400), status: None });
    let mut seen = BTreeMap::new();
    while let Some(request) = plan.request() {
        if request.skip > 150 {
            assert!(plan.refused());
            continue;
        }
        let page = server.page(&request);
        seen.extend(page.rows.iter().map(|row| (row.id, ())));
        plan.accept(&page).unwrap();
    }
    assert_eq!(seen.len(), 900);
}

#[test]
fn a_refused_upper_edge_is_left_out() {
    let mut server = Server::new(Order::OldestFirst, 11, 450, 20 * 86_400_000, 0);
    let mut plan = Plan::new(Scope { from: None, lookback: Duration::from_secs(180 * 86_400), status: None });
    let mut seen = BTreeMap::new();
    while let Some(request) = plan.request() {
        if request.window.to.is_some() {
            assert!(plan.refused());
            continue;
        }
        let page = server.page(&request);
        server.churn(2);
        seen.extend(page.rows.iter().map(|row| (row.id, ())));
        plan.accept(&page).unwrap();
    }
    assert!(seen.len() >= 450);
}

#[test]
fn a_next_link_is_followed_to_its_end() {
    let row = |id: i64| Row { id, updated: Some(time(id)) };
    let mut plan = Plan::new(Scope { from: Some(time(0)), lookback: Duration::from_secs(86_400), status: None });
    let page = |rows: Vec<Row>, link: Option<&str>| PageFacts {
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
fn a_row_from_the_future_does_not_carry_the_watermark_away() {
    let mut plan = Plan::new(Scope { from: Some(time(0)), lookback: Duration::from_secs(86_400), status: None });
    let rows = vec![Row { id: 1, updated: Some(time(90_000_000)) }];
    let page = PageFacts { rows, server_time: time(60_000), next_link: None };
    assert_eq!(plan.accept(&page).unwrap(), Some(time(55_000)));
}
