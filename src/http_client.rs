//! The one HTTP client: no redirects, no proxy by surprise, deadlines everywhere, bodies with a cap.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::tls::TlsInfo;
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Response, Url};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Peer, SyncError, shown};

/// How long peers may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To connect, TLS included.
    pub connect: Duration,
    /// For a whole exchange. A slow drip keeps a read timeout happy for ever; only the total ends it.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), total: Duration::from_secs(60) }
    }
}

/// Below the idle timeouts of the load balancers on the way, so that we rarely write to a connection they have closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(45);

/// How Microsoft is reached from this network.
#[derive(Clone, Default)]
pub struct Route {
    /// The proxy on the way.
    pub proxy: ProxyChoice,
    /// Authorities that are trusted besides the system's.
    pub authorities: Vec<Certificate>,
}

/// Which proxy is used.
#[derive(Clone, Default)]
pub enum ProxyChoice {
    /// None, whatever the environment says.
    #[default]
    None,
    /// That of `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    Environment,
    /// This one.
    At {
        /// Its password is in the URL.
        proxy: Box<Proxy>,
        /// Where it listens: host and port, without anything secret.
        address: (String, u16),
    },
}

/// Without the proxy, whose URL may hold a password.
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

/// The client with our deadlines, without a proxy.
pub fn client() -> Client {
    client_within(Deadlines::default())
}

/// Builds the client; tests that wait for a deadline bring their own.
pub fn client_within(deadlines: Deadlines) -> Client {
    client_on(&Route::default(), deadlines)
}

/// Builds the client for a network.
///
/// # Panics
/// Never in practice: the options are constants, and the configuration checked the rest.
pub fn client_on(route: &Route, deadlines: Deadlines) -> Client {
    builder(route, deadlines).build().expect(BUILDS)
}

/// Whether a client can be built that trusts these authorities: what is inside their armour is not looked at before.
pub(crate) fn client_builds_with(authorities: &[Certificate]) -> bool {
    let route = Route { authorities: authorities.to_vec(), ..Route::default() };
    builder(&route, Deadlines::default()).build().is_ok()
}

/// The same for the doctor, who looks at certificates.
///
/// # Panics
/// Never in practice, see [`client_on`].
pub(crate) fn probe_client(route: &Route, deadlines: Deadlines) -> Client {
    builder(route, deadlines).tls_info(true).build().expect(BUILDS)
}

/// For TLS, in the whole process. A second call finds it installed already, which is what it wants.
pub(crate) fn install_cryptography() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

const BUILDS: &str = "the configuration checked what is not constant";

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

/// What a host shows in any answer.
pub(crate) struct HostProbe {
    /// Its clock.
    pub(crate) server_time: Option<DateTime<Utc>>,
    /// Its certificate, where TLS is spoken.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Asks a host for anything: whatever it answers shows that it is there. Nothing secret goes along.
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

/// A failed exchange without its URL, which may hold what does not belong into a log.
pub(crate) fn transport(peer: Peer, error: reqwest::Error) -> SyncError {
    if error.is_timeout() {
        return SyncError::Timeout { peer };
    }
    let kind = match &error {
        error if error.is_connect() => "no connection",
        error if error.is_decode() || error.is_body() => "the body broke off or does not inflate",
        _ => "the exchange failed",
    };
    let error = error.without_url();
    let causes =
        || std::iter::successors(std::error::Error::source(&error), |error| error.source());
    let cause = causes().last();
    let tunnel = causes()
        .map(ToString::to_string)
        .find_map(|cause| cause.strip_prefix(TUNNEL).map(str::to_owned));
    if let Some(what) = tunnel {
        return no_tunnel(peer, &what, cause.map(ToString::to_string));
    }
    let mut what = cause.map_or_else(|| kind.to_owned(), |cause| format!("{kind}: {cause}"));
    if what.contains("UnknownIssuer") {
        what.push_str(
            "; if a proxy of yours signs in its place, name its authority in http_client.ca_file",
        );
    }
    SyncError::Transport { peer, what }
}

/// How the HTTP library begins to tell of a proxy.
const TUNNEL: &str = "tunnel error: ";

fn no_tunnel(peer: Peer, what: &str, cause: Option<String>) -> SyncError {
    match what {
        "proxy authorization required" => {
            SyncError::Proxy { peer, what: "407".to_owned(), wants_password: true }
        }
        "unsuccessful" | "proxy response headers too long" => SyncError::Proxy {
            peer,
            what: "it did not connect us".to_owned(),
            wants_password: false,
        },
        _ => SyncError::Transport {
            peer,
            what: format!("no connection to the proxy: {}", cause.unwrap_or_default()),
        },
    }
}

/// Reads a body as text, counting what comes out of the inflater: a bomb ends at the limit. Invalid UTF-8 is replaced.
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

/// The text with each invalid sequence replaced; `None` where that is more than `bytes_max`: U+FFFD is three times as long as
/// the byte that it replaces.
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

/// Errors of Microsoft's have a few hundred bytes; no more than this is read of one.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Reads the beginning of a body that is no success. One that breaks off says less, and its status is known all the same.
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

/// The value of this field of a JSON object, the last one if it is repeated; no other is decoded, and what follows a fault in
/// the text is not read.
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

/// A text field of a JSON object, as it may be shown; empty where it is anything else.
pub(crate) fn word(json: &str, name: &str) -> String {
    let text = field(json, name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    shown(&text.unwrap_or_default())
}

/// The server's clock.
pub(crate) fn server_time(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    header_date(headers.get(DATE)?.to_str().ok()?).map(DateTime::from)
}

/// `Retry-After`: seconds, or a date that is compared with the server's own clock. A past date is no pause.
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
    fn a_pause_is_read_in_both_forms() {
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
        fn any_pause_is_obeyed_for_a_while_that_ends(
            told in "[0-9]{1,25}|-?[0-9.e+]{1,9}|(Mon|Sun), [0-3][0-9] (Nov|Feb) [0-9]{4} [0-9:]{8} GMT|.{0,30}",
            date in "(Mon, 23 Nov [0-9]{4} 10:00:00 GMT)?",
            server_time in any::<i32>(),
        ) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(server_time.unsigned_abs()));
            let seconds = told.trim().parse::<u64>().ok();
            if let Some(seconds) = seconds {
                prop_assert_eq!(pause(told.trim(), now), Some(Duration::from_secs(seconds)));
            }
            let mut headers = HeaderMap::new();
            for (name, text) in [(RETRY_AFTER, &told), (DATE, &date)] {
                headers.extend(HeaderValue::from_str(text).ok().map(|value| (name, value)));
            }
            let asked = retry_after(&headers);
            let refused = |status| {
                let (code, target, hint) = (String::new(), String::new(), String::new());
                SyncError::Api { status, code, target, retry_after: asked, hint }
            };
            let Retry::After(wait) = refused(429).diagnosis().retry else { panic!("a 429 is a pause") };
            prop_assert!(wait <= Duration::from_secs(6 * 3600), "{wait:?} for {told}");
            prop_assert!(asked.is_none_or(|asked| wait <= asked), "{wait:?} for {told}");
            if let Retry::After(wait) = refused(503).diagnosis().retry {
                prop_assert!(wait <= Duration::from_secs(6 * 3600));
            }
        }
    }
}
