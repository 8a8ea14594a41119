//! Traces and metrics to an OpenTelemetry collector, in a build with the feature `otlp`. The environment says where to, by
//! the names that OpenTelemetry gives (`OTEL_EXPORTER_OTLP_ENDPOINT` and others); without them nothing is sent.

use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use metrics_util::layers::{Fanout, FanoutBuilder};
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue, global};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, SpanExporter,
    WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest::blocking::Client;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::http_client;
use crate::store::Store;
use crate::store::status::Freshness;
use crate::sync::engine::{DURATION_BOUNDS, RUN_DURATION};
use crate::telemetry::tenant_metrics::{MetricKind, TENANT_METRICS};

const SERVICE: &str = "incident-sync";

/// An exchange with the collector; ours must never wait for it.
const EXCHANGE: Duration = Duration::from_secs(10);

/// What is left at the end is sent within this time, or lost: a collector that hangs must not keep us from stopping.
const LAST_EXPORT: Duration = Duration::from_millis(500);

/// How often the gauges of tenants are asked of the database; the same for all collectors.
const TENANTS_PERIOD: Duration = Duration::from_secs(30);

/// The largest fleet several times over; beyond its limit the SDK sums up all tenants under no name.
const LABEL_SETS_MAX: usize = 10_000;

/// What sends; ends with a last export when it is dropped.
#[derive(Debug)]
pub struct Export {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Export {
    /// Sends from here on what the environment asks for. To be called before there is a runtime: its clients are blocking
    /// ones, on threads of their own.
    ///
    /// # Errors
    /// When the environment asks for something that cannot be, such as an address that is none.
    pub fn start() -> Result<Self, ExporterBuildError> {
        let resource = resource();
        let traces = is_wanted(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
            .then(|| traces(resource.clone()))
            .transpose()?;
        let metrics =
            is_wanted(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT).then(|| meters(resource)).transpose()?;
        if let Some(metrics) = &metrics {
            global::set_meter_provider(metrics.clone());
        }
        Ok(Self { traces, metrics })
    }

    /// Sends our spans, and the events within them. What the exporter's own libraries say would go round in circles.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.traces.as_ref()?.tracer(SERVICE);
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false);
        Some(layer.with_filter(Targets::new().with_target("incident_sync", tracing::Level::INFO)))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let (traces, metrics) = (self.traces.take(), self.metrics.take());
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            drop(traces.map(|traces| traces.shutdown()));
            drop(metrics.map(|metrics| metrics.shutdown()));
            done.send(()).ok();
        });
        is_done.recv_timeout(LAST_EXPORT).ok();
    }
}

/// Whether the environment names an address for all signals or for this one.
fn is_wanted(of_signal: &str) -> bool {
    let is_named = |name: &str| std::env::var_os(name).is_some_and(|address| !address.is_empty());
    is_named(OTEL_EXPORTER_OTLP_ENDPOINT) || is_named(of_signal)
}

fn traces(resource: Resource) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_http().with_http_client(client()).build()?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

fn meters(resource: Resource) -> Result<SdkMeterProvider, ExporterBuildError> {
    let exporter = MetricExporter::builder().with_http().with_http_client(client()).build()?;
    let for_a_fleet =
        |_: &Instrument| Stream::builder().with_cardinality_limit(LABEL_SETS_MAX).build().ok();
    Ok(SdkMeterProvider::builder()
        .with_periodic_exporter(exporter)
        .with_view(for_a_fleet)
        .with_resource(resource)
        .build())
}

/// Without a proxy, as all our clients: a collector is near.
///
/// # Panics
/// Never in practice: the options are constants.
fn client() -> Client {
    http_client::install_cryptography();
    let builder =
        Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(EXCHANGE);
    builder.build().expect("the options are constants")
}

/// Who we are, unless the environment says otherwise.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::from_static_str("service.name")).map(|name| name.to_string());
    let is_named = name.is_some_and(|name| !name.starts_with("unknown_service"));
    let mut builder = Resource::builder();
    if !is_named {
        builder = builder.with_service_name(SERVICE);
    }
    let id = Key::from_static_str("service.instance.id");
    if detected.get(&id).is_none() {
        builder = builder.with_attribute(KeyValue::new(id, uuid::Uuid::new_v4().to_string()));
    }
    builder.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}

/// What is recorded for `/metrics` goes to the collector as well.
pub(crate) fn beside(prometheus: PrometheusRecorder) -> Fanout {
    let mut recorder =
        OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(global::meter(SERVICE)));
    recorder.set_histogram_bounds_mut([RUN_DURATION].into_iter(), &DURATION_BOUNDS);
    FanoutBuilder::default().add_recorder(prometheus).add_recorder(recorder).build()
}

/// Keeps the gauges of tenants current, which come from the database. What is not known is not sent: neither while the
/// database is away, nor of a tenant that left the configuration.
pub(crate) async fn watch_tenants(store: Store) {
    let known = Arc::new(Mutex::new(Vec::new()));
    observe(&global::meter(SERVICE), &known);
    let mut tick = tokio::time::interval(TENANTS_PERIOD);
    loop {
        tick.tick().await;
        let fresh = store.freshness().await.unwrap_or_default();
        *known.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }
}

fn observe(meter: &Meter, known: &Arc<Mutex<Vec<Freshness>>>) {
    for metric in &TENANT_METRICS {
        let known = Arc::clone(known);
        let tell = move |observer: &dyn AsyncInstrument<f64>| {
            for tenant in &*known.lock().unwrap_or_else(PoisonError::into_inner) {
                observer.observe(
                    (metric.value)(tenant),
                    &[KeyValue::new("tenant", tenant.name.clone())],
                );
            }
        };
        match metric.kind {
            MetricKind::Gauge => {
                meter
                    .f64_observable_gauge(metric.name)
                    .with_description(metric.help)
                    .with_callback(tell)
                    .build();
            }
            MetricKind::Counter => {
                meter
                    .f64_observable_counter(metric.name)
                    .with_description(metric.help)
                    .with_callback(tell)
                    .build();
            }
        }
    }
}
