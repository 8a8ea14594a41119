//! Incidents whose alerts cannot be expanded: they are read alone, and a gap is about one of them.

use proptest::prelude::*;

use super::super::*;
use super::client::{Client, EVERYTHING, run_with_unservable};
use super::keyset::{ANY_ORDER, server_with};
use super::{Alone, FAILURE, Links, Order, Server, time};

const ALONE: [Alone; 3] = [Alone::Served, Alone::WithoutAlerts, Alone::Fails];

fn gap_of(at: i64) -> (DateTime<Utc>, DateTime<Utc>) {
    (time(at), time(at) + INSTANT)
}

fn edges(gaps: &[Gap]) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut edges: Vec<_> = gaps.iter().map(|gap| (gap.from, gap.to)).collect();
    // The same gap may be noted twice, as the table of gaps allows.
    edges.dedup();
    edges
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn all_but_unservable_incidents_are_read(
        order in prop::sample::select(ANY_ORDER.to_vec()),
        links in prop::sample::select(vec![Links::None, Links::FullPages, Links::ShortPages]),
        ignores_order: bool,
        span in prop::sample::select(vec![20_i64, 5_000, 20 * 86_400_000]),
        seed: u64,
        incidents in 1..700_i64,
        faults in prop::collection::vec((0..700_i64, prop::sample::select(ALONE.to_vec())), 1..5),
        unservable in prop::option::weighted(0.2, 0..700_i64),
        churn in 0..3_usize,
    ) {
        let mut server = Server::new(order, seed, incidents, span, 0);
        (server.links, server.ignores_order) = (links, ignores_order);
        server.unexpandable = faults.iter().map(|(at, alone)| (1 + at % incidents, *alone)).collect();
        server.unservable = unservable.iter().map(|at| 1 + at % incidents).collect();
        run_with_unservable(server, Source::Graph, match (ignores_order, order) {
            (_, Order::Random) if span == 20 => 0,
            (true, _) => churn.min(1),
            (false, _) => churn,
        });
    }
}

#[test]
fn unexpandable_incident_is_read_alone() {
    for order in ANY_ORDER {
        for at in [1, 2, 137, 299, 599, 600] {
            let mut server = Server::new(order, 3, 600, 20 * 86_400_000, 0);
            server.unexpandable.insert(at, Alone::Served);
            let mut client = Client::of(Source::Graph);
            assert!(client.poll(&mut server, 0));
            assert_eq!((client.stored.len(), edges(&client.gaps)), (600, vec![]), "{order:?} {at}");
            assert!(server.requests < 45, "{order:?} {at}: {} requests", server.requests);
        }
    }
}

#[test]
fn page_that_fails_shrinks_to_one_row() {
    let mut server = Server::new(Order::ById, 3, 600, 20 * 86_400_000, 0);
    server.unexpandable.insert(300, Alone::Served);
    let mut plan = Plan::new(ReadScope { from: Some(time(-1)), ..EVERYTHING }, &[], Source::Graph);
    let mut failed = Vec::new();
    let mut alone = Vec::new();
    while let Some(request) = plan.request() {
        alone.extend(matches!(request.listing, Listing::Incident(_)).then_some(request.listing));
        match server.page(&request) {
            Some(page) => drop(plan.accept(&page).unwrap()),
            None => {
                failed.push(request.top);
                assert!(plan.failed(&FAILURE));
            }
        }
    }
    assert_eq!(failed[0], 50);
    assert!(failed[1..].iter().all(|top| *top <= 26), "{failed:?}");
    assert_eq!(alone, [Listing::Incident(300)], "only the unservable incident is read alone");
}

#[test]
fn tenant_without_any_expansion_is_read_whole() {
    let mut server = Server::new(Order::ById, 3, 600, 20 * 86_400_000, 0);
    server.unexpandable = (1..=600).map(|id| (id, Alone::Served)).collect();
    let mut client = Client::of(Source::Graph);
    assert!(client.poll(&mut server, 0));
    assert_eq!((client.stored.len(), edges(&client.gaps)), (600, vec![]));
    assert!(server.requests < 690, "{} requests for 600 incidents", server.requests);
}

#[test]
fn gap_covers_one_incident_and_its_instant() {
    for alone in [Alone::WithoutAlerts, Alone::Fails] {
        for order in ANY_ORDER {
            // Neighbours before, behind and at the very time of the incident that fails.
            let mut server =
                server_with(order, &[(1_000, 70), (2_000, 3), (2_001, 2), (3_000, 70)]);
            server.unexpandable.insert(72, alone);
            let mut client = Client::of(Source::Graph);
            assert!(client.poll(&mut server, 0));
            assert_eq!(edges(&client.gaps), [gap_of(2_000)], "{order:?} {alone:?}");
            assert_eq!(client.stored.len(), 144, "{order:?} {alone:?}");
            assert!(!client.stored.contains_key(&72));
            client.fill(&mut server);
            assert_eq!(edges(&client.gaps), [gap_of(2_000)], "a gap that was tried again stays");
            server.unexpandable.clear();
            client.fill(&mut server);
            assert_eq!((client.stored.len(), edges(&client.gaps)), (145, vec![]));
        }
    }
}

#[test]
fn failing_row_of_full_instant_is_read_alone() {
    for order in ANY_ORDER {
        let mut server = server_with(order, &[(1_000, 30), (2_000, 180), (3_000, 80)]);
        server.unexpandable = [(100, Alone::Served), (200, Alone::Fails)].into();
        let mut client = Client::of(Source::Graph);
        assert!(client.poll(&mut server, 0));
        assert_eq!(edges(&client.gaps), [gap_of(2_000)], "{order:?}");
        assert_eq!(client.stored.len(), 289, "{order:?}");
    }
}

#[test]
fn unexpandable_rows_are_read_where_order_is_ignored() {
    for order in ANY_ORDER {
        let mut server = Server::new(order, 5, 300, 20 * 86_400_000, 0);
        server.ignores_order = true;
        server.unexpandable = [(7, Alone::Served), (150, Alone::Served)].into();
        let newest = *server.updated.iter().max_by_key(|(_, updated)| **updated).unwrap().0;
        server.unexpandable.insert(newest, Alone::Served);
        let mut client = Client::of(Source::Graph);
        assert!(client.poll(&mut server, 0));
        assert_eq!((client.stored.len(), edges(&client.gaps)), (300, vec![]), "{order:?}");
    }
}

#[test]
fn outage_in_a_retreat_leaves_no_gap() {
    for alone in ALONE {
        for at in 0..45 {
            let mut server = Server::new(Order::ById, 5, 400, 20 * 86_400_000, 0);
            server.unexpandable = [(200, alone), (201, alone)].into();
            let mut plan = Plan::new(EVERYTHING, &[], Source::Graph);
            let (mut failures, mut is_given_up) = (0, false);
            let mut gaps = Vec::new();
            while let Some(request) = plan.request().filter(|_| !is_given_up) {
                server.is_down = server.requests >= at;
                match server.page(&request) {
                    Some(page) => drop(plan.accept(&page).unwrap()),
                    None => is_given_up = !plan.failed(&FAILURE),
                }
                failures += usize::from(server.is_down);
                gaps.extend(plan.take_gap().filter(|_| server.is_down));
            }
            assert!(is_given_up || server.requests <= at, "{alone:?}: no outage after {at}");
            assert!(failures <= 9, "{alone:?}: {failures} failures after {at} requests");
            assert_eq!(gaps, [], "{alone:?}: an outage after {at} requests is no gap");
        }
    }
}

#[test]
fn many_incidents_without_alerts_are_an_outage() {
    for alone in [Alone::WithoutAlerts, Alone::Fails] {
        let mut server = Server::new(Order::ById, 5, 900, 20 * 86_400_000, 0);
        server.unexpandable = (1..=8).map(|at| (at * 100, alone)).collect();
        // The failure of alerts ends the run as an error of the plan, the other one as an outage.
        let mut plan = Plan::new(EVERYTHING, &[], Source::Graph);
        let mut gaps = 0;
        while let Some(request) = plan.request() {
            let is_left = match server.page(&request) {
                Some(page) => plan.accept(&page).is_err(),
                None => !plan.failed(&FAILURE),
            };
            gaps += usize::from(plan.take_gap().is_some());
            if is_left {
                break;
            }
        }
        assert!(plan.request().is_none() && gaps == 5, "{alone:?}: {gaps} gaps");
    }
}

#[test]
fn retreat_never_skips_row_without_id() {
    let mut plan = Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[], Source::Graph);
    assert!(plan.failed(&FAILURE));
    assert_eq!(plan.request().unwrap().listing, Listing::Versions);
    let rows = vec![
        crate::incident::raw::ListedVersion { id: -5, updated: Some(time(10)) },
        crate::incident::raw::ListedVersion { id: 6, updated: Some(time(20)) },
    ];
    let page = PageSummary {
        rows,
        server_time: time(86_400_000),
        next_link: None,
        alerts_failure: None,
        cut: None,
    };
    assert_eq!(plan.accept(&page).unwrap(), None);
    assert!(plan.request().is_some(), "an incident without id is passed over");
}

/// A server whose incidents at these places cannot be expanded, and whose list fails at one of them.
fn failing_list(mut server: Server, unexpandable: &[(i64, Alone)], unservable: i64) -> Server {
    let incidents = server.updated.len() as i64;
    server.unexpandable =
        unexpandable.iter().map(|(at, alone)| (1 + at % incidents, *alone)).collect();
    server.unservable = [1 + unservable % incidents].into();
    server
}

#[test]
fn failing_list_without_any_order_loses_no_row() {
    for links in [Links::None, Links::FullPages, Links::ShortPages] {
        let server = Server::new(Order::Random, 12_526_517_431_154_470_166, 168, 5_000, 0);
        let unexpandable =
            [(295, Alone::WithoutAlerts), (375, Alone::Served), (493, Alone::Served)];
        let mut server = failing_list(server, &unexpandable, 481);
        (server.links, server.ignores_order) = (links, true);
        run_with_unservable(server, Source::Graph, 1);
    }
}

#[test]
fn gap_beside_failing_list_is_passed() {
    for links in [Links::None, Links::FullPages, Links::ShortPages] {
        let server = Server::new(Order::ByIdDescending, 17_404_345_167_681_117_932, 157, 20, 0);
        let unexpandable =
            [(136, Alone::Served), (280, Alone::Served), (354, Alone::WithoutAlerts)];
        let mut server = failing_list(server, &unexpandable, 479);
        server.links = links;
        run_with_unservable(server, Source::Graph, 1);
    }
}
