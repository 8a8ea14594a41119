//! The loopback listener: `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::store::runs::Freshness;

const HEALTH_DEADLINE: Duration = Duration::from_secs(5);
const HEALTH_BYTES_MAX: u64 = 4096;

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

/// Asks the daemon that listens there whether it lives.
pub async fn ask_health(listen: SocketAddr) -> Result<(), String> {
    let asked = async {
        let mut stream = TcpStream::connect(listen).await?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(HEALTH_BYTES_MAX).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(HEALTH_DEADLINE, asked).await {
        Ok(Ok(answer)) if answer.starts_with(b"HTTP/1.0 200 ") => Ok(()),
        Ok(Ok(_)) => Err(format!("{listen} answers, but it is no healthy incident-sync")),
        Ok(Err(error)) => Err(format!("no incident-sync listens on {listen}: {error}")),
        Err(_) => Err(format!("{listen} did not answer within {} s", HEALTH_DEADLINE.as_secs())),
    }
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
        Ok(tenants) => (StatusCode::OK, metrics.render() + &tenant_gauges(&tenants)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("# {error}\n")),
    }
}

/// Written by hand: the recorder would show a tenant that left the configuration, or was renamed, for ever as it was last.
fn tenant_gauges(tenants: &[Freshness]) -> String {
    let mut text = String::new();
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&Freshness) -> f64| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for tenant in tenants {
            let label = tenant.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text.push_str(&format!("{name}{{tenant=\"{label}\"}} {}\n", value(tenant)));
        }
    };
    each(
        "incident_sync_tenant_freshness_seconds",
        "gauge",
        "Seconds since everything up to then was stored",
        |tenant| tenant.freshness_seconds,
    );
    each("incident_sync_tenant_up", "gauge", "1 when the tenant's last run ended well", |tenant| {
        f64::from(tenant.is_up)
    });
    let help = "Incident versions that no poll had found and a later reading did; should stay 0";
    each("incident_sync_found_late_total", "counter", help, |tenant| tenant.found_late as f64);
    let help = "Ranges of lastUpdateTime that the API fails to serve; should be 0";
    each("incident_sync_holes", "gauge", help, |tenant| tenant.holes as f64);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let name = "a\"b\\c".to_owned();
        let tenants = [Freshness { name, freshness_seconds: 1.5, is_up: false, found_late: 0, holes: 2 }];
        let text = tenant_gauges(&tenants);
        assert!(text.contains("incident_sync_tenant_freshness_seconds{tenant=\"a\\\"b\\\\c\"} 1.5\n"), "{text}");
        assert!(text.contains("incident_sync_tenant_up{tenant=\"a\\\"b\\\\c\"} 0\n"), "{text}");
        assert!(text.contains("incident_sync_holes{tenant=\"a\\\"b\\\\c\"} 2\n"), "{text}");
    }
}
