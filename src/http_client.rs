//! The one HTTP client: no redirects, no implicit proxy, a deadline for each exchange, a limit for each body.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::tls::TlsInfo;
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Response, Url};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{ConnectionFault, Peer, SyncError, causes, shown};

/// Time limits of an exchange.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To connect, TLS included.
    pub connect: Duration,
    /// For a whole exchange. A peer that drips never meets a read timeout; only the total ends it.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), total: Duration::from_secs(60) }
    }
}

/// Below the idle timeouts of load balancers, so that requests rarely meet a connection that they have closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(45);

/// The network path to Microsoft.
#[derive(Clone, Default)]
pub struct Route {
    /// The proxy to use.
    pub proxy: ProxyChoice,
    /// Trusted authorities, in addition to the system's.
    pub authorities: Vec<Certificate>,
}

/// The choice of a proxy.
#[derive(Clone, Default)]
pub enum ProxyChoice {
    /// None, also if the environment names one.
    #[default]
    None,
    /// That of `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    Environment,
    /// A configured one.
    At {
        /// Its URL may contain the password.
        proxy: Box<Proxy>,
        /// Host and port, free of secrets.
        address: (String, u16),
    },
}

/// Leaves out the proxy, whose URL may contain a password.
impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let proxy = match self.proxy {
            ProxyChoice::None => "none",
            ProxyChoice::Environment => "environment",
            ProxyChoice::At { .. } => "configured",
        };
        write!(f, "Route {{ proxy: {proxy}, authorities: {} }}", self.authorities.len())
    }
}

/// A client with the default deadlines, without a proxy.
pub fn client() -> Client {
    client_within(Deadlines::default())
}

/// A client with other deadlines, for tests that wait for one.
pub fn client_within(deadlines: Deadlines) -> Client {
    client_on(&Route::default(), deadlines)
}

/// A client for this network path.
///
/// # Panics
/// Never in practice: the options are constants, or validated with the configuration.
pub fn client_on(route: &Route, deadlines: Deadlines) -> Client {
    builder(route, deadlines).build().expect(BUILDS)
}

/// Whether a client can trust these authorities: reading their PEM does not check what is inside.
pub(crate) fn client_builds_with(authorities: &[Certificate]) -> bool {
    let route = Route { authorities: authorities.to_vec(), ..Route::default() };
    builder(&route, Deadlines::default()).build().is_ok()
}

/// A client that keeps the certificate of the peer, for the doctor.
///
/// # Panics
/// Never in practice, see [`client_on`].
pub(crate) fn probe_client(route: &Route, deadlines: Deadlines) -> Client {
    builder(route, deadlines).tls_info(true).build().expect(BUILDS)
}

/// For TLS, in the whole process. Only the first call has an effect.
pub(crate) fn install_cryptography() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

const BUILDS: &str = "the options are constants or validated";

fn builder(route: &Route, deadlines: Deadlines) -> ClientBuilder {
    install_cryptography();
    let builder = match &route.proxy {
        ProxyChoice::None => Client::builder().no_proxy(),
        ProxyChoice::Environment => Client::builder(),
        ProxyChoice::At { proxy, .. } => Client::builder().proxy(Proxy::clone(proxy)),
    };
    builder
        .tls_certs_merge(route.authorities.iter().cloned())
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("incident-sync/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(deadlines.connect)
        .timeout(deadlines.total)
        .pool_idle_timeout(IDLE_CONNECTION)
        .tcp_keepalive(Duration::from_secs(30))
}

/// Facts from any answer of a host.
pub(crate) struct HostProbe {
    /// Its clock.
    pub(crate) server_time: Option<DateTime<Utc>>,
    /// Its certificate, if it uses TLS.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Sends a request without secrets. Any answer shows that the host is reachable.
pub(crate) async fn probe_host(
    client: &Client,
    url: Url,
    peer: Peer,
) -> Result<HostProbe, SyncError> {
    let response = client.get(url).send().await.map_err(|error| transport(peer, error))?;
    let tls = response.extensions().get::<TlsInfo>();
    let certificate = tls.and_then(TlsInfo::peer_certificate).map(<[u8]>::to_vec);
    Ok(HostProbe { server_time: server_time(response.headers()), certificate })
}

/// A failed exchange without its URL, which may contain a secret.
pub(crate) fn transport(peer: Peer, error: reqwest::Error) -> SyncError {
    if error.is_timeout() {
        return SyncError::Timeout { peer };
    }
    let kind = if error.is_connect() {
        "no connection"
    } else if error.is_decode() || error.is_body() {
        "the body is incomplete or does not decompress"
    } else {
        "the exchange failed"
    };
    let error = error.without_url();
    let cause = causes(&error).skip(1).last().map(ToString::to_string);
    let kind = match causes(&error).find_map(|cause| cause.downcast_ref::<TunnelError>()) {
        Some(TunnelError::ProxyAuthRequired) => {
            return SyncError::Proxy { peer, wants_password: true };
        }
        Some(TunnelError::TunnelUnsuccessful | TunnelError::ProxyHeadersTooLong) => {
            return SyncError::Proxy { peer, wants_password: false };
        }
        Some(_) => "no connection to the proxy",
        None => kind,
    };
    let fault = ConnectionFault::of_tls(&error);
    let mut what = cause.map_or_else(|| kind.to_owned(), |cause| format!("{kind}: {cause}"));
    if fault == Some(ConnectionFault::UnknownIssuer) {
        what.push_str(". Behind a TLS-inspecting proxy set http_client.ca_file");
    }
    SyncError::Transport { peer, what, fault }
}

/// The error of a proxy's tunnel. The HTTP library exports the type only as that of its service.
type TunnelError = <Tunnel<HttpConnector> as tower_service::Service<hyper::Uri>>::Error;

/// Reads a body as text, at most `bytes_max` bytes after decompression. Invalid UTF-8 is replaced.
pub(crate) async fn read_text(
    mut response: Response,
    peer: Peer,
    bytes_max: usize,
) -> Result<String, SyncError> {
    let announced =
        response.content_length().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let mut body = Vec::with_capacity(announced.min(bytes_max));
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(peer, error))? {
        if body.len() + chunk.len() > bytes_max {
            return Err(SyncError::BodyTooLarge { peer, bytes_max });
        }
        body.extend_from_slice(&chunk);
    }
    match String::from_utf8(body) {
        Ok(text) => Ok(text),
        Err(error) => {
            repaired(error.as_bytes(), bytes_max).ok_or(SyncError::BodyTooLarge { peer, bytes_max })
        }
    }
}

/// The text with each invalid sequence replaced; `None` if that is more than `bytes_max`: U+FFFD is three times as long as the
/// byte that it replaces.
fn repaired(body: &[u8], bytes_max: usize) -> Option<String> {
    let replacement =
        |chunk: &std::str::Utf8Chunk<'_>| if chunk.invalid().is_empty() { "" } else { "\u{fffd}" };
    let length: usize =
        body.utf8_chunks().map(|chunk| chunk.valid().len() + replacement(&chunk).len()).sum();
    if length > bytes_max {
        return None;
    }
    let mut text = String::with_capacity(length);
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.push_str(replacement(&chunk));
    }
    Some(text)
}

/// Microsoft's errors have a few hundred bytes; the rest of a longer one is not read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Reads the beginning of an error's body. An incomplete body is accepted, because the status is known.
pub(crate) async fn read_refusal(mut response: Response, peer: Peer) -> Result<String, SyncError> {
    let mut body = Vec::new();
    while body.len() < REFUSAL_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                body.extend_from_slice(&chunk[..chunk.len().min(REFUSAL_BYTES_MAX - body.len())]);
            }
            Err(error) if error.is_timeout() => return Err(transport(peer, error)),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The value of this field of a JSON object, the last one if it is repeated. Other values are not decoded, and reading ends at
/// the first syntax error.
pub(crate) fn field<'a>(json: &'a str, name: &str) -> Option<&'a RawValue> {
    fields(json, name).pop()
}

/// Every value of this field of a JSON object.
pub(crate) fn fields<'a>(json: &'a str, name: &str) -> Vec<&'a RawValue> {
    struct Fields<'n, 'a>(&'n str, &'n mut Vec<&'a RawValue>);
    impl<'de> Visitor<'de> for Fields<'_, 'de> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<String>()? {
                if key == self.0 {
                    self.1.push(object.next_value()?);
                } else {
                    object.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }
    let mut found = Vec::new();
    drop(serde_json::Deserializer::from_str(json).deserialize_map(Fields(name, &mut found)));
    found
}

/// A text field of a JSON object, safe to show; empty if it is missing or not text.
pub(crate) fn word(json: &str, name: &str) -> String {
    let text = field(json, name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    shown(&text.unwrap_or_default())
}

/// The header `Date`.
pub(crate) fn server_time(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    header_date(headers.get(DATE)?.to_str().ok()?).map(DateTime::from)
}

/// `Retry-After`: seconds, or a date relative to the server's own clock. A past date is a pause of zero.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let server = headers.get(DATE).and_then(|date| header_date(date.to_str().ok()?));
    pause(text, server.unwrap_or_else(SystemTime::now))
}

fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(header_date(text)?.duration_since(now).unwrap_or_default())
}

fn header_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;
    use crate::error::{Retry, SyncError};

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        let now = header_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        assert_eq!(pause("17", now), Some(Duration::from_secs(17)));
        assert_eq!(pause("Mon, 23 Nov 2026 10:01:30 GMT", now), Some(Duration::from_secs(90)));
        assert_eq!(pause("Mon, 23 Nov 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        for garbage in ["", "soon", "-5", "1.5", "99999999999999999999"] {
            assert_eq!(pause(garbage, now), None, "{garbage}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_requested_pause_is_obeyed_but_bounded(
            header in "[0-9]{1,25}|-?[0-9.e+]{1,9}|(Mon|Sun), [0-3][0-9] (Nov|Feb) [0-9]{4} [0-9:]{8} GMT|.{0,30}",
            date in "(Mon, 23 Nov [0-9]{4} 10:00:00 GMT)?",
            server_time in any::<i32>(),
        ) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(server_time.unsigned_abs()));
            let seconds = header.trim().parse::<u64>().ok();
            if let Some(seconds) = seconds {
                prop_assert_eq!(pause(header.trim(), now), Some(Duration::from_secs(seconds)));
            }
            let mut headers = HeaderMap::new();
            for (name, text) in [(RETRY_AFTER, &header), (DATE, &date)] {
                headers.extend(HeaderValue::from_str(text).ok().map(|value| (name, value)));
            }
            let asked = retry_after(&headers);
            let refused = |status| {
                let (code, target, hint) = (String::new(), String::new(), String::new());
                SyncError::Api { status, code, target, retry_after: asked, hint }
            };
            let Retry::After(wait) = refused(429).diagnosis().retry else { panic!("a 429 is a pause") };
            prop_assert!(wait <= Duration::from_secs(6 * 3600), "{wait:?} for {header}");
            prop_assert!(asked.is_none_or(|asked| wait <= asked), "{wait:?} for {header}");
            if let Retry::After(wait) = refused(503).diagnosis().retry {
                prop_assert!(wait <= Duration::from_secs(6 * 3600));
            }
        }
    }
}
