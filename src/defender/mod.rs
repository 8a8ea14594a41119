//! The Defender incidents API: one GET.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Client, Url};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::entra::Tenant;
use crate::entra::Token;
use crate::entra::claims::TokenCheck;
use crate::error::{Peer, SyncError};
use crate::http_client;
use crate::incident::text::page;
use crate::tenant::Source;

use crate::incident::paging::Request;

/// A page that inflates beyond this is an error, not an out-of-memory.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Four times what a page of a hundred incidents usually has. Many of these may be in memory at once.
pub const ORDINARY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Documented limits for listing incidents (`api-list-incidents.md`), by tenant and app.
pub const CALLS_PER_MINUTE: u32 = 50;
/// See [`CALLS_PER_MINUTE`].
pub const CALLS_PER_HOUR: u32 = 1_500;
/// The API's clock and the database's may differ by so much. Time synchronisation keeps both within seconds; a day leaves room
/// for a machine that takes local time for UTC, and is far less than the first windows of a backfill, which a wrong clock could
/// pass over.
const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::days(1);

/// A page as it came, split into its incidents.
#[derive(Debug)]
pub struct Page {
    text: String,
    incidents: Vec<Range<usize>>,
    permit: Option<LargePagePermit>,
    /// The server's continuation; it leads to the configured host.
    pub next_link: Option<String>,
    /// The server's clock.
    pub server_time: DateTime<Utc>,
    /// The incident that was asked for alone was served, but its alerts were not, for this reason.
    pub alerts_failure: Option<SyncError>,
    /// The database's clock before the request: no watermark may lie beyond it.
    pub asked_at: Option<DateTime<Utc>>,
}

impl Page {
    /// The text of each incident, in the order served.
    pub fn incidents(&self) -> impl Iterator<Item = &str> {
        self.incidents.iter().map(|range| &self.text[range.clone()])
    }

    /// Whether another page like this must wait until this one is gone from memory.
    pub fn is_large(&self) -> bool {
        self.permit.is_some()
    }
}

/// The right to have a large page in memory: there is one of them, whatever the tenants send.
#[derive(Debug)]
pub struct LargePagePermit {
    _permit: OwnedSemaphorePermit,
}

/// The API for all tenants.
#[derive(Debug)]
pub struct DefenderClient {
    client: Client,
    large: Arc<Semaphore>,
    clock_skew_max: TimeDelta,
}

impl DefenderClient {
    /// Works with this client.
    pub fn new(client: Client) -> Self {
        Self { client, large: Arc::new(Semaphore::new(1)), clock_skew_max: CLOCK_SKEW_MAX }
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

    /// Gets one page; one that is not of ordinary size only into a `large_page_permit`, which goes with the answer.
    pub async fn page(
        &self,
        tenant: &Tenant,
        token: &Token,
        request: &Request,
        permit: Option<LargePagePermit>,
    ) -> Result<Page, SyncError> {
        let url = match &request.link {
            Some(link) => same_origin(link, &tenant.endpoints.base_url)?,
            None => page_url(&tenant.endpoints.base_url, request),
        };
        let sent = self
            .client
            .get(url)
            .bearer_auth(token.bearer())
            .header("Accept", "application/json")
            .send()
            .await;
        let response = sent.map_err(|error| http_client::transport(Peer::Defender, error))?;
        let status = response.status();
        metrics::counter!("incident_sync_api_calls_total", "status" => status.as_u16().to_string())
            .increment(1);
        if status.is_redirection() {
            return Err(SyncError::Redirected { peer: Peer::Defender, status: status.as_u16() });
        }
        let retry_after = http_client::retry_after(response.headers());
        let server_time = http_client::server_time(response.headers());
        let bytes_max = if permit.is_some() { BODY_BYTES_MAX } else { ORDINARY_BYTES_MAX };
        if !status.is_success() {
            let body = http_client::read_refusal(response, Peer::Defender).await?;
            return Err(refusal(status.as_u16(), &body, retry_after, token.check()));
        }
        let text = http_client::read_text(response, Peer::Defender, bytes_max).await?;
        let server_time = server_time
            .ok_or_else(|| SyncError::ApiReply { what: "it has no Date header".to_owned() })?;
        let permit = permit.filter(|_| text.len() > ORDINARY_BYTES_MAX);
        Ok(Page { permit, ..read_page(text, server_time, &tenant.endpoints.base_url)? })
    }
}

fn page_url(base: &Url, request: &Request) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/api/incidents", base.path().trim_end_matches('/')));
    let mut query = url.query_pairs_mut();
    if let Some(filter) = request.window.filter(Source::Defender) {
        query.append_pair("$filter", &filter);
    }
    query.append_pair("$top", &request.top.to_string());
    if request.skip > 0 {
        query.append_pair("$skip", &request.skip.to_string());
    }
    drop(query);
    url
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

fn read_page(text: String, server_time: DateTime<Utc>, base: &Url) -> Result<Page, SyncError> {
    let page = page::split(&text).map_err(|what| SyncError::ApiReply { what })?;
    let range = |incident: &str| {
        let start = incident.as_ptr() as usize - text.as_ptr() as usize;
        start..start + incident.len()
    };
    let incidents = page.incidents.iter().map(|raw| range(raw.get())).collect();
    let next_link =
        page.next_link.map(|link| same_origin(&link, base).map(String::from)).transpose()?;
    Ok(Page {
        incidents,
        next_link,
        server_time,
        text,
        permit: None,
        alerts_failure: None,
        asked_at: None,
    })
}

/// Source: `MicrosoftDocs/defender-docs`, `api-error-codes.md`. The message is free text and stays out.
fn refusal(status: u16, body: &str, retry_after: Option<Duration>, check: TokenCheck) -> SyncError {
    let error = http_client::field(body, "error").map_or("", RawValue::get);
    let word = |key: &str| http_client::word(error, key);
    let code = word("code");
    let lacks_role = status == 403 && check == TokenCheck::RoleMissing;
    let hint = if lacks_role { "; the token's roles lack Incident.Read.All" } else { "" };
    // The API names the reason of each refusal; a proxy's page does not. The statuses that are left out say enough.
    let is_foreign = code.is_empty()
        && !lacks_role
        && matches!(status, 400..=499)
        && !matches!(status, 401 | 408 | 429);
    if is_foreign {
        return SyncError::ApiReply {
            what: format!("status {status} without an error of the API"),
        };
    }
    SyncError::Api { status, code, target: word("target"), retry_after, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Owner;
    use crate::incident::window::Window;
    use crate::mutate::{Json, Random, each_seed, garbled};

    fn base() -> Url {
        "https://api.security.microsoft.com/".parse().unwrap()
    }

    #[test]
    fn request_url_encodes_filter_and_paging() {
        let from = Some("2026-01-02T03:04:05Z".parse().unwrap());
        let window = Window { from, to: None, status: None };
        let request = Request { window, skip: 99, top: 100, ..Request::probe() };
        let expected = "https://api.security.microsoft.com/api/incidents?%24filter=lastUpdateTime+ge+2026-01-02T03%3A04%3A05Z&%24top=100&%24skip=99";
        assert_eq!(page_url(&base(), &request).as_str(), expected);
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
    fn error_reply_becomes_code_target_and_class() {
        let body = include_str!("../../tests/data/defender_docs_error_resource_not_found.json");
        let SyncError::Api { status, code, target, .. } =
            refusal(404, body, None, TokenCheck::Valid)
        else {
            panic!("wrong kind")
        };
        assert_eq!(
            (status, code.as_str(), target.as_str()),
            (404, "ResourceNotFound", "43f4cb08-8fac-4b65-9db1-745c2ae65f3a")
        );
        for status in [400, 403, 404] {
            for body in ["", "<html>blocked by policy</html>", "{}", r#"{"error":"blocked"}"#] {
                let diagnosis = refusal(status, body, None, TokenCheck::Valid).diagnosis();
                assert_eq!(
                    (diagnosis.class.as_str(), diagnosis.owner),
                    ("bad_reply", Owner::Nobody),
                    "{status} {body}"
                );
            }
        }
        for status in [401, 408, 429, 500, 502] {
            assert!(
                matches!(refusal(status, "<html>", None, TokenCheck::Valid), SyncError::Api { .. }),
                "{status}"
            );
        }
        let SyncError::Api { hint, .. } = refusal(403, "<html>", None, TokenCheck::RoleMissing)
        else {
            panic!("wrong kind")
        };
        assert!(hint.contains("Incident.Read.All"));
    }

    #[test]
    fn any_error_reply_is_short_and_printable() {
        let documented =
            Json::of(include_str!("../../tests/data/defender_docs_error_resource_not_found.json"));
        let mut read = 0;
        each_seed(1_000, |seed| {
            let mut random = Random::new(seed);
            let status = 300 + u16::try_from(random.below(300)).unwrap();
            let body = documented.mutated(&mut random).to_string();
            for body in [&body, &garbled(&body, &mut random)] {
                let error = refusal(status, body, None, TokenCheck::Valid);
                let told = error.to_string();
                assert!(told.chars().count() < 250 && !told.contains(char::is_control), "{told:?}");
                error.diagnosis();
                read += usize::from(told.contains("ResourceNotFound"));
            }
        });
        assert!(read > 0, "no error word was read");
    }

    #[test]
    fn malformed_error_field_hides_no_other() {
        let body = r#"{"error":{"code":"A\u0000B\nC","target":7},"error":{"code":"A\u0000B\nC","target":[7]}}"#;
        let SyncError::Api { code, target, .. } = refusal(400, body, None, TokenCheck::Valid)
        else {
            panic!("wrong kind")
        };
        assert_eq!((code.as_str(), target.as_str()), ("ABC", ""));
    }

    #[test]
    fn any_page_links_to_own_origin_only() {
        let page = Json::of(
            r#"{"value":[{"incidentId":1}],"@odata.nextLink":"/api/incidents?$skip=100"}"#,
        );
        each_seed(1_000, |seed| {
            let mut random = Random::new(seed);
            let text = page.mutated(&mut random).to_string();
            let garbled = garbled(&text, &mut random);
            for text in [text, garbled] {
                let Ok(answer) = read_page(text, DateTime::UNIX_EPOCH, &base()) else { continue };
                let foreign = answer
                    .next_link
                    .filter(|link| !link.starts_with("https://api.security.microsoft.com/"));
                assert_eq!(foreign, None);
            }
        });
    }
}
