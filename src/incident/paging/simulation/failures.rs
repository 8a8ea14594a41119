//! What the API fails to serve is left out alone; an outage leaves nothing out.

use proptest::prelude::*;

use super::super::*;
use super::client::{Client, EVERYTHING, run_with_unservable};
use super::{FAILURE, Order, SOURCES, STABLE, Server};
use crate::incident::gap::GapReason;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_order_reads_all_but_unservable_incidents(
        source in prop::sample::select(SOURCES.to_vec()),
        order in prop::sample::select([STABLE.to_vec(), vec![Order::Random]].concat()),
        seed: u64,
        incidents in 1..1_200_i64,
        unservable in prop::collection::vec(0..1_200_i64, 1..4),
        churn in 0..6_usize,
    ) {
        let churn = if order == Order::Random { churn.min(1) } else { churn };
        let mut server = Server::new(order, seed, incidents, 20 * 86_400_000, 0);
        server.unservable = unservable.iter().map(|at| 1 + at % incidents).collect();
        run_with_unservable(server, source, churn);
    }
}

#[test]
fn isolating_unservable_incident_costs_few_requests() {
    for (source, order) in
        SOURCES.into_iter().flat_map(|source| STABLE.map(|order| (source, order)))
    {
        for at in [0, 137, 299, 598, 599] {
            let mut server = Server::new(order, 3, 600, 20 * 86_400_000, 0);
            server.unservable = [at + 1].into();
            let mut client = Client::of(source);
            assert!(client.poll(&mut server, 0));
            assert_eq!((client.stored.len(), client.gaps.len()), (599, 1));
            assert!(
                server.requests < 80,
                "{source:?} {order:?} {at}: {} requests",
                server.requests
            );
            let before = server.requests;
            assert!(client.poll(&mut server, 0));
            assert!(
                server.requests <= before + 2,
                "{source:?} {order:?} {at}: a known gap is searched for again"
            );
            let before = server.requests;
            assert!(client.read(&mut server, 0, EVERYTHING));
            assert!(
                server.requests <= before + 25,
                "{source:?} {order:?} {at}: a known gap is searched for again"
            );
        }
    }
}

#[test]
fn outage_at_any_request_leaves_no_gap() {
    let orders = [Order::NewestFirst, Order::ById];
    for (source, order) in
        SOURCES.into_iter().flat_map(|source| orders.map(|order| (source, order)))
    {
        for at in 0..75 {
            let mut server = Server::new(order, 5, 900, 20 * 86_400_000, 0);
            server.unservable.insert(450);
            let mut client = Client::of(source);
            let mut plan = Plan::new(EVERYTHING, &[], source);
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
                "{source:?} {order:?}: the outage after {at} requests was not noticed"
            );
            assert!(failures <= 9, "{source:?} {order:?}: {failures} failures after {at} requests");
            assert_eq!(
                client.gaps,
                [],
                "{source:?} {order:?}: an outage after {at} requests is no gap"
            );
        }
    }
}

#[test]
fn gap_carries_class_and_message_of_its_failure() {
    for source in SOURCES {
        let mut server = Server::new(Order::ById, 5, 600, 20 * 86_400_000, 0);
        server.unservable.insert(450);
        let mut client = Client::of(source);
        assert!(client.poll(&mut server, 0));
        let reasons: Vec<&GapReason> = client.gaps.iter().map(|gap| &gap.reason).collect();
        assert_eq!(reasons, [&GapReason::from(&FAILURE)]);
        client.fill(&mut server);
        assert_eq!(client.gaps.len(), 1, "a retried gap keeps a reason");
        assert_eq!(client.gaps[0].reason.class, FAILURE.diagnosis().class.as_str());
    }
}

#[test]
fn many_gaps_count_as_outage_for_one_run() {
    for source in SOURCES {
        let mut server = Server::new(Order::ById, 5, 900, 20 * 86_400_000, 0);
        server.unservable = (1..=8).map(|at| at * 100).collect();
        let mut client = Client::of(source);
        assert!(!client.poll(&mut server, 0), "eight gaps are too many for one run");
        assert_eq!(client.gaps.len(), 5);
        assert!(client.poll(&mut server, 0));
        assert_eq!((client.gaps.len(), client.stored.len()), (8, 892));
    }
}

#[test]
fn unservable_rows_in_one_second_hide_no_others() {
    for (source, order) in
        SOURCES.into_iter().flat_map(|source| STABLE.map(|order| (source, order)))
    {
        let mut server = Server::new(order, 7, 260, 1, 0);
        server.unservable = [20, 137, 138, 260].into();
        let mut client = Client::of(source);
        assert!(client.poll(&mut server, 0));
        assert_eq!((client.gaps.len(), client.stored.len()), (1, 256), "{source:?} {order:?}");
    }
}
