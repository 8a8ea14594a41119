//! The loopback listener: `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

#[derive(Clone)]
struct Shared {
    store: Store,
    metrics: Option<PrometheusHandle>,
}

/// Serves until `stop`. Fails when the address is taken.
pub async fn start(
    listen: SocketAddr,
    store: Store,
    metrics: Option<PrometheusHandle>,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(Shared { store, metrics });
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(error = %error, "the listener ended");
        }
    });
    Ok(address)
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.store.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn render(State(shared): State<Shared>) -> (StatusCode, String) {
    let Some(metrics) = shared.metrics else { return (StatusCode::NOT_FOUND, String::new()) };
    match shared.store.freshness().await {
        Ok(tenants) => {
            for (tenant, seconds) in tenants {
                metrics::gauge!("incident_sync_tenant_freshness_seconds", "tenant" => tenant).set(seconds);
            }
            (StatusCode::OK, metrics.render())
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("# {error}\n")),
    }
}
