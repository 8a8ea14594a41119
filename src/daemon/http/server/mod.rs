//! The loopback listener: the status page, `/healthz`, `/readyz` and `/metrics`. It has no authentication, so it is read-only and
//! rejects requests with other host names.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::daemon::http::status_page::{
    self, CONTENT_SECURITY_POLICY, FAVICON, RenderedPage, StatusPage, View,
};
use crate::store::Store;
use crate::store::status::Freshness;
use crate::telemetry::tenant_metrics::{FEED_DELAY, MetricKind, TENANT_METRICS, TenantMetric};
use crate::tenant::TenantId;

mod connections;

const HEALTH_DEADLINE: Duration = Duration::from_secs(5);
const HEALTH_BYTES_MAX: u64 = 4096;
/// Scrapes within this time get the same response.
const METRICS_LAST: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Shared {
    store: Store,
    metrics: Option<PrometheusHandle>,
    /// The last response of `/metrics` and its time.
    rendered: Arc<Mutex<Option<(Instant, StatusCode, Bytes)>>>,
    page: Arc<StatusPage>,
}

/// Serves until `stop`. Fails if the address is in use.
pub async fn start(
    listen: SocketAddr,
    page: Arc<StatusPage>,
    store: Store,
    metrics: Option<PrometheusHandle>,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/", get(fleet))
        .route("/tenants/{id}", get(tenant))
        .route("/api/status", get(api_status))
        .route("/favicon.svg", get(favicon))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .fallback(not_found)
        .with_state(Shared { store, metrics, rendered: Arc::default(), page })
        .layer(middleware::from_fn_with_state(address.ip(), guard));
    tokio::spawn(connections::serve(listener, router, stop));
    Ok(address)
}

/// Permits read requests only, and protects against DNS rebinding.
async fn guard(State(listen): State<IpAddr>, request: Request, next: Next) -> Response {
    let mut response = if !is_for_us(request.headers(), listen) {
        let text = format!(
            "Misdirected request: the Host header must be localhost, {listen} or another loopback address.\n"
        );
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "GET, HEAD")],
            "Method not allowed. Use GET or HEAD.\n",
        )
            .into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// A malicious web page can resolve its own name to this machine and could then read the responses, but the browser sends
/// that name in the Host header. A client without a Host header is not a browser.
fn is_for_us(headers: &HeaderMap, listen: IpAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return !headers.contains_key(header::HOST);
    };
    let Ok(host) = host.to_str() else { return false };
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = without_port
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(without_port);
    let is_ours = |address: IpAddr| address.is_loopback() || address == listen;
    name.trim_end_matches('.').eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_ours)
}

async fn fleet(State(shared): State<Shared>, Query(view): Query<View>) -> Response {
    show(shared.page.fleet(&view).await)
}

/// The same as the page of all tenants, for programs.
async fn api_status(State(shared): State<Shared>, Query(view): Query<View>) -> Response {
    let (document, is_current) = shared.page.document(&view).await;
    let status = if is_current { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(document)).into_response()
}

async fn favicon() -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml")], FAVICON).into_response()
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Html(status_page::not_found().html)).into_response()
}

/// Shows the last data while the database is unavailable, with status 503 for probes.
fn show(page: RenderedPage) -> Response {
    let status = if page.is_current { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Html(page.html)).into_response()
}

async fn tenant(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let page = match id.parse::<Uuid>() {
        Ok(id) => shared.page.tenant(id).await,
        Err(_) => None,
    };
    match page {
        Some(page) => show(page),
        None => not_found().await,
    }
}

/// Requests the health of the daemon at this address.
pub async fn ask_health(listen: SocketAddr) -> Result<(), String> {
    match tokio::time::timeout(HEALTH_DEADLINE, ask(listen, "/healthz")).await {
        Ok(Ok(answer)) if answer.starts_with(b"HTTP/1.0 200 ") => Ok(()),
        Ok(Ok(_)) => Err(format!("{listen} answers, but not as a healthy incident-sync")),
        Ok(Err(error)) => Err(format!("cannot connect to incident-sync on {listen}: {error}")),
        Err(_) => Err(format!("{listen} did not answer within {} s", HEALTH_DEADLINE.as_secs())),
    }
}

/// Whether the daemon at this address has loaded a tenant; `None` if none responds.
pub async fn has_tenant(listen: SocketAddr, tenant: TenantId) -> Option<bool> {
    let path = format!("/tenants/{tenant}");
    let answer = tokio::time::timeout(HEALTH_DEADLINE, ask(listen, &path)).await.ok()?.ok()?;
    // 503: the database is unavailable, but the tenant is loaded.
    Some(answer.starts_with(b"HTTP/1.0 200 ") || answer.starts_with(b"HTTP/1.0 503 "))
}

/// The beginning of the response to a GET.
async fn ask(listen: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(listen).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(HEALTH_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.store.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

/// Renders the metrics at most once a second.
async fn render(State(shared): State<Shared>) -> Response {
    let Some(metrics) = &shared.metrics else { return StatusCode::NOT_FOUND.into_response() };
    let mut rendered = shared.rendered.lock().await;
    let kept = rendered.as_ref().filter(|(at, ..)| at.elapsed() < METRICS_LAST);
    let (status, text) = match kept {
        Some((_, status, text)) => (*status, text.clone()),
        None => {
            let (status, text) = match shared.store.freshness().await {
                Ok(tenants) => (
                    StatusCode::OK,
                    metrics.render() + &tenant_gauges(&tenants) + &feed_gauge(&shared).await,
                ),
                Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("# {error}\n")),
            };
            let text = Bytes::from(text);
            *rendered = Some((Instant::now(), status, text.clone()));
            (status, text)
        }
    };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn feed_gauge(shared: &Shared) -> String {
    let (name, help) = FEED_DELAY;
    match shared.store.feed().await {
        Ok(feed) => {
            format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}\n", feed.delay_seconds())
        }
        Err(error) => format!("# {error}\n"),
    }
}

fn tenant_gauges(tenants: &[Freshness]) -> String {
    let mut text = String::new();
    for TenantMetric { name, kind, help, value } in &TENANT_METRICS {
        let kind = match kind {
            MetricKind::Gauge => "gauge",
            MetricKind::Counter => "counter",
        };
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for tenant in tenants {
            let label = tenant.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text.push_str(&format!("{name}{{tenant=\"{label}\"}} {}\n", value(tenant)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_host_names_are_refused() {
        let listen = "127.0.0.1".parse().unwrap();
        let is_served = |hosts: &[&str]| {
            let hosts =
                hosts.iter().map(|host| (header::HOST, HeaderValue::from_str(host).unwrap()));
            is_for_us(&hosts.collect(), listen)
        };
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "localhost.",
            "127.0.0.1:9464",
            "127.1.2.3",
            "[::1]:9464",
            "[::1]",
        ] {
            assert!(is_served(&[host]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
        ] {
            assert!(!is_served(&[host]), "{host}");
        }
        assert!(is_served(&[]), "HTTP/1.0 of a health check");
        assert!(!is_served(&["localhost", "evil.example"]));
        assert!(is_for_us(
            &[(header::HOST, HeaderValue::from_static("10.0.0.1:9464"))].into_iter().collect(),
            "10.0.0.1".parse().unwrap()
        ));
    }

    #[test]
    fn tenant_name_is_escaped_in_metrics() {
        let name = "a\"b\\c".to_owned();
        let tenants = [Freshness {
            name,
            freshness_seconds: 1.5,
            is_up: false,
            is_backfilled: true,
            found_late: 0,
            lateness_seconds: 0,
            gaps: 2,
            rejected: 3,
        }];
        let text = tenant_gauges(&tenants);
        assert!(
            text.contains("incident_sync_tenant_freshness_seconds{tenant=\"a\\\"b\\\\c\"} 1.5\n"),
            "{text}"
        );
        assert!(text.contains("incident_sync_tenant_up{tenant=\"a\\\"b\\\\c\"} 0\n"), "{text}");
        assert!(text.contains("incident_sync_gaps{tenant=\"a\\\"b\\\\c\"} 2\n"), "{text}");
    }
}
