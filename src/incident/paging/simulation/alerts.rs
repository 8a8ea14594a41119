//! Alerts of Graph: larger pages, crowded instants in one request, and smaller pages where one fails.

use proptest::prelude::*;

use super::super::*;
use super::client::{Client, EVERYTHING, run_client};
use super::keyset::{ANY_ORDER, server_with};
use super::{Alone, Ceiling, Links, Order, STABLE, Server, time};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_alert_is_lost_whatever_the_links(
        links in prop::sample::select(vec![Links::None, Links::FullPages, Links::ShortPages]),
        order in prop::sample::select(STABLE.to_vec()),
        ignores_order: bool,
        span in prop::sample::select(vec![50_i64, 5_000, 20 * 86_400_000]),
        seed: u64,
        alerts in 1..2_500_i64,
        churn in 0..3_usize,
    ) {
        let mut server = Server::new(order, seed, alerts, span, 0);
        (server.links, server.ignores_order) = (links, ignores_order);
        run_client(Client::of_alerts(), &mut server, churn);
    }
}

#[test]
fn crowded_instants_of_alerts_are_read_whole() {
    for order in ANY_ORDER {
        for ceiling in [Ceiling::None, Ceiling::Refused, Ceiling::Empty, Ceiling::ShortPage] {
            let times = [(1_000, 150), (2_000, 300), (3_000, 250), (4_000, 700), (5_000, 100)];
            let mut server = server_with(order, &times);
            server.ceiling = ceiling;
            let mut client = Client::of_alerts();
            assert!(client.poll(&mut server, 0));
            assert_eq!(client.stored.len(), 1_500, "{order:?} {ceiling:?}");
            assert!(server.requests <= 20, "{order:?}: {} requests", server.requests);
        }
    }
}

#[test]
fn instant_with_a_thousand_alerts_is_unstable() {
    let mut server = server_with(Order::ById, &[(1_000, 30), (2_000, 1_000), (3_000, 80)]);
    let mut plan = Plan::of_alerts(ReadScope { from: Some(time(0)), ..EVERYTHING });
    let error = (0..200).find_map(|_| {
        let request = plan.request().expect("the list was taken for read");
        plan.accept(&server.page(&request).unwrap()).err()
    });
    assert!(matches!(error, Some(SyncError::UnstableListing { .. })), "{error:?}");
}

#[test]
fn alerts_before_one_that_fails_are_read() {
    let mut server = Server::new(Order::ById, 3, 1_000, 20 * 86_400_000, 0);
    let mut client = Client::of_alerts();
    server.unservable.insert(500);
    assert!(!client.poll(&mut server, 0), "the failure is hidden");
    assert!(server.requests < 40, "{} requests", server.requests);
    let before = server.updated.values().filter(|at| **at < server.updated[&500]).count();
    assert!(before > 200 && client.stored.len() >= before - 1, "{before}");
    server.unservable.clear();
    assert!(client.poll(&mut server, 0));
    assert_eq!(client.stored.len(), 1_000);
}

#[test]
fn poll_of_alerts_without_changes_is_one_request() {
    let mut server = Server::new(Order::NewestFirst, 5, 400, 20 * 86_400_000, 0);
    server.unexpandable.insert(7, Alone::Fails);
    let mut client = Client::of_alerts();
    assert!(client.poll(&mut server, 0));
    let before = server.requests;
    assert!(client.poll(&mut server, 0));
    assert_eq!(server.requests - before, 1);
}
