//! A simulator of Entra's token endpoint and consent pages, of the Defender incidents API and of the Graph security API
//! over the same tenants: real HTTP, real state, and faults on demand.
//!
//! Tests, `demo`, `simulate` and the benchmark use it over a socket like Microsoft's services; only two URLs differ. Its
//! responses follow the documents and published payloads.

mod assertion;
mod change;
mod consent;
mod evidence;
mod fault;
mod filter;
mod graph;
mod identity;
mod incident_generator;
mod incidents;
mod json;
mod merge;
mod quota;
mod random;
mod response;
mod sample_data;
mod source;
mod store;
mod tenant;
#[cfg(test)]
mod tests;
mod time;
mod token;
mod traffic;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use chrono::{DateTime, Utc};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use assertion::Issuer;
pub use consent::Admin;
pub use fault::{Call, Endpoint, ScriptedReply};
pub use graph::{CeilingAnswer, GraphBehaviour, NextLink, SkipCeiling};
pub use source::Source;
pub use store::Order;
pub use tenant::{Behaviour, TenantSpec};
pub use world::World;

#[derive(Debug, Clone)]
pub struct Options {
    /// The address to listen on; port 0 selects a free port.
    pub listen: SocketAddr,
    pub clock: Clock,
    /// The only registered application.
    pub client_id: String,
    /// The secret of the application.
    pub client_secret: String,
    /// How bodies are compressed for clients that accept it.
    pub encoding: Encoding,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            clock: Clock::Real,
            client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            client_secret: "simulated-secret".to_owned(),
            encoding: Encoding::Identity,
        }
    }
}

/// The simulator's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock.
    Real,
    /// A clock that only [`World::advance`] changes.
    Manual(DateTime<Utc>),
}

/// The compression of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// No compression.
    Identity,
    /// `gzip`.
    Gzip,
    /// `deflate` without the head and the checksum of zlib, as some servers and gateways send it.
    Deflate,
}

/// A running simulator. Dropping it stops it in the background; [`Simulator::stop`] waits.
#[derive(Debug)]
pub struct Simulator {
    url: Url,
    world: World,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

/// The state of the handlers.
#[derive(Debug, Clone)]
struct Service {
    world: World,
    base: Url,
    client_id: String,
    encoding: Encoding,
    shutdown: CancellationToken,
}

/// How long a stop waits for responses that no client reads.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

impl Simulator {
    /// Binds the address and serves an empty world.
    pub async fn start(options: Options) -> std::io::Result<Simulator> {
        let listener = TcpListener::bind(options.listen).await?;
        let url: Url = format!("http://{}", listener.local_addr()?)
            .parse()
            .expect("a socket address makes a URL");
        let world = World::new(options.clock, options.client_secret);
        let shutdown = CancellationToken::new();
        let service = Service {
            world: world.clone(),
            base: url.clone(),
            client_id: options.client_id,
            encoding: options.encoding,
            shutdown: shutdown.clone(),
        };
        // Without this, small responses wait 40 ms for an acknowledgement.
        let listener = listener.tap_io(|socket| {
            let _ = socket.set_nodelay(true);
        });
        let stopped = shutdown.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            // axum retries accepting itself; there is no error to report.
            let _ = axum::serve(listener, router(service)).with_graceful_shutdown(stopped).await;
        });
        Ok(Self { url, world, shutdown, server })
    }

    /// `http://ADDRESS:PORT/`, both authority and base URL of the API.
    pub fn url(&self) -> Url {
        self.url.clone()
    }

    /// The state of the endpoints.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Stops the server: idle connections are closed and hanging requests are ended.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if tokio::time::timeout(STOP_PATIENCE, &mut self.server).await.is_err() {
            self.server.abort();
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(token::v2))
        .route("/{tenant}/oauth2/token", post(token::v1))
        .route("/{tenant}/v2.0/adminconsent", get(consent::v2))
        .route("/{tenant}/adminconsent", get(consent::v1))
        .route("/metadata/identity/oauth2/token", get(identity::token))
        .route("/api/incidents", get(incidents::list))
        .route("/api/incidents/{id}", get(incidents::single))
        .merge(graph::routes())
        .fallback(unknown_path)
        .with_state(service)
}

async fn unknown_path(
    axum::extract::State(service): axum::extract::State<Service>,
    headers: HeaderMap,
) -> axum::response::Response {
    let refusal = response::Answer::refusal(404, "NotFound", "There is no such resource.");
    service.reply(refusal, &headers)
}
