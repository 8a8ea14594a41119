//! Pages by time: edges, links, order and the ceiling of `$skip`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::*;
use super::client::{Client, EVERYTHING, run};
use super::{Ceiling, Links, Order, STABLE, Server, time};
use crate::incident::raw::ListedVersion;

pub(super) const ANY_ORDER: [Order; 6] =
    [STABLE[0], STABLE[1], STABLE[2], STABLE[3], STABLE[4], Order::Random];
const CEILINGS: [Ceiling; 4] =
    [Ceiling::None, Ceiling::Refused, Ceiling::Empty, Ceiling::ShortPage];

fn row(id: i64, at: i64) -> ListedVersion {
    ListedVersion { id, updated: Some(time(at)) }
}

fn page(rows: Vec<ListedVersion>, link: Option<&str>) -> PageSummary {
    PageSummary {
        rows,
        server_time: time(86_400_000),
        next_link: link.map(str::to_owned),
        alerts_failure: None,
        cut: None,
    }
}

fn plan_from(at: i64) -> Plan {
    Plan::new(ReadScope { from: Some(time(at)), ..EVERYTHING }, &[], Source::Graph)
}

/// A server with so many incidents at each of these times.
pub(super) fn server_with(order: Order, times: &[(i64, i64)]) -> Server {
    let mut server = Server::new(order, 7, 0, 1, 0);
    for (at, incidents) in times {
        for _ in 0..*incidents {
            let id = server.updated.len() as i64 + 1;
            server.updated.insert(id, *at);
        }
    }
    server.now = 86_400_000;
    server
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_next_links_lose_no_incident(
        links in prop::sample::select(vec![Links::None, Links::FullPages, Links::ShortPages]),
        ceiling in prop::sample::select(CEILINGS.to_vec()),
        order in prop::sample::select(ANY_ORDER.to_vec()),
        ignores_order: bool,
        span in prop::sample::select(vec![5_i64, 50, 5_000, 20 * 86_400_000]),
        seed: u64,
        incidents in 1..900_i64,
        churn in 0..4_usize,
    ) {
        let mut server = Server::new(order, seed, incidents, span, 0);
        server.links = links;
        server.ceiling = ceiling;
        server.ignores_order = ignores_order;
        let churn = match (ignores_order, order) {
            // What leaves an instant in no order while that is swept may hide another row.
            (_, Order::Random) if span <= 50 => 0,
            // Cutting needs time to win over the changes.
            (true, _) => churn.min(2),
            (false, _) => churn,
        };
        run(&mut server, Source::Graph, churn);
    }
}

#[test]
fn equal_times_across_a_page_edge_are_read() {
    for order in ANY_ORDER {
        let mut server = server_with(order, &[(1_000, 48), (2_000, 9), (3_000, 41), (4_000, 7)]);
        let mut client = Client::of(Source::Graph);
        assert!(client.poll(&mut server, 0));
        assert_eq!(client.stored.len(), 105, "{order:?}");
        // The opening page has no lower edge, and few times prove no order: a page with them is read twice.
        assert!(server.requests <= 8, "{order:?}: {} requests", server.requests);
    }
}

#[test]
fn row_leaving_a_crowded_instant_hides_none() {
    let (mut read, mut refused) = (0, 0);
    for seed in 0..200 {
        let mut server = Server::new(Order::Random, seed, 0, 1, 0);
        server.updated = (1..=130).map(|id| (id, 2_000)).collect();
        (server.ignores_order, server.now) = (true, 86_400_000);
        let mut plan = plan_from(0);
        let mut seen = BTreeMap::new();
        let mut watermark = None;
        while let Some(request) = plan.request() {
            let page = server.page(&request).unwrap();
            seen.extend(page.rows.iter().map(|row| (row.id, row.updated)));
            // Rows leave the instant now and then, behind the upper edge of the run.
            if server.requests.is_multiple_of(7) {
                server.churn(1);
            }
            match plan.accept(&page) {
                Ok(edge) => watermark = watermark.max(edge),
                Err(_) => break,
            }
        }
        refused += usize::from(plan.request().is_some() || watermark.is_none());
        read += usize::from(watermark.is_some());
        for (id, updated) in &server.updated {
            if Some(time(*updated)) < watermark {
                assert_eq!(seen.get(id), Some(&Some(time(*updated))), "seed {seed}: {id} is lost");
            }
        }
    }
    assert!(read > 0, "no instant was read; {refused} failed");
}

#[test]
fn page_beyond_window_still_cuts_it() {
    let mut plan = plan_from(0);
    // Twice out of order, and later than the upper edge, as the newest rows of an open-ended window are.
    let rows = || (1..=50).map(|id| row(id, 86_500_000 - id)).collect();
    plan.accept(&page(rows(), None)).unwrap();
    plan.accept(&page(rows(), None)).unwrap();
    let window = plan.request().unwrap().window;
    assert!(window.to < Some(time(86_395_000)), "the window is not cut: {window}");
}

#[test]
fn next_page_begins_at_the_last_time() {
    let mut plan = plan_from(0);
    let full: Vec<_> = (1..=50).map(|id| row(id, id * 10)).collect();
    let watermark = plan.accept(&page(full, None)).unwrap();
    let request = plan.request().unwrap();
    assert_eq!((request.window.from, request.skip, request.top), (Some(time(500)), 0, 50));
    assert_eq!(request.window.to, Some(time(86_395_000)));
    assert!(request.is_ascending);
    assert_eq!(watermark, Some(time(500)));
    assert_eq!(plan.accept(&page(vec![row(50, 500)], None)).unwrap(), Some(time(500)));
    assert_eq!(plan.request(), None);
}

#[test]
fn watermark_follows_every_page_up_to_the_lag() {
    let mut plan = plan_from(0);
    let late = 86_395_000 - 500;
    let full = |from: i64| (from..from + 50).map(|id| row(id, late + id * 10)).collect();
    assert_eq!(plan.accept(&page(full(1), None)).unwrap(), Some(time(late + 500)));
    assert_eq!(plan.request(), None, "the upper edge is reached");
    let mut plan = plan_from(0);
    let beyond = page((1..=50).map(|id| row(id, 86_396_000 + id)).collect(), None);
    assert_eq!(plan.accept(&beyond).unwrap(), Some(time(86_395_000)));
}

#[test]
fn kill_after_any_page_costs_one_page() {
    let mut server = Server::new(Order::ById, 3, 1_000, 20 * 86_400_000, 0);
    let mut stored = BTreeMap::new();
    let mut from = Some(time(0));
    let mut pages = 0;
    for _ in 0..40 {
        let mut plan = Plan::new(ReadScope { from, ..EVERYTHING }, &[], Source::Graph);
        let request = plan.request().unwrap();
        let page = server.page(&request).unwrap();
        stored.extend(page.rows.iter().map(|row| (row.id, row.updated)));
        let watermark = plan.accept(&page).unwrap();
        assert!(watermark > from || stored.len() == 1_000, "the page was for nothing");
        from = watermark.or(from);
        pages += usize::from(stored.len() < 1_000);
    }
    assert_eq!(stored.len(), 1_000);
    assert!(pages <= 21, "{pages} pages");
}

#[test]
fn full_page_of_one_instant_is_fully_read() {
    for order in ANY_ORDER {
        for ceiling in CEILINGS {
            for links in [Links::None, Links::FullPages] {
                let mut server = server_with(order, &[(1_000, 30), (2_000, 430), (3_000, 80)]);
                (server.ceiling, server.links) = (ceiling, links);
                let mut client = Client::of(Source::Graph);
                assert!(client.poll(&mut server, 0));
                assert_eq!(client.stored.len(), 540, "{order:?} {ceiling:?}");
            }
        }
    }
}

#[test]
fn instant_beyond_the_skip_ceiling_is_unstable() {
    for ceiling in CEILINGS {
        let mut server = server_with(Order::ById, &[(1_000, 30), (2_000, 600), (3_000, 80)]);
        server.ceiling = ceiling;
        let mut plan = plan_from(0);
        let mut watermark = None;
        let error = loop {
            let request = plan.request().expect("the list was taken for read");
            assert!(request.skip + request.top <= 450 && !server.refuses(&request));
            match plan.accept(&server.page(&request).unwrap()) {
                Ok(edge) => watermark = watermark.max(edge),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SyncError::UnstableListing { .. }), "{ceiling:?}: {error}");
        assert!(watermark <= Some(time(2_000)), "{ceiling:?}: the watermark passed the instant");
    }
}

#[test]
fn link_on_every_full_page_costs_nothing() {
    let requests = |links| {
        let mut server = Server::new(Order::ById, 3, 5_000, 20 * 86_400_000, 0);
        server.links = links;
        let mut client = Client::of(Source::Graph);
        assert!(client.poll(&mut server, 0));
        assert_eq!(client.stored.len(), 5_000);
        server.requests
    };
    assert_eq!(requests(Links::FullPages), requests(Links::None));
    assert!(requests(Links::None) <= 105, "{} requests", requests(Links::None));
}

#[test]
fn short_page_with_link_does_not_end_list() {
    let mut plan = plan_from(0);
    let first = page((1..=10).map(|id| row(id, id * 10)).collect(), Some("next"));
    assert_eq!(plan.accept(&first).unwrap(), Some(time(100)));
    let request = plan.request().expect("the page was taken for the last");
    assert_eq!((request.window.from, request.link), (Some(time(100)), None));
    plan.accept(&page(vec![row(10, 100), row(11, 110)], None)).unwrap();
    assert_eq!(plan.request(), None);
}

#[test]
fn next_link_without_new_rows_is_an_error() {
    for rows in [vec![], vec![row(1, 10)]] {
        let mut plan = plan_from(0);
        let error = (0..300).find_map(|_| {
            plan.request().expect("the list was taken for read");
            plan.accept(&page(rows.clone(), Some("next"))).err()
        });
        assert!(matches!(error, Some(SyncError::UnstableListing { .. })), "{error:?}");
    }
}

#[test]
fn ignored_order_is_read_by_cutting() {
    for order in [Order::NewestFirst, Order::ById, Order::Scattered, Order::Random] {
        for links in [Links::None, Links::FullPages] {
            let mut server = Server::new(order, 11, 900, 20 * 86_400_000, 0);
            (server.ignores_order, server.links) = (true, links);
            let mut client = Client::of(Source::Graph);
            assert!(client.poll(&mut server, 0));
            assert_eq!(client.stored.len(), 900, "{order:?}");
            assert!(server.requests < 120, "{order:?}: {} requests", server.requests);
            let before = server.requests;
            assert!(client.poll(&mut server, 0));
            assert_eq!(server.requests - before, 1, "a page that fits needs no order");
        }
    }
}

#[test]
fn rows_below_lower_edge_count_as_disorder() {
    let mut plan = plan_from(1_000);
    let rows = || (1..=50).map(|id| row(id, 960 + id)).collect();
    plan.accept(&page(rows(), None)).unwrap();
    assert_eq!(plan.request().unwrap().window.from, Some(time(1_000)), "read again");
    plan.accept(&page(rows(), None)).unwrap();
    assert!(!plan.request().unwrap().is_ascending, "the window is cut");
}

#[test]
fn one_disordered_page_is_read_again() {
    let mut plan = plan_from(0);
    let mut rows: Vec<_> = (1..=50).map(|id| row(id, id * 10)).collect();
    rows[20] = row(21, 9_000);
    assert_eq!(plan.accept(&page(rows.clone(), None)).unwrap(), None);
    rows.remove(20);
    rows.push(row(51, 510));
    assert_eq!(plan.accept(&page(rows, None)).unwrap(), Some(time(510)));
    assert!(plan.request().unwrap().is_ascending, "the order is trusted again");
}

#[test]
fn full_page_without_times_is_not_skipped() {
    let mut plan = plan_from(0);
    let untimed = |id| ListedVersion { id, updated: None };
    let rows: Vec<_> = std::iter::once(row(1, 0)).chain((2..=50).map(untimed)).collect();
    assert_eq!(plan.accept(&page(rows, None)).unwrap(), None);
    let request = plan.request().unwrap();
    assert_eq!(request.window.from, Some(time(0)));
    assert!(!request.is_ascending, "the window is cut");
}

#[test]
fn refused_upper_edge_leaves_keyset_open_ended() {
    let mut server = Server::new(Order::ById, 11, 450, 20 * 86_400_000, 0);
    let mut plan = plan_from(-1_000);
    let mut seen = BTreeMap::new();
    while let Some(request) = plan.request() {
        if request.window.to.is_some() {
            assert!(plan.refused());
            continue;
        }
        let page = server.page(&request).unwrap();
        server.churn(2);
        seen.extend(page.rows.iter().map(|row| (row.id, row.updated)));
        plan.accept(&page).unwrap();
    }
    let truth = server.updated.iter().filter(|(_, updated)| **updated < 20 * 86_400_000);
    for (id, updated) in truth {
        assert_eq!(seen.get(id), Some(&Some(time(*updated))), "incident {id}");
    }
}

#[test]
fn refused_order_is_read_by_cutting() {
    let mut server = Server::new(Order::ById, 11, 450, 20 * 86_400_000, 0);
    let mut plan = Plan::new(EVERYTHING, &[], Source::Graph);
    let mut seen = BTreeMap::new();
    while let Some(request) = plan.request() {
        if request.is_ascending {
            assert!(plan.refused());
            continue;
        }
        let page = server.page(&request).unwrap();
        seen.extend(page.rows.iter().map(|row| (row.id, row.updated)));
        plan.accept(&page).unwrap();
    }
    assert_eq!(seen.len(), 450);
    assert!(!plan.refused(), "there is no other way to ask");
}

#[test]
fn endless_new_rows_end_with_an_error() {
    let mut plan = plan_from(0);
    let error = (0..30_000).find_map(|at| {
        let rows = (0..50).map(|id| row(at * 50 + id, at * 50 + id)).collect();
        let page = PageSummary { server_time: time(86_400_000_000), ..page(rows, None) };
        plan.accept(&page).err()
    });
    assert!(matches!(error, Some(SyncError::EndlessListing { .. })), "{error:?}");
}
