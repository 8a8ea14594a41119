//! The requests to Defender, as they were recorded before Graph's strategies were repaired: those must leave them as they are.

use std::fmt::Write as _;

use super::super::*;
use super::client::{Client, EVERYTHING};
use super::{Order, STABLE, Server};
use crate::incident::hash::content_hash;

/// The requests of three polls of a list that changes, with the incidents that fail, as a short hash.
fn requests(order: Order, unservable: &[i64], churn: usize) -> (usize, String) {
    let mut server = Server::new(order, 9, 700, 20 * 86_400_000, 0);
    server.unservable = unservable.iter().copied().collect();
    let mut client = Client::of(Source::Defender);
    let mut text = String::new();
    for _ in 0..3 {
        client.read_noting(&mut server, churn, EVERYTHING, |request| {
            let Request { window, skip, top, is_ascending, .. } = request;
            writeln!(text, "{window} {skip} {top} {is_ascending}").unwrap();
        });
    }
    let hash = content_hash(&text);
    (server.requests, hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

#[test]
fn defender_requests_are_as_recorded() {
    let mut recorded = String::new();
    for order in STABLE.into_iter().chain([Order::Random]) {
        for (unservable, churn) in [(&[][..], 0), (&[][..], 3), (&[300][..], 0), (&[9, 680][..], 2)]
        {
            let churn = if order == Order::Random { churn.min(1) } else { churn };
            let (requests, hash) = requests(order, unservable, churn);
            writeln!(recorded, "{order:?} {unservable:?} {churn}: {requests} {hash}").unwrap();
        }
    }
    insta::assert_snapshot!(recorded);
}
