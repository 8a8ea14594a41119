//! What a collector of OpenTelemetry gets, in a build with the feature `otlp`: a real HTTP server that reads OTLP as its
//! specification has it (`opentelemetry/proto/trace/v1/trace.proto` and `metrics/v1/metrics.proto`).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use nix::sys::signal::Signal;
use simulator::{Behaviour, TenantSpec};
use tokio::net::TcpListener;

use crate::installation::{Installation, Running, events, id, spec, until};

#[derive(Clone, Default)]
struct Collector {
    traces: Arc<Mutex<Vec<Bytes>>>,
    metrics: Arc<Mutex<Vec<Bytes>>>,
    keys: Arc<Mutex<BTreeSet<String>>>,
}

/// One span.
#[derive(Debug, Default, Clone)]
struct Span {
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    attributes: BTreeMap<String, String>,
    is_error: bool,
    events: usize,
}

impl Collector {
    async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route(
                "/v1/traces",
                post(async |State(it): State<Self>, head: HeaderMap, body: Bytes| {
                    it.take(&it.traces, &head, body)
                }),
            )
            .route(
                "/v1/metrics",
                post(async |State(it): State<Self>, head: HeaderMap, body: Bytes| {
                    it.take(&it.metrics, &head, body)
                }),
            )
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn take(&self, into: &Mutex<Vec<Bytes>>, head: &HeaderMap, body: Bytes) {
        let key = head.get("x-key").map(|key| key.to_str().unwrap().to_owned());
        self.keys.lock().unwrap().extend(key);
        assert_eq!(head["content-type"], "application/x-protobuf");
        into.lock().unwrap().push(body);
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.traces.lock().unwrap();
        bodies.iter().flat_map(|body| inside(body, &[1, 2, 2])).map(span).collect()
    }

    /// The bytes of each metric, by its name.
    fn metrics(&self) -> BTreeMap<String, Vec<u8>> {
        let bodies = self.metrics.lock().unwrap();
        let metrics = bodies.iter().flat_map(|body| inside(body, &[1, 2, 2]));
        metrics.map(|metric| (text(&one(metric, 1)), metric.to_vec())).collect()
    }

    fn everything(&self) -> Vec<u8> {
        [&self.traces, &self.metrics]
            .iter()
            .flat_map(|bodies| bodies.lock().unwrap().concat())
            .collect()
    }
}

/// The fields of a message of protocol buffers that have a length: strings, bytes and messages.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                varint(&mut message);
                continue;
            }
            1 => 8,
            2 => varint(&mut message),
            5 => 4,
            kind => panic!("wire type {kind}"),
        };
        let (field, rest) = message.split_at(usize::try_from(length).unwrap());
        if tag & 7 == 2 {
            fields.push((tag >> 3, field));
        }
        message = rest;
    }
    fields
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = message.split_first().unwrap();
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// All that stands below a path of field numbers.
fn inside<'a>(message: &'a [u8], path: &[u64]) -> Vec<&'a [u8]> {
    let Some((number, rest)) = path.split_first() else { return vec![message] };
    let below = fields(message).into_iter().filter(|(field, _)| field == number);
    below.flat_map(|(_, field)| inside(field, rest)).collect()
}

fn one(message: &[u8], number: u64) -> Vec<u8> {
    inside(message, &[number]).first().map(|field| field.to_vec()).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn attributes(message: &[u8], number: u64) -> BTreeMap<String, String> {
    let pairs = inside(message, &[number]);
    pairs.iter().map(|pair| (text(&one(pair, 1)), text(&one(&one(pair, 2), 1)))).collect()
}

fn span(message: &[u8]) -> Span {
    Span {
        name: text(&one(message, 5)),
        trace: one(message, 1),
        id: one(message, 2),
        parent: one(message, 4),
        attributes: attributes(message, 9),
        // Status { code = 3: ERROR = 2 }.
        is_error: one(message, 15).ends_with(&[3 << 3, 2]),
        events: inside(message, &[11]).len(),
    }
}

fn exporting(mut command: Command, endpoint: &str) -> Command {
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of-the-collector")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_numbers_reach_a_collector_as_they_reach_the_log_and_prometheus() {
    let without_consent = Behaviour { consent_missing: true, ..Behaviour::default() };
    let site = Installation::with(vec![
        spec(1, 10),
        TenantSpec { behaviour: without_consent, ..spec(2, 5) },
    ])
    .await;
    let collector = Collector::default();
    let run = site.command(&["run", "--log-format", "json"]);
    let daemon = Running::start(exporting(run, &collector.listen().await), site.folder.path());
    let run_of = |number: u128| {
        let of_tenant = |span: &Span| {
            span.name == "tenant_run" && span.attributes["tenant.id"] == id(number).to_string()
        };
        collector.spans().into_iter().find(of_tenant)
    };
    let wanted = [
        "incident_sync_runs_total",
        "incident_sync_run_duration_seconds",
        "incident_sync_tenant_freshness_seconds",
    ];
    until("spans and metrics", async || {
        let metrics = collector.metrics();
        let has = |name: &&str| {
            metrics
                .get(*name)
                .is_some_and(|metric| !name.contains("tenant") || holds(metric, "tenant-1"))
        };
        run_of(1).is_some() && run_of(2).is_some() && wanted.iter().all(has)
    })
    .await;

    let (good, bad) = (run_of(1).unwrap(), run_of(2).unwrap());
    assert!(!good.is_error && good.attributes["outcome"] == "ok", "{good:?}");
    assert!(
        good.attributes["tenant.name"] == "tenant-1" && good.parent.is_empty() && good.events > 0,
        "{good:?}"
    );
    assert!(
        bad.is_error && bad.attributes["outcome"] == "parked" && bad.trace != good.trace,
        "{bad:?}"
    );
    let below = |run: &Span| {
        let spans = collector.spans();
        let names = spans.iter().filter(|span| span.parent == run.id && span.trace == run.trace);
        names.map(|span| span.name.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(below(&good), ["api_call", "store_rows", "token_request"].map(str::to_owned).into());
    assert_eq!(below(&bad), ["token_request".to_owned()].into());

    let resource = collector
        .traces
        .lock()
        .unwrap()
        .first()
        .map(|body| attributes(inside(body, &[1, 1])[0], 1))
        .unwrap();
    assert_eq!(resource["service.name"], "incident-sync");
    assert!(
        !resource["service.instance.id"].is_empty() && !resource["service.version"].is_empty(),
        "{resource:?}"
    );
    assert_eq!(*collector.keys.lock().unwrap(), ["of-the-collector".to_owned()].into());

    let done = daemon.ends_on(Signal::SIGTERM);
    let sent = collector.everything();
    for secret in ["canary5f2d77c0", "eyJ", "of-the-collector"] {
        assert!(!holds(&sent, secret) && !done.stderr.contains(secret), "{secret}");
    }
    for event in events(&done.stderr) {
        assert!(
            event.get("span").is_none() && event.get("spans").is_none(),
            "a span lengthens the log: {event}"
        );
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_hangs_or_is_none_stops_nothing() {
    let site = Installation::with(vec![spec(1, 10)]).await;
    // Its queue takes connections, and nobody answers.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for endpoint in [format!("http://{}", hanging.local_addr().unwrap()), format!("http://{away}")]
    {
        let mut daemon =
            Running::start(exporting(site.command(&["run"]), &endpoint), site.folder.path());
        until("a run", async || daemon.stderr().contains("tenant run done")).await;
        assert!(daemon.is_alive());
        // Within the promised ten seconds.
        daemon.ends_on(Signal::SIGTERM);
    }
    let done =
        Running::start(exporting(site.command(&["sync"]), "no address at all"), site.folder.path())
            .ends();
    assert_eq!(done.code(), Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("mend the OTEL_ variables"), "{}", done.stderr);
}
