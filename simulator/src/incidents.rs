//! `GET /api/incidents` and `GET /api/incidents/{id}`.

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use url::form_urlencoded;
use uuid::Uuid;

use super::Service;
use super::fault::Endpoint;
use super::filter::Filter;
use super::response::{Answer, unauthorized};
use super::source::Source;
use super::store::Incident;
use super::tenant::{Poison, Tenant};
use super::world::Issued;

/// The maximum page size of the service, and its default.
const TOP_MAX: usize = 100;

/// The list.
pub(super) async fn list(
    State(service): State<Service>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(issued) = bearer(&service, &headers) else {
        return service.reply(unauthorized(), &headers);
    };
    let query = query.unwrap_or_default();
    let answer = || match admit(&service, &headers).and_then(|()| Listing::parse(&query)) {
        Ok(listing) => page(&service, issued.tenant, &listing),
        Err(refusal) => refusal,
    };
    service.serve(issued.tenant, Endpoint::Incidents, decoded(&query), &headers, answer).await
}

/// One incident.
pub(super) async fn single(
    State(service): State<Service>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(issued) = bearer(&service, &headers) else {
        return service.reply(unauthorized(), &headers);
    };
    let answer = || match admit(&service, &headers) {
        Ok(()) => one(&service, issued.tenant, &id),
        Err(refusal) => refusal,
    };
    service
        .serve(issued.tenant, Endpoint::Incidents, format!("/api/incidents/{id}"), &headers, answer)
        .await
}

/// The tenant of a token, also of an expired or revoked one.
pub(super) fn bearer(service: &Service, headers: &HeaderMap) -> Option<Issued> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    service.world.issued(value.strip_prefix("Bearer ")?)
}

/// Looks the token up again, because it may have expired during a delayed request.
fn admit(service: &Service, headers: &HeaderMap) -> Result<(), Answer> {
    if let Some(status) = service.world.retired(Source::Defender) {
        return Err(Answer::refusal(status, "Gone", "This API was retired."));
    }
    let now = service.world.now();
    match bearer(service, headers) {
        Some(issued) if issued.revoked || issued.expires <= now => Err(unauthorized()),
        Some(issued) if !issued.roles.defender => Err(Answer::refusal(
            403,
            "Forbidden",
            "The application does not have any of the required application permissions \
             (Incident.Read.All, Incident.ReadWrite.All) to access the resource.",
        )),
        Some(_) => Ok(()),
        None => Err(unauthorized()),
    }
}

/// The parameters of a list request.
struct Listing {
    filter: Filter,
    top: usize,
    skip: usize,
}

impl Listing {
    fn parse(query: &str) -> Result<Self, Answer> {
        let mut listing = Self { filter: Filter::everything(), top: TOP_MAX, skip: 0 };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "$filter" => {
                    listing.filter = Filter::parse(&value)
                        .map_err(|message| Answer::refusal(400, "ODataError", &message))?;
                }
                "$top" => listing.top = number(&name, &value)?,
                "$skip" => listing.skip = number(&name, &value)?,
                other if other.starts_with('$') => {
                    let text = format!("The query option '{other}' is not supported.");
                    return Err(Answer::refusal(400, "ODataError", &text));
                }
                _ => {}
            }
        }
        if listing.top > TOP_MAX {
            let text = format!(
                "The limit of '{TOP_MAX}' for Top query has been exceeded. The value from the incoming request is '{}'.",
                listing.top
            );
            return Err(Answer::refusal(400, "BadRequest", &text));
        }
        Ok(listing)
    }
}

fn number(name: &str, value: &str) -> Result<usize, Answer> {
    value.parse().map_err(|_| {
        Answer::refusal(
            400,
            "ODataError",
            &format!("Invalid value '{value}' for {name} query option found."),
        )
    })
}

/// Selects the page under the tenant's lock and assembles it outside. The list changes afterwards.
fn page(service: &Service, tenant: Uuid, listing: &Listing) -> Answer {
    let rows = service.world.with(tenant, |tenant| {
        let mut random = tenant.author.random.clone();
        let skip = if tenant.spec.behaviour.ignores_skip { 0 } else { listing.skip };
        let (range, order) = (listing.filter.last_update_range(), tenant.spec.order);
        let admits = |id, incident: &Incident| {
            listing.filter.admits(incident) && tenant.shows(Source::Defender, id, incident)
        };
        let rows = tenant.store.page(range, admits, order, &mut random, skip, listing.top);
        let rows: Vec<_> =
            rows.into_iter().map(|(id, incident)| (id, incident.text.clone())).collect();
        tenant.author.random = random;
        rows.iter().all(|(id, _)| !is_poisoned(tenant, *id)).then_some(rows)
    });
    service.world.stir(tenant);
    let Some(rows) = rows else { return poisoned() };
    let head = format!(r#"{{"@odata.context":"{}api/$metadata#Incidents","value":["#, service.base);
    let length = rows.iter().map(|(_, text)| text.len() + 1).sum::<usize>();
    let mut body = Vec::with_capacity(head.len() + length + 2);
    body.extend_from_slice(head.as_bytes());
    for (place, (_, text)) in rows.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(text);
    }
    body.extend_from_slice(b"]}");
    Answer::odata(body)
}

fn is_poisoned(tenant: &Tenant, id: i64) -> bool {
    tenant.poison.get(&id) == Some(&Poison::Everything)
}

/// The service's reply when it cannot assemble a response.
fn poisoned() -> Answer {
    Answer::refusal(500, "InternalServerError", "")
}

/// The incident's keys follow the context in the same object, without `value`.
fn one(service: &Service, tenant: Uuid, id: &str) -> Answer {
    let text = service.world.with(tenant, |tenant| {
        let id = id.parse().ok()?;
        let incident = tenant.store.get(id)?;
        let text = (!is_poisoned(tenant, id)).then(|| incident.text.clone());
        tenant.shows(Source::Defender, id, incident).then_some(text)
    });
    let Some(text) = text else {
        return Answer::refusal(404, "ResourceNotFound", &format!("Incident {id} was not found"));
    };
    let Some(text) = text else { return poisoned() };
    let head = format!(r#"{{"@odata.context":"{}api/$metadata#Incidents/$entity","#, service.base);
    match text.strip_prefix(b"{\"") {
        Some(rest) => Answer::odata([head.as_bytes(), b"\"", rest].concat()),
        None => Answer::odata(text.to_vec()),
    }
}

/// The decoded query string.
pub(super) fn decoded(query: &str) -> String {
    let pairs = form_urlencoded::parse(query.as_bytes());
    pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}
