//! `GET /v1.0/security/incidents`, one of them, and its alerts.

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use uuid::Uuid;

use super::filter::Filter;
use super::query::{List, Query};
use super::rendered::{Rendered, Variant};
use super::{Page, Request};
use crate::Service;
use crate::fault::Endpoint;
use crate::filter::TimeField;
use crate::json::Object;
use crate::response::Answer;
use crate::source::Source;
use crate::store::{Form, Incident, Order};
use crate::tenant::{Poison, Tenant};
use crate::time;

/// The list.
pub(super) async fn list(
    State(service): State<Service>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let request = Request::new(&service, &headers, query);
    request.answer(Endpoint::GraphIncidents, None, |tenant| page(&request, tenant)).await
}

/// One incident.
pub(super) async fn single(
    State(service): State<Service>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let request = Request::new(&service, &headers, query);
    let path = Some(format!("/v1.0/security/incidents/{id}"));
    request.answer(Endpoint::GraphIncidents, path, |tenant| one(&request, tenant, &id)).await
}

/// The alerts of one incident.
pub(super) async fn alerts(
    State(service): State<Service>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let request = Request::new(&service, &headers, query);
    let path = Some(format!("/v1.0/security/incidents/{id}/alerts"));
    request.answer(Endpoint::GraphIncidents, path, |tenant| alerts_of(&request, tenant, &id)).await
}

fn page(request: &Request<'_>, tenant: Uuid) -> Answer {
    let list = List::incidents();
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

/// `None` if an incident of the page is poisoned.
fn rows(request: &Request<'_>, query: &Query, tenant: &mut Tenant) -> Result<Option<Page>, String> {
    let (variant, behaviour) = (request.variant(tenant), tenant.spec.graph);
    let (skip, top, may_link) = query.window(&behaviour)?;
    let skip = if tenant.spec.behaviour.ignores_skip { 0 } else { skip };
    let order = query.order.filter(|_| !behaviour.ignores_order).unwrap_or(tenant.spec.order);
    let mut random = tenant.author.random.clone();
    let admits = |id, incident: &Incident| {
        tenant.shows(Source::Graph, id, incident) && matches(&query.filter, incident, &variant)
    };
    let range = query.filter.last_update_range();
    let count = query.counts.then(|| {
        tenant.store.page(range, admits, Order::OldestFirst, &mut random, 0, usize::MAX).len()
    });
    let shown = tenant.store.page(range, admits, order, &mut random, skip, top);
    let spoils = |id: &i64| match tenant.poison.get(id) {
        Some(Poison::Everything) => true,
        Some(Poison::Expansion | Poison::Alerts) => query.expands,
        None => false,
    };
    let page = (!shown.iter().any(|(id, _)| spoils(id))).then(|| Page {
        rows: shown
            .iter()
            .map(|(id, incident)| row(request, *id, incident, &variant, query.expands))
            .collect(),
        count,
        may_link,
        behaviour,
    });
    tenant.author.random = random;
    Ok(page)
}

fn row(
    request: &Request<'_>,
    id: i64,
    incident: &Incident,
    variant: &Variant,
    expands: bool,
) -> Vec<u8> {
    let rendered = Rendered::of(incident, variant);
    if expands {
        rendered.expanded(id, variant.behaviour.embedded_alerts_max, request.base())
    } else {
        rendered.plain()
    }
}

/// Times and status are available without parsing the text.
fn matches(filter: &Filter, incident: &Incident, variant: &Variant) -> bool {
    let times = |field| match field {
        TimeField::LastUpdate => incident.updated,
        TimeField::Created if incident.form == Form::Graph => incident.created,
        TimeField::Created => {
            incident.created + chrono::TimeDelta::seconds(variant.behaviour.created_later_s)
        }
    };
    let texts = |name: &str| {
        if name == "status" && incident.form == Form::Defender {
            let json = super::fields::text(&incident.status);
            let json = variant.spelling().incident_status(Some(&json))?;
            return serde_json::from_str(&json).ok();
        }
        Object::parse(&Rendered::of(incident, variant).plain())?.get(name)?
    };
    filter.admits(&times, &texts)
}

/// The effect of a poison depends on whether the response contains alerts.
fn find<T>(
    request: &Request<'_>,
    tenant: Uuid,
    id: &str,
    with_alerts: bool,
    render: impl FnOnce(i64, &Incident, &Variant) -> T,
) -> Result<T, Answer> {
    request.service.world.with(tenant, |tenant| {
        let variant = request.variant(tenant);
        let number: i64 = id.parse().map_err(|_| request.not_found())?;
        let incident = tenant.store.get(number).ok_or_else(|| request.not_found())?;
        if !tenant.shows(Source::Graph, number, incident) {
            return Err(request.not_found());
        }
        match tenant.poison.get(&number) {
            Some(Poison::Everything) => Err(request.poisoned()),
            Some(_) if with_alerts => Err(request.poisoned()),
            _ => Ok(render(number, incident, &variant)),
        }
    })
}

/// The incident's own keys follow the context in the same object; there is no `value` around it.
fn one(request: &Request<'_>, tenant: Uuid, id: &str) -> Answer {
    let query = match Query::parse(&request.query, &List::incidents()) {
        Ok(query) => query,
        Err(reason) => return request.invalid(&reason),
    };
    let found = find(request, tenant, id, query.expands, |number, incident, variant| {
        query.select(row(request, number, incident, variant, query.expands))
    });
    match found {
        Ok(row) => request.entity("security/incidents", &row),
        Err(refusal) => refusal,
    }
}

fn alerts_of(request: &Request<'_>, tenant: Uuid, id: &str) -> Answer {
    let list = List::alerts_of(id);
    let query = match Query::parse(&request.query, &list) {
        Ok(query) => query,
        Err(reason) => return request.invalid(&reason),
    };
    let page = |_, incident: &Incident, variant: &Variant| -> Result<Page, String> {
        let alerts = Rendered::of(incident, variant).alerts();
        let admitted: Vec<&[u8]> = alerts
            .iter()
            .map(|alert| &alert[..])
            .filter(|alert| alert_matches(&query.filter, alert))
            .collect();
        let (skip, top, may_link) = query.window(&variant.behaviour)?;
        let count = query.counts.then_some(admitted.len());
        let rows = admitted.iter().skip(skip).take(top).map(|alert| alert.to_vec()).collect();
        Ok(Page { rows, count, may_link, behaviour: variant.behaviour })
    };
    match find(request, tenant, id, true, page) {
        Ok(Ok(page)) => request.page(&list, &query, page),
        Ok(Err(reason)) => request.invalid(&reason),
        Err(refusal) => refusal,
    }
}

/// Parses alerts only for filters on their fields.
pub(super) fn alert_matches(filter: &Filter, alert: &[u8]) -> bool {
    if *filter == Filter::everything() {
        return true;
    }
    let alert = Object::parse(alert).unwrap_or_default();
    let times = |field| {
        let name = match field {
            TimeField::LastUpdate => "lastUpdateDateTime",
            TimeField::Created => "createdDateTime",
        };
        let text: Option<String> = alert.get(name);
        text.and_then(|text| time::parse(&text)).unwrap_or_default()
    };
    filter.admits(&times, &|name| alert.get(name)?)
}
