//! `/v1.0/security`: the Graph API over the same tenants as the Defender API.

mod alert_index;
mod alerts;
mod behaviour;
mod enums;
mod fields;
mod filter;
mod incidents;
mod new_evidence;
mod query;
mod render_evidence;
mod render_incident;
mod rendered;
#[cfg(test)]
mod tests;
mod world;

use axum::Router;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use axum::routing::get;

pub(super) use alert_index::AlertIndex;
pub use behaviour::{CeilingAnswer, GraphBehaviour, NextLink, SkipCeiling};
pub(super) use rendered::Rendered;

use self::query::{List, Query};
use self::rendered::Variant;
use super::Service;
use super::fault::{Endpoint, REQUEST_ID, graph_error};
use super::incidents::{bearer, decoded};
use super::response::Answer;
use super::source::Source;
use super::tenant::Tenant;

pub(super) fn routes() -> Router<Service> {
    Router::new()
        .route("/v1.0/security/incidents", get(incidents::list))
        .route("/v1.0/security/incidents/{id}", get(incidents::single))
        .route("/v1.0/security/incidents/{id}/alerts", get(incidents::alerts))
        .route("/v1.0/security/alerts_v2", get(alerts::list))
        .route("/v1.0/security/alerts_v2/{id}", get(alerts::single))
}

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");

/// A request without a response.
struct Request<'a> {
    service: &'a Service,
    headers: &'a HeaderMap,
    query: String,
}

impl<'a> Request<'a> {
    fn new(service: &'a Service, headers: &'a HeaderMap, query: Option<String>) -> Self {
        Self { service, headers, query: query.unwrap_or_default() }
    }

    /// Responds with `normal`, except to a caller without permission or if a reply is scripted. The log has the path of
    /// requests that are not for a list.
    async fn answer(
        &self,
        endpoint: Endpoint,
        path: Option<String>,
        normal: impl FnOnce(uuid::Uuid) -> Answer,
    ) -> Response {
        let Some(issued) = bearer(self.service, self.headers) else {
            return self.service.reply(self.named(unauthorized(self.headers)), self.headers);
        };
        let logged = match (path, decoded(&self.query)) {
            (Some(path), query) if query.is_empty() => path,
            (Some(path), query) => format!("{path}?{query}"),
            (None, query) => query,
        };
        let answer = || {
            let answer = match self.admit(endpoint) {
                Ok(()) => normal(issued.tenant),
                Err(refusal) => refusal,
            };
            self.named(answer)
        };
        self.service.serve(issued.tenant, endpoint, logged, self.headers, answer).await
    }

    /// Looks the token up again, because it may have expired during a delayed request.
    fn admit(&self, endpoint: Endpoint) -> Result<(), Answer> {
        if let Some(status) = self.service.world.retired(Source::Graph) {
            return Err(self.refusal(status, "Gone", "This API was retired."));
        }
        let now = self.service.world.now();
        match bearer(self.service, self.headers) {
            Some(issued) if issued.revoked || issued.expires <= now => {
                Err(unauthorized(self.headers))
            }
            Some(issued) if !issued.roles.graph => {
                let required = match endpoint {
                    Endpoint::GraphAlerts => {
                        "SecurityAlert.Read.All,SecurityAlert.ReadWrite.All,SecurityIncident.Read.All,SecurityIncident.ReadWrite.All"
                    }
                    _ => "SecurityIncident.Read.All,SecurityIncident.ReadWrite.All",
                };
                let text = format!(
                    "Missing application roles. API required roles: {required}, application roles: {}.",
                    issued.roles.names().join(",")
                );
                Err(self.refusal(403, "Forbidden", &text))
            }
            Some(_) => Ok(()),
            None => Err(unauthorized(self.headers)),
        }
    }

    fn refusal(&self, status: u16, code: &str, message: &str) -> Answer {
        Answer::new(status, graph_error(code, message, client_request_id(self.headers)))
    }

    /// The rejection of a query by Graph itself, whose code is empty.
    fn invalid(&self, reason: &str) -> Answer {
        let text = format!("The query specified in the URI is not valid. {reason}");
        self.refusal(400, "", &text)
    }

    fn not_found(&self) -> Answer {
        self.refusal(404, "NotFound", "The requested resource was not found.")
    }

    /// The service's reply when it cannot assemble a response.
    fn poisoned(&self) -> Answer {
        self.refusal(500, "InternalServerError", "")
    }

    /// Adds the headers that a support request needs.
    fn named(&self, mut answer: Answer) -> Answer {
        let client = client_request_id(self.headers).unwrap_or(REQUEST_ID);
        answer.headers.extend([
            ("request-id".to_owned(), REQUEST_ID.to_owned()),
            ("client-request-id".to_owned(), client.to_owned()),
        ]);
        answer
    }

    fn variant(&self, tenant: &Tenant) -> Variant {
        let preferred = self.headers.get_all("prefer").iter();
        let mut preferences = preferred.filter_map(|value| value.to_str().ok());
        Variant {
            tenant: tenant.spec.id,
            behaviour: tenant.spec.graph,
            asks_for_new_members: preferences
                .any(|value| value.contains("include-unknown-enum-members")),
        }
    }

    fn base(&self) -> &'a str {
        self.service.base.as_str()
    }

    /// The list response with these rows.
    fn page(&self, list: &List, query: &Query, page: Page) -> Answer {
        let context = match (query.expands, &query.select) {
            (true, _) => "security/incidents(alerts())".to_owned(),
            (false, Some(names)) => {
                format!("{}({})", context_of(list), names.join(","))
            }
            (false, None) => context_of(list).to_owned(),
        };
        let mut head = fields::Fields::new()
            .with("@odata.context", format!("{}v1.0/$metadata#{context}", self.base()));
        if let Some(count) = page.count {
            head = head.with("@odata.count", count);
        }
        // A full page has a link even if it is the last one.
        if page.may_link
            && page.rows.len() == query.top
            && let Some(link) = query.next_link(self.base(), list, page.behaviour.next_link)
        {
            head = head.with("@odata.nextLink", link);
        }
        if query.select.is_none() {
            let tip = "Use $select to choose only the properties your app needs, as this can lead to performance improvements.";
            head = head.with("@microsoft.graph.tips", tip);
        }
        let mut rows = page.rows;
        if page.behaviour.partial {
            // A provider failed: every other row is missing.
            let mut is_kept = false;
            rows.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
        let mut body = head.unclosed().into_bytes();
        body.extend_from_slice(br#","value":["#);
        body.reserve(rows.iter().map(|row| row.len() + 1).sum::<usize>() + 2);
        for (place, row) in rows.into_iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&query.select(row));
        }
        body.extend_from_slice(b"]}");
        let mut answer = json(body);
        if page.behaviour.partial {
            answer.status = 206;
            let warning = "199 - \"Microsoft/Defender/504/10000\"".to_owned();
            answer.headers.push(("Warning".to_owned(), warning));
        }
        answer
    }

    /// One row after its context.
    fn entity(&self, context: &str, row: &[u8]) -> Answer {
        let head =
            format!(r#"{{"@odata.context":"{}v1.0/$metadata#{context}/$entity","#, self.base());
        match row.strip_prefix(b"{") {
            Some(rest) => json([head.as_bytes(), rest].concat()),
            None => json(row.to_vec()),
        }
    }
}

/// The rows of a list response and their annotations.
struct Page {
    rows: Vec<Vec<u8>>,
    count: Option<usize>,
    may_link: bool,
    behaviour: GraphBehaviour,
}

fn context_of(list: &List) -> &str {
    list.path.strip_prefix("v1.0/").unwrap_or(&list.path)
}

fn json(body: Vec<u8>) -> Answer {
    Answer {
        headers: vec![
            (
                "Content-Type".to_owned(),
                "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8".to_owned(),
            ),
            ("OData-Version".to_owned(), "4.0".to_owned()),
        ],
        ..Answer::new(200, body)
    }
}

/// Graph's 401.
pub(super) fn unauthorized(request: &HeaderMap) -> Answer {
    let text = "Lifetime validation failed, the token is expired.";
    Answer::new(401, graph_error("InvalidAuthenticationToken", text, client_request_id(request)))
}

fn client_request_id(request: &HeaderMap) -> Option<&str> {
    request.get(CLIENT_REQUEST_ID)?.to_str().ok()
}
