//! Nothing is lost in any order, and calm lists cost few requests.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::client::{Client, EVERYTHING, run};
use super::{Order, SOURCES, STABLE, Server, time};
use crate::incident::raw::ListedVersion;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn stable_order_loses_no_incident(
        source in prop::sample::select(SOURCES.to_vec()),
        order in prop::sample::select(STABLE.to_vec()),
        seed: u64,
        incidents in 1..1_500_i64,
        churn in 0..12_usize,
        lag in prop::sample::select(vec![0_i64, 400, 3_000]),
    ) {
        let mut server = Server::new(order, seed, incidents, 20 * 86_400_000, lag);
        run(&mut server, source, churn);
    }

    #[test]
    fn random_order_loses_no_incident(
        source in prop::sample::select(SOURCES.to_vec()),
        seed: u64,
        incidents in 1..900_i64,
        churn in 0..3_usize,
    ) {
        let mut server = Server::new(Order::Random, seed, incidents, 20 * 86_400_000, 0);
        server.ignores_order = true;
        run(&mut server, source, churn);
    }
}

#[test]
fn crowded_instant_in_random_order_is_read_whole() {
    let mut server = Server::new(Order::Random, 7, 260, 1, 0);
    let mut client = Client::of(Source::Defender);
    client.poll(&mut server, 0);
    assert_eq!(client.stored.len(), 260);
}

#[test]
fn paging_without_faults_costs_few_extra_requests() {
    for order in STABLE {
        let mut server = Server::new(order, 3, 10_000, 20 * 86_400_000, 0);
        let mut client = Client::of(Source::Defender);
        client.poll(&mut server, 0);
        let needed = 10_000 / page_rows(Source::Defender, Listing::Incidents) + 1;
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
    let mut client = Client::of(Source::Defender);
    client.poll(&mut server, 0);
    let before = server.requests;
    client.poll(&mut server, 0);
    assert_eq!(server.requests - before, 1);
}

#[test]
fn duplicate_in_a_page_does_not_restart_window() {
    let row = |id: i64| ListedVersion { id, updated: Some(time(id)) };
    let mut plan = Plan::new(
        ReadScope { lookback: Duration::from_secs(86_400), ..EVERYTHING },
        &[],
        Source::Defender,
    );
    let server_time = time(86_400_000);
    let full: Vec<ListedVersion> = (1..=100).map(row).collect();
    let page = |rows: Vec<ListedVersion>| PageSummary {
        rows,
        server_time,
        next_link: None,
        alerts_failure: None,
        cut: None,
    };
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
    let mut plan = Plan::new(EVERYTHING, &[], Source::Defender);
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
    let mut plan = Plan::new(EVERYTHING, &[], Source::Defender);
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
    let mut plan =
        Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[], Source::Defender);
    let page = |rows: Vec<ListedVersion>, link: Option<&str>| PageSummary {
        rows,
        server_time: time(86_400_000),
        next_link: link.map(str::to_owned),
        alerts_failure: None,
        cut: None,
    };
    plan.accept(&page(vec![row(1)], Some("a"))).unwrap();
    // The opening page showed that there is more: the window is read from its start, now bounded.
    assert_eq!(plan.request().unwrap().link, None);
    plan.accept(&page(vec![row(1)], Some("b"))).unwrap();
    assert_eq!(plan.request().unwrap().link.as_deref(), Some("b"));
    assert_eq!(plan.accept(&page(vec![row(2)], None)).unwrap(), Some(time(2)));
}

#[test]
fn future_row_does_not_advance_watermark() {
    let mut plan =
        Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[], Source::Defender);
    let rows = vec![ListedVersion { id: 1, updated: Some(time(90_000_000)) }];
    let page = PageSummary {
        rows,
        server_time: time(60_000),
        next_link: None,
        alerts_failure: None,
        cut: None,
    };
    assert_eq!(plan.accept(&page).unwrap(), Some(time(55_000)));
}
