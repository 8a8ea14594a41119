//! `GET /v1.0/security/alerts_v2` and one of them.

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use uuid::Uuid;

use super::alert_index::Place;
use super::incidents::alert_matches;
use super::query::{List, Query};
use super::rendered::{Rendered, Variant};
use super::{Page, Request};
use crate::Service;
use crate::fault::Endpoint;
use crate::response::Answer;
use crate::source::Source;
use crate::store::Order;
use crate::tenant::{Poison, Tenant};

/// The list.
pub(super) async fn list(
    State(service): State<Service>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let request = Request::new(&service, &headers, query);
    request.answer(Endpoint::GraphAlerts, None, |tenant| page(&request, tenant)).await
}

/// One alert.
pub(super) async fn single(
    State(service): State<Service>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let request = Request::new(&service, &headers, query);
    let path = Some(format!("/v1.0/security/alerts_v2/{id}"));
    request.answer(Endpoint::GraphAlerts, path, |tenant| one(&request, tenant, &id)).await
}

fn page(request: &Request<'_>, tenant: Uuid) -> Answer {
    let list = List::alerts();
    let query = match Query::parse(&request.query, &list) {
        Ok(query) => query,
        Err(reason) => return request.invalid(&reason),
    };
    let page = request.service.world.with(tenant, |tenant| rows(request, &query, tenant));
    request.service.world.stir(tenant);
    match page {
        Ok(Some(page)) => request.page(&list, &query, page),
        Ok(None) => request.poisoned(),
        Err(reason) => request.invalid(&reason),
    }
}

/// `None` if an alert of the page is poisoned. An ignored order means newest first.
fn rows(request: &Request<'_>, query: &Query, tenant: &mut Tenant) -> Result<Option<Page>, String> {
    let (variant, behaviour) = (request.variant(tenant), tenant.spec.graph);
    let (skip, top, may_link) = query.window(&behaviour)?;
    let skip = if tenant.spec.behaviour.ignores_skip { 0 } else { skip };
    let places = tenant.store.alert_index().range(query.filter.last_update_range());
    let places: Vec<Place> = if query.order == Some(Order::OldestFirst) && !behaviour.ignores_order
    {
        places.collect()
    } else {
        places.rev().collect()
    };
    let tenant = &*tenant;
    let mut admitted = places
        .into_iter()
        .filter_map(|place| Some((place, alert(tenant, &variant, place)?)))
        .filter(|(_, text)| alert_matches(&query.filter, text));
    let shown: Vec<_> = admitted.by_ref().skip(skip).take(top).collect();
    let count = query.counts.then(|| skip + shown.len() + admitted.count());
    let spoils = |place: &Place| tenant.poison.get(&place.incident) == Some(&Poison::Alerts);
    if shown.iter().any(|(place, _)| spoils(place)) {
        return Ok(None);
    }
    let rows = shown.into_iter().map(|(_, text)| text.to_vec()).collect();
    Ok(Some(Page { rows, count, may_link, behaviour }))
}

/// The text of an alert; `None` if Graph does not serve its incident.
fn alert<'a>(tenant: &'a Tenant, variant: &Variant, place: Place) -> Option<&'a [u8]> {
    let incident = tenant.store.get(place.incident)?;
    if !tenant.shows(Source::Graph, place.incident, incident) {
        return None;
    }
    Rendered::of(incident, variant).alerts().get(place.alert).map(|text| &text[..])
}

fn one(request: &Request<'_>, tenant: Uuid, id: &str) -> Answer {
    request.service.world.with(tenant, |tenant| {
        let variant = request.variant(tenant);
        let place = tenant.store.alert_index().find(id);
        let Some(place) = place else { return request.not_found() };
        if tenant.poison.get(&place.incident) == Some(&Poison::Alerts) {
            return request.poisoned();
        }
        match alert(tenant, &variant, place) {
            Some(text) => request.entity("security/alerts_v2", text),
            None => request.not_found(),
        }
    })
}
