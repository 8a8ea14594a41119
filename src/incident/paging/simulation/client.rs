//! A client of the model: it stores what the plan accepts, and checks the promise of every watermark.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::super::request::ALERTS_OF_INSTANT;
use super::super::{Listing, PageSummary, Plan, ReadScope, Request, page_rows};
use super::{Alone, FAILURE, Server, time};
use crate::error::SyncError;
use crate::incident::gap::Gap;
use crate::incident::window::poll_from;
use crate::tenant::Source;

pub(super) struct Client {
    source: Source,
    listing: Listing,
    pub(super) stored: BTreeMap<i64, DateTime<Utc>>,
    watermark: Option<DateTime<Utc>>,
    pub(super) gaps: Vec<Gap>,
}

const OVERLAP: Duration = Duration::from_secs(600);
pub(super) const EVERYTHING: ReadScope =
    ReadScope { from: None, to: None, lookback: Duration::from_secs(180 * 86_400), status: None };

impl Client {
    pub(super) fn of(source: Source) -> Self {
        let listing = Listing::Incidents;
        Self { source, listing, stored: BTreeMap::new(), watermark: None, gaps: Vec::new() }
    }

    /// The rows of the model as alerts of Graph.
    pub(super) fn of_alerts() -> Self {
        Self { listing: Listing::Alerts, ..Self::of(Source::Graph) }
    }

    fn plan(&self, scope: ReadScope) -> Plan {
        match self.listing {
            Listing::Alerts => Plan::of_alerts(scope),
            _ => Plan::new(scope, &self.gaps, self.source),
        }
    }

    /// Asks, and holds the request to what the API allows. `None` is a failure.
    fn page(&self, server: &mut Server, request: &Request) -> Option<PageSummary> {
        let is_one = matches!(request.listing, Listing::Incident(_));
        let is_alerts = self.listing == Listing::Alerts;
        assert_eq!(request.listing == Listing::Alerts, is_alerts, "{request:?}");
        let top_max = match (is_alerts, request.is_ascending) {
            (true, false) => ALERTS_OF_INSTANT,
            _ => page_rows(self.source, self.listing),
        };
        assert!(request.top <= top_max, "more than a page: {request:?}");
        if self.source == Source::Graph {
            assert!(request.link.is_none(), "a link is followed");
            let is_too_deep = request.skip > 0 && request.skip + request.top > 450;
            assert!(!is_too_deep, "a skip too deep: {request:?}");
        } else {
            assert!(!is_one && request.listing == Listing::Incidents && !request.is_ascending);
        }
        server.page(request)
    }

    fn store(&mut self, request: &Request, page: &PageSummary) {
        let rows = page.rows.iter().filter(|_| request.listing != Listing::Versions);
        // An incident without its alerts is stored, but not whole.
        for row in rows.filter(|_| page.alerts_failure.is_none()) {
            let updated = row.updated.expect("the test's rows have times");
            let stored = self.stored.entry(row.id).or_insert(updated);
            *stored = updated.max(*stored);
        }
    }

    /// Answers whether everything was read.
    pub(super) fn poll(&mut self, server: &mut Server, churn: usize) -> bool {
        let from = self.watermark.map(|watermark| poll_from(watermark, OVERLAP));
        self.read(server, churn, ReadScope { from, ..EVERYTHING })
    }

    pub(super) fn read(&mut self, server: &mut Server, churn: usize, scope: ReadScope) -> bool {
        self.read_noting(server, churn, scope, |_| ())
    }

    pub(super) fn read_noting(
        &mut self,
        server: &mut Server,
        churn: usize,
        scope: ReadScope,
        mut note: impl FnMut(&Request),
    ) -> bool {
        let mut plan = self.plan(scope);
        while let Some(request) = plan.request() {
            note(&request);
            let page = self.page(server, &request);
            server.churn(churn);
            let Some(page) = page else {
                if plan.failed(&FAILURE) {
                    continue;
                }
                return false;
            };
            self.store(&request, &page);
            let watermark = match plan.accept(&page) {
                // More incidents without alerts than a run leaves out.
                Err(SyncError::Timeout { .. }) => return false,
                accepted => accepted.expect("the listing can be read"),
            };
            self.gaps.extend(plan.take_gap());
            if let Some(watermark) = watermark.filter(|_| scope.to.is_none()) {
                self.watermark = self.watermark.max(Some(watermark));
                self.check(server);
            }
            assert!(server.requests < 200_000, "the plan does not end");
        }
        true
    }

    pub(super) fn fill(&mut self, server: &mut Server) {
        for gap in std::mem::take(&mut self.gaps) {
            let mut plan = Plan::of_gap(&gap, self.source);
            while let Some(request) = plan.request() {
                match self.page(server, &request) {
                    Some(page) => {
                        self.store(&request, &page);
                        plan.accept(&page).expect("the gap can be read");
                        self.gaps.extend(plan.take_gap());
                    }
                    None => assert!(plan.failed(&FAILURE), "an outage?"),
                }
            }
        }
    }

    pub(super) fn is_in_a_gap(&self, time: DateTime<Utc>) -> bool {
        self.gaps.iter().any(|gap| gap.from <= time && time < gap.to)
    }

    /// The promise of a watermark: every version that is current and older than it is stored or lies in a known gap.
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

pub(super) fn run(server: &mut Server, source: Source, churn: usize) {
    run_client(Client::of(source), server, churn);
}

pub(super) fn run_client(mut client: Client, server: &mut Server, churn: usize) {
    for _ in 0..6 {
        assert!(client.poll(server, churn), "an outage?");
        server.churn(30);
        server.now += 300_000;
    }
    server.now += 60_000;
    assert!(client.poll(server, 0), "an outage?");
    let truth: BTreeMap<_, _> =
        server.updated.iter().map(|(id, updated)| (*id, time(*updated))).collect();
    assert_eq!(client.stored, truth, "something was lost");
}

/// Reads a list with unservable incidents until a quiet run has read everything; answers the requests that this took.
pub(super) fn run_with_unservable(mut server: Server, source: Source, churn: usize) -> usize {
    let mut client = Client::of(source);
    for _ in 0..4 {
        client.poll(&mut server, churn);
        server.churn(30);
        server.now += 300_000;
    }
    server.now += 60_000;
    let tries = (1..=9).find(|_| client.poll(&mut server, 0));
    assert!(tries.is_some(), "the rest of the list is never read");
    let requests = server.requests;
    let truth: BTreeMap<_, _> =
        server.updated.iter().map(|(id, updated)| (*id, time(*updated))).collect();
    let served = |id: &i64| is_served(&server, id);
    for (id, updated) in
        truth.iter().filter(|(id, updated)| served(id) && !client.is_in_a_gap(**updated))
    {
        assert_eq!(
            client.stored.get(id),
            Some(updated),
            "incident {id} is missing beside the unservable one"
        );
    }
    // What moved in the very second of an unservable incident while that was read, or is in no order, is found when it is tried again.
    for _ in 0..60 {
        client.fill(&mut server);
    }
    let served = |id: &i64| is_served(&server, id);
    for (id, updated) in truth.iter().filter(|(id, _)| served(id)) {
        assert_eq!(
            client.stored.get(id),
            Some(updated),
            "incident {id} is missing in the second of an unservable one"
        );
    }
    server.unservable.clear();
    server.unexpandable.clear();
    client.fill(&mut server);
    assert!(client.gaps.is_empty(), "a gap stays after the API serves it");
    assert_eq!(client.stored, truth, "something was lost");
    requests
}

/// Where the list itself fails, nothing of that second is read alone: it stays in the gap.
fn is_served(server: &Server, id: &i64) -> bool {
    let is_read_alone = |alone: &Alone| *alone == Alone::Served && server.unservable.is_empty();
    !server.unservable.contains(id) && server.unexpandable.get(id).is_none_or(is_read_alone)
}
