//! The two incidents APIs: one GET at a time, each answer a page or a fact. What to ask is decided by the plan, what an error means
//! by `error`, and when to retry by `sync`.

use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::CONTENT_ENCODING;
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::entra::Tenant;
use crate::entra::Token;
use crate::error::{Peer, SyncError};
use crate::http_client::{self, Part};
use crate::incident::decode::key::{self, IncidentKey};
use crate::incident::paging::{Cut, Listing, Request};
use crate::incident::raw::ListedVersion;
use crate::incident::text::page;
use crate::tenant::Source;

mod defender;
mod graph;

/// A page that inflates beyond this is an error, not an out-of-memory.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Four times the usual size of a page of a hundred incidents. Many of these may be in memory at the same time.
pub const ORDINARY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The API's clock and the database's may differ by this much. NTP keeps both within seconds; a day leaves room for a machine
/// that takes local time for UTC, and is far less than the first windows of a backfill, which a wrong clock could skip.
const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::days(1);

/// A list as it came, split into its elements: incidents, or alerts.
#[derive(Debug)]
pub struct Page {
    text: String,
    elements: Vec<Range<usize>>,
    permit: Option<LargePagePermit>,
    /// The server's continuation; it leads to the configured host.
    pub next_link: Option<String>,
    /// The server's clock.
    pub server_time: DateTime<Utc>,
    /// The database's clock before the request: no watermark may lie beyond it.
    pub asked_at: Option<DateTime<Utc>>,
    /// Why the alerts of a single incident could not all be read although the incident was.
    pub alerts_failure: Option<SyncError>,
    /// Set if the list was longer than we take.
    pub cut: Option<Cut>,
}

impl Page {
    fn of_one(text: String, server_time: DateTime<Utc>) -> Self {
        let element = 0..text.len();
        Self {
            elements: vec![element],
            text,
            permit: None,
            next_link: None,
            server_time,
            asked_at: None,
            alerts_failure: None,
            cut: None,
        }
    }

    /// This page of one incident with the alerts of other pages put into it, as `$expand` would have done. The text is no object
    /// or has no room: the incident stays as it is, and the error says why.
    #[must_use]
    pub fn with_alerts(self, alerts: &[Self], permit: Option<LargePagePermit>) -> Self {
        let api = Source::Graph;
        let Some(head) = self.text.trim_end().strip_suffix('}') else {
            let what = "the incident is not a JSON object".to_owned();
            return Self { alerts_failure: Some(SyncError::ApiReply { api, what }), ..self };
        };
        let bytes: usize = alerts.iter().map(|page| page.text.len()).sum();
        if head.len() + bytes > BODY_BYTES_MAX {
            let peer = Peer::from(api);
            let error = SyncError::BodyTooLarge { peer, bytes_max: BODY_BYTES_MAX };
            return Self { alerts_failure: Some(error), ..self };
        }
        let listed: Vec<&str> = alerts.iter().flat_map(Self::elements).collect();
        let comma = if head.trim_end().ends_with('{') { "" } else { "," };
        let text = format!("{head}{comma}\"alerts\":[{}]}}", listed.join(","));
        let permit = permit.filter(|_| text.len() > ORDINARY_BYTES_MAX);
        let Self { server_time, asked_at, alerts_failure, .. } = self;
        Self { permit, asked_at, alerts_failure, ..Self::of_one(text, server_time) }
    }

    /// The bytes of the text, as a measure of the memory that it takes.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// The text of each element, in the order served.
    pub fn elements(&self) -> impl Iterator<Item = &str> {
        self.elements.iter().map(|range| &self.text[range.clone()])
    }

    /// Whether another page like this must wait until this one is gone from memory.
    pub fn is_large(&self) -> bool {
        self.permit.is_some()
    }
}

/// A request to the tenant's source.
#[derive(Debug, Clone, Copy)]
pub enum Query<'a> {
    /// A page of the list.
    List(&'a Request),
    /// One incident of Graph with its alerts.
    WholeIncident(i64),
    /// One incident of Graph without its alerts.
    Incident(i64),
    /// A page of the alerts of one incident of Graph, the first one without a link.
    IncidentAlerts { id: i64, link: Option<&'a str> },
}

/// The right to have a large page in memory: there is one of them, whatever the tenants send.
#[derive(Debug)]
pub struct LargePagePermit {
    _permit: OwnedSemaphorePermit,
}

/// Both APIs for all tenants.
#[derive(Debug)]
pub struct ApiClient {
    client: Client,
    large: Arc<Semaphore>,
    clock_skew_max: TimeDelta,
    body_bytes_max: usize,
}

impl ApiClient {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            large: Arc::new(Semaphore::new(1)),
            clock_skew_max: CLOCK_SKEW_MAX,
            body_bytes_max: BODY_BYTES_MAX,
        }
    }

    /// The same that takes less of one answer, for tests.
    #[must_use]
    pub fn with_body_bytes_max(self, body_bytes_max: usize) -> Self {
        Self { body_bytes_max, ..self }
    }

    /// The same with another limit, for tests whose service lives at a time of its own.
    #[must_use]
    pub fn with_clock_skew_max(self, clock_skew_max: TimeDelta) -> Self {
        Self { clock_skew_max, ..self }
    }

    /// How far an answer's `Date` may be from the database's clock.
    pub fn clock_skew_max(&self) -> TimeDelta {
        self.clock_skew_max
    }

    /// Waits until no large page is in memory.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn large_page_permit(&self) -> LargePagePermit {
        let permit = Arc::clone(&self.large).acquire_owned().await;
        LargePagePermit { _permit: permit.expect("the semaphore is not closed") }
    }

    /// Asks the tenant's source once; an answer that is not of ordinary size is taken only into a `large_page_permit`, which goes
    /// with it.
    pub async fn page(
        &self,
        tenant: &Tenant,
        token: &Token,
        query: Query<'_>,
        permit: Option<LargePagePermit>,
    ) -> Result<Page, SyncError> {
        let base = &tenant.endpoints.base_url;
        let source = tenant.source();
        let url = match query {
            Query::List(Request { link: Some(link), .. }) => same_origin(link, base)?,
            Query::IncidentAlerts { link: Some(link), .. } => same_origin(link, base)?,
            Query::List(request) if source == Source::Graph => graph::page_url(base, request),
            Query::List(request) => defender::page_url(base, request),
            Query::WholeIncident(id) => graph::whole_incident_url(base, id),
            Query::Incident(id) => graph::incident_url(base, id),
            Query::IncidentAlerts { id, link: None } => graph::alerts_url(base, id),
        };
        let mut permit = permit;
        let may_grow = matches!(query, Query::List(_) | Query::WholeIncident(_));
        let (part, server_time) = self.get(tenant, token, url, &mut permit, may_grow).await?;
        if part.is_cut {
            let bytes_max = if permit.is_some() { self.body_bytes_max } else { ORDINARY_BYTES_MAX };
            let error = SyncError::BodyTooLarge { peer: Peer::from(source), bytes_max };
            return match query {
                Query::List(Request { listing: Listing::Incidents, .. }) if permit.is_some() => {
                    cut_page(part.text, server_time, source, bytes_max, permit).ok_or(error)
                }
                _ => Err(error),
            };
        }
        let text = part.text;
        let permit = permit.filter(|_| text.len() > ORDINARY_BYTES_MAX);
        let page = match query {
            Query::Incident(_) | Query::WholeIncident(_) => Page::of_one(text, server_time),
            Query::List(_) | Query::IncidentAlerts { .. } => {
                read_page(text, server_time, source, base)?
            }
        };
        let is_expanded = matches!(query, Query::List(_) | Query::WholeIncident(_));
        if source == Source::Graph && is_expanded && page.elements().any(key::has_more_alerts) {
            return Err(SyncError::PartialAlerts);
        }
        Ok(Page { permit, ..page })
    }

    /// One GET with the headers of the tenant's source; answers the body and the server's clock.
    async fn get(
        &self,
        tenant: &Tenant,
        token: &Token,
        url: Url,
        permit: &mut Option<LargePagePermit>,
        may_grow: bool,
    ) -> Result<(Part, DateTime<Utc>), SyncError> {
        let source = tenant.source();
        let peer = Peer::from(source);
        let request =
            self.client.get(url).bearer_auth(token.bearer()).header("Accept", "application/json");
        let request = match source {
            Source::Defender => request,
            Source::Graph => graph::headers(request),
        };
        let response = request.send().await.map_err(|error| http_client::transport(peer, error))?;
        let status = response.status();
        metrics::counter!(
            "incident_sync_api_calls_total",
            "source" => source.as_str(), "status" => status.as_u16().to_string()
        )
        .increment(1);
        if status.is_redirection() {
            return Err(SyncError::Redirected { peer, status: status.as_u16() });
        }
        if status != StatusCode::OK {
            return Err(refusal(response, source, token).await?);
        }
        // The client removes the header of what it decompresses; an encoding that it did not ask for stays.
        if response.headers().contains_key(CONTENT_ENCODING) {
            let what = "its Content-Encoding was not asked for; only gzip was".to_owned();
            return Err(SyncError::ApiReply { api: source, what });
        }
        let server_time = http_client::server_time(response.headers());
        let bytes_max = if permit.is_some() { self.body_bytes_max } else { ORDINARY_BYTES_MAX };
        // Where no other large page is in memory, this one need not be asked for again.
        let grow = || {
            if permit.is_none() && may_grow {
                *permit = Arc::clone(&self.large)
                    .try_acquire_owned()
                    .ok()
                    .map(|_permit| LargePagePermit { _permit });
            }
            permit.is_some().then_some(self.body_bytes_max)
        };
        let part = http_client::read_part(response, peer, bytes_max.min(self.body_bytes_max), grow)
            .await?;
        let server_time = server_time.ok_or_else(|| SyncError::ApiReply {
            api: source,
            what: "it has no Date header".to_owned(),
        })?;
        Ok((part, server_time))
    }
}

/// The whole incidents of a page that was longer than we take. If not even the first one is whole, what is known of it: its own
/// fields and its first alerts. `None` if there is nothing to use.
fn cut_page(
    text: String,
    server_time: DateTime<Utc>,
    source: Source,
    bytes_max: usize,
    permit: Option<LargePagePermit>,
) -> Option<Page> {
    let page::Beginning { elements, rest, .. } = page::beginning(&text, "value");
    let next = page::incident_before_cut(rest, ORDINARY_BYTES_MAX);
    let key = next.as_ref().map(|next| key::head(source, next));
    let cut = Some(Cut { next: key.as_ref().and_then(listed), bytes_max });
    if elements.is_empty() {
        let incident_id = key?.incident_id.filter(|_| source == Source::Defender)?;
        let alerts_failure = Some(SyncError::IncidentTooLarge { incident_id, bytes_max });
        return Some(Page { alerts_failure, cut, ..Page::of_one(next?, server_time) });
    }
    let begin = |element: &&RawValue| element.get().as_ptr() as usize - text.as_ptr() as usize;
    let elements: Vec<Range<usize>> =
        elements.iter().map(|raw| begin(raw)..begin(raw) + raw.get().len()).collect();
    Some(Page { elements, cut, permit, text, ..Page::of_one(String::new(), server_time) })
}

fn listed(key: &IncidentKey) -> Option<ListedVersion> {
    Some(ListedVersion { id: key.incident_id?, updated: Some(key.last_update_time?) })
}

/// The error behind an answer other than 200. A 206 of Graph is one: rows are missing in it.
async fn refusal(
    response: Response,
    source: Source,
    token: &Token,
) -> Result<SyncError, SyncError> {
    let status = response.status().as_u16();
    let retry_after = http_client::retry_after(response.headers());
    let body = http_client::read_refusal(response, Peer::from(source)).await?;
    Ok(match source {
        Source::Defender => defender::refusal(status, &body, retry_after, token.check()),
        Source::Graph => graph::refusal(status, &body, retry_after, token.check()),
    })
}

/// Whether the field `error` of a body is an object of the API.
fn is_error_object(error: &str) -> bool {
    ["code", "message"].iter().any(|name| http_client::field(error, name).is_some())
}

/// Whether the message of an error speaks of a licence or of provisioning. Only the answer is used: the text may hold names.
fn names_licence(error: &str) -> bool {
    let message = http_client::field(error, "message").map_or("", RawValue::get).to_lowercase();
    ["licen", "subscription", "not provisioned", "onboard"]
        .iter()
        .any(|word| message.contains(word))
}

/// Whether a body is a page, as a proxy sends it.
fn is_html(body: &str) -> bool {
    body.trim_start_matches('\u{feff}').trim_start().starts_with('<')
}

/// The token goes along with a link, so the link must lead to the configured scheme, host and port: compared as parsed,
/// because prefixes lie (`https://api.security.microsoft.com.evil.example/`).
fn same_origin(link: &str, base: &Url) -> Result<Url, SyncError> {
    let url = base
        .join(link)
        .map_err(|_| SyncError::ForeignNextLink { origin: "an unreadable address".to_owned() })?;
    if url.origin() == base.origin() && url.username().is_empty() && url.password().is_none() {
        return Ok(url);
    }
    Err(SyncError::ForeignNextLink { origin: url.origin().ascii_serialization() })
}

fn read_page(
    text: String,
    server_time: DateTime<Utc>,
    source: Source,
    base: &Url,
) -> Result<Page, SyncError> {
    let page = page::split(&text).map_err(|what| SyncError::ApiReply { api: source, what })?;
    let range = |element: &str| {
        let start = element.as_ptr() as usize - text.as_ptr() as usize;
        start..start + element.len()
    };
    let elements = page.incidents.iter().map(|raw| range(raw.get())).collect();
    let next_link =
        page.next_link.map(|link| same_origin(&link, base).map(String::from)).transpose()?;
    Ok(Page {
        elements,
        next_link,
        server_time,
        text,
        permit: None,
        asked_at: None,
        alerts_failure: None,
        cut: None,
    })
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::mutate::{Json, each_seed, garbled};

    fn base() -> Url {
        "https://api.security.microsoft.com/".parse().unwrap()
    }

    #[test]
    fn next_link_must_stay_on_the_configured_origin() {
        for link in
            ["/api/incidents?$skip=100", "https://api.security.microsoft.com/api/incidents?x=1"]
        {
            assert!(same_origin(link, &base()).is_ok(), "{link}");
        }
        let foreign = [
            "https://api.security.microsoft.com.evil.example/",
            "http://api.security.microsoft.com/",
            "https://api.security.microsoft.com:8443/",
            "https://api.security.microsoft.com@evil.example/",
            "https://user@api.security.microsoft.com/",
            "//evil.example/api",
            "https://",
        ];
        for link in foreign {
            assert!(
                matches!(same_origin(link, &base()), Err(SyncError::ForeignNextLink { .. })),
                "{link}"
            );
        }
    }

    #[test]
    fn any_page_links_to_own_origin_only() {
        let page = Json::of(
            r#"{"value":[{"incidentId":1}],"@odata.nextLink":"/api/incidents?$skip=100"}"#,
        );
        each_seed(1_000, |seed| {
            let mut random = Rng::with_seed(seed);
            let text = page.mutated(&mut random).to_string();
            let garbled = garbled(&text, &mut random);
            for text in [text, garbled] {
                let Ok(answer) = read_page(text, DateTime::UNIX_EPOCH, Source::Graph, &base())
                else {
                    continue;
                };
                let foreign = answer
                    .next_link
                    .filter(|link| !link.starts_with("https://api.security.microsoft.com/"));
                assert_eq!(foreign, None);
            }
        });
    }
}
