//! Probes the network path to Microsoft: names, proxy, certificates, clocks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use reqwest::{Client, Url};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::entra::Tenant;
use crate::entra::expiry;
use crate::error::{Peer, SyncError, shown};
use crate::http_client::{self, Deadlines, HostProbe, ProxyChoice, Route};

/// For a name look-up and for a connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const DEADLINES: Deadlines = Deadlines { connect: STEP_TIMEOUT, total: Duration::from_secs(20) };
/// Hosts that are probed at the same time.
const CONCURRENT_HOSTS: usize = 8;

/// The path to Microsoft.
#[derive(Debug, Clone)]
pub enum Egress {
    /// Without a proxy.
    Direct,
    /// As the variables of the environment say.
    Environment,
    /// Through this proxy.
    Proxy {
        /// Host and port.
        address: String,
        /// Why it accepted no connection; `None` if it did.
        failure: Option<String>,
    },
}

/// A probed host of Entra or of the API.
#[derive(Debug, Clone)]
pub struct Host {
    /// Scheme, host and port.
    pub origin: String,
    /// Whether its URL is https.
    pub is_tls: bool,
    /// The number of addresses of its name; `None` if the proxy resolves it.
    pub looked_up: Option<Result<usize, String>>,
    /// `None` if an earlier step failed.
    pub reached: Option<Result<HostFacts, SyncError>>,
}

impl Host {
    pub fn is_reached(&self) -> bool {
        matches!(self.reached, Some(Ok(_)))
    }
}

/// Facts from a response of the host.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Seconds that its clock is ahead of this machine's; `None` without a Date header.
    pub ahead: Option<i64>,
    pub certificate: Option<CertificateFacts>,
}

/// A trusted certificate.
#[derive(Debug, Clone)]
pub struct CertificateFacts {
    pub issuer: String,
    /// The end of its validity.
    pub ends: DateTime<Utc>,
}

/// Probes the proxy alone, so that its failure is not reported for every host.
pub async fn egress(route: &Route) -> Egress {
    match &route.proxy {
        ProxyChoice::None => Egress::Direct,
        ProxyChoice::Environment => Egress::Environment,
        ProxyChoice::At { address: (host, port), .. } => {
            let failure = connect(host, *port).await.err();
            Egress::Proxy { address: format!("{host}:{port}"), failure }
        }
    }
}

/// Connects to an address. The error is the reason of a failure.
pub async fn connect(host: &str, port: u16) -> Result<(), String> {
    match tokio::time::timeout(STEP_TIMEOUT, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

const NO_ANSWER: &str = "no answer within 10 s";

/// Probes every host of these tenants once.
pub async fn hosts(route: &Route, egress: &Egress, tenants: &[Arc<Tenant>]) -> Vec<Host> {
    let mut origins = BTreeMap::new();
    for endpoints in tenants.iter().map(|tenant| &tenant.endpoints) {
        for (url, peer) in [
            (&endpoints.authority, Peer::Entra),
            (&endpoints.base_url, Peer::from(endpoints.source)),
        ] {
            origins.entry(origin(url)).or_insert((root(url), peer));
        }
    }
    let client = http_client::probe_client(route, DEADLINES);
    let probes =
        origins.into_iter().map(|(origin, (url, peer))| host(&client, egress, origin, url, peer));
    // Boxed, because the compiler cannot infer that the nested closures are Send.
    futures::stream::iter(probes).map(Box::pin).buffered(CONCURRENT_HOSTS).collect().await
}

/// Scheme, host and port.
pub fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn root(url: &Url) -> Url {
    let mut root = url.clone();
    root.set_path("/");
    root
}

async fn host(client: &Client, egress: &Egress, origin: String, url: Url, peer: Peer) -> Host {
    // A proxy resolves names itself; the local DNS may not resolve public names.
    let looked_up = match egress {
        Egress::Proxy { .. } => None,
        Egress::Direct | Egress::Environment => Some(look_up(&url).await),
    };
    let is_probed = match egress {
        Egress::Direct => looked_up.as_ref().is_some_and(Result::is_ok),
        Egress::Environment => true,
        Egress::Proxy { failure, .. } => failure.is_none(),
    };
    let is_tls = url.scheme() == "https";
    let reached = if is_probed { Some(reach(client, url, peer).await) } else { None };
    Host { origin, is_tls, looked_up, reached }
}

async fn look_up(url: &Url) -> Result<usize, String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    look_up_name(host, url.port_or_known_default().unwrap_or(443)).await
}

/// The number of addresses of a name.
pub async fn look_up_name(host: &str, port: u16) -> Result<usize, String> {
    match tokio::time::timeout(STEP_TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(addresses)) => match addresses.count() {
            0 => Err("no address found".to_owned()),
            count => Ok(count),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

async fn reach(client: &Client, url: Url, peer: Peer) -> Result<HostFacts, SyncError> {
    let before = expiry::now();
    let HostProbe { server_time, certificate } = http_client::probe_host(client, url, peer).await?;
    let middle = before + expiry::now().signed_duration_since(before) / 2;
    let ahead = server_time.map(|theirs| theirs.signed_duration_since(middle).num_seconds());
    Ok(HostFacts { ahead, certificate: certificate.as_deref().and_then(read) })
}

fn read(der: &[u8]) -> Option<CertificateFacts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    let ends = DateTime::from_timestamp(certificate.validity().not_after.timestamp(), 0)?;
    Some(CertificateFacts { issuer: shown(name.unwrap_or("a CA without a name")), ends })
}
