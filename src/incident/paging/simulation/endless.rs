//! Lists without an end are given up.

use super::super::*;
use super::client::{Client, EVERYTHING};
use super::{STABLE, Server, time};
use crate::incident::raw::ListedVersion;

fn endless(link: Option<&str>, mut id: impl FnMut(usize) -> i64) -> (usize, SyncError) {
    let mut plan =
        Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[], Source::Defender);
    for page in 0..100_000 {
        let rows = (0..100)
            .map(|at| id(page * 100 + at))
            .map(|id| ListedVersion { id, updated: Some(time(id % 10_000)) });
        let link = link.map(|link| format!("{link}{}", page % 3));
        let facts = PageSummary {
            rows: rows.collect(),
            server_time: time(86_400_000),
            next_link: link,
            alerts_failure: None,
            cut: None,
        };
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
fn next_link_that_skips_rows_is_an_error() {
    let row = |id: i64| ListedVersion { id, updated: Some(time(id)) };
    let mut plan =
        Plan::new(ReadScope { from: Some(time(0)), ..EVERYTHING }, &[], Source::Defender);
    let refused = (0..1_000).find_map(|_| {
        let is_linked = plan.request().expect("the list was not read whole").link.is_some();
        let rows = (1..=if is_linked { 50 } else { 100 }).map(row).collect();
        let next_link = (!is_linked).then(|| "next".to_owned());
        plan.accept(&PageSummary {
            rows,
            server_time: time(86_400_000),
            next_link,
            alerts_failure: None,
            cut: None,
        })
        .err()
    });
    assert!(matches!(refused, Some(SyncError::UnstableListing { .. })), "{refused:?}");
}

#[test]
fn ignored_skip_is_read_by_smaller_windows() {
    for order in STABLE {
        let mut server = Server::new(order, 11, 900, 20 * 86_400_000, 0);
        let mut client = Client::of(Source::Defender);
        let mut plan = Plan::new(EVERYTHING, &[], Source::Defender);
        while let Some(request) = plan.request() {
            let page = server.page(&Request { skip: 0, ..request }).unwrap();
            client.stored.extend(page.rows.iter().map(|row| (row.id, row.updated.unwrap())));
            plan.accept(&page).unwrap();
            assert!(server.requests < 500, "{order:?}: the plan does not end");
        }
        assert_eq!(client.stored.len(), 900, "{order:?}");
    }
}
