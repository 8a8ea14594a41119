//! The one HTTP client: no redirects, no implicit proxy, a deadline for each exchange, a limit for each body.

mod body;
mod headers;
mod route;

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use reqwest::tls::TlsInfo;
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Response, Url};

pub(crate) use body::{Part, field, fields, read_part, read_refusal, read_text, word};
pub(crate) use headers::{retry_after, server_time};
pub use route::{ProxyChoice, Route};

use crate::error::{ConnectionFault, Peer, SyncError, causes};

/// Time limits of an exchange.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To connect, TLS included.
    pub connect: Duration,
    /// For a whole exchange. A read timeout would never end a peer that sends single bytes.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), total: Duration::from_secs(60) }
    }
}

/// Below the idle timeouts of load balancers, so that requests rarely meet a connection that they have closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(45);

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

/// Selects the cryptography of TLS for the whole process. Only the first call has an effect.
pub(crate) fn install_cryptography() {
    // Fails if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
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

/// Facts from any response of a host.
pub(crate) struct HostProbe {
    pub(crate) server_time: Option<DateTime<Utc>>,
    /// In DER; `None` without TLS.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Sends a request without secrets. Any response shows that the host is reachable.
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

/// The address of this machine in a connection, which is not the one that the peer sees behind a proxy or NAT.
pub(crate) fn local_address(response: &Response) -> Option<IpAddr> {
    response.extensions().get::<HttpInfo>().map(|info| info.local_addr().ip())
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
