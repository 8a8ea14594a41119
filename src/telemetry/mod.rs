//! Where the log goes, and the recorder of metrics.

#[cfg(feature = "otlp")]
pub mod otlp;
pub(crate) mod tenant_metrics;

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::error::panic_message;
use crate::sync::engine::{DURATION_BOUNDS, RUN_DURATION};
#[cfg(feature = "otlp")]
use crate::telemetry::otlp::Export;

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Structured fields in the journal where it listens, text elsewhere.
    Auto,
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// What this program tells of itself. To be kept to the end: what is left then is sent.
#[derive(Debug)]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    _export: Option<Export>,
}

/// Sends the log to the journal or to standard error; `level` holds unless `RUST_LOG` says otherwise. A command that
/// `exports` also sends to a collector, where the environment names one. To be called before there is a runtime.
pub fn start(format: LogFormat, level: &str, exports: bool) -> Telemetry {
    let registry = tracing_subscriber::registry();
    #[cfg(feature = "otlp")]
    let (export, failure) = match exports.then(Export::start).transpose() {
        Ok(export) => (export, None),
        Err(error) => (None, Some(error)),
    };
    #[cfg(feature = "otlp")]
    let registry = registry.with(export.as_ref().and_then(Export::layer));
    registry.with(log(format, level)).init();
    std::panic::set_hook(Box::new(tell_panic));
    #[cfg(feature = "otlp")]
    if let Some(error) = failure {
        tracing::error!(owner = "operator", error = %error, "nothing is sent to the collector; mend the OTEL_ variables and restart");
    }
    #[cfg(not(feature = "otlp"))]
    if exports && std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
        tracing::warn!(
            owner = "operator",
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build sends nothing: it lacks the feature otlp"
        );
    }
    Telemetry {
        #[cfg(feature = "otlp")]
        _export: export,
    }
}

/// Events only: a span is for the collector, and would lengthen each line.
fn log<S>(format: LogFormat, level: &str) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let levels = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,incident_sync={level}")));
    // As no-color.org has it.
    let no_color = std::env::var_os("NO_COLOR");
    let text = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && no_color.is_none_or(|word| word.is_empty()));
    let layer = match format {
        LogFormat::Json => text.json().flatten_event(true).boxed(),
        LogFormat::Auto => match journal() {
            Some(journal) => journal.boxed(),
            None => text.boxed(),
        },
        LogFormat::Text => text.boxed(),
    };
    layer.with_filter(levels.and(filter_fn(|metadata| metadata.is_event())))
}

/// As an event like any other: the lines that Rust prints by itself are no JSON, and the journal does not know their level.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let what = panic_message(panic.payload_as_str().unwrap_or_default());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        owner = "developers",
        error = what,
        place,
        "a task panicked; this is a defect of incident-sync"
    );
}

/// systemd sets `JOURNAL_STREAM` for services whose output goes to the journal.
fn journal() -> Option<tracing_journald::Layer> {
    std::env::var_os("JOURNAL_STREAM")?;
    tracing_journald::layer().ok()
}

/// How often the recorder sums up the durations that it was told.
const UPKEEP: Duration = Duration::from_secs(5);

/// Records metrics from here on; `None` when a recorder is there already. To be called within the runtime.
///
/// # Panics
/// Never: the buckets are constants.
pub fn start_metrics() -> Option<PrometheusHandle> {
    let of_runs = Matcher::Full(RUN_DURATION.to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(of_runs, &DURATION_BOUNDS);
    let recorder = builder.expect("there are buckets").build_recorder();
    let handle = recorder.handle();
    #[cfg(feature = "otlp")]
    let recorder = otlp::beside(recorder);
    metrics::set_global_recorder(recorder).ok()?;
    // Where nobody asks for `/metrics`, the recorder would keep each duration for ever.
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    metrics::describe_counter!("incident_sync_runs_total", "Tenant runs by outcome and kind");
    metrics::describe_counter!(
        "incident_sync_api_calls_total",
        "Calls to the Defender API by HTTP status"
    );
    metrics::describe_counter!("incident_sync_token_requests_total", "Token requests by result");
    metrics::describe_counter!("incident_sync_incidents_written_total", "Incident versions stored");
    metrics::describe_counter!("incident_sync_rejected_total", "Incidents put into quarantine");
    metrics::describe_counter!(
        "incident_sync_throttled_seconds_total",
        "Seconds of pause that the service asked for"
    );
    metrics::describe_counter!("incident_sync_quota_waits_total", "Waits for our own quota");
    metrics::describe_gauge!(
        "incident_sync_credential_refused",
        "1 while Entra refuses an application's credential"
    );
    metrics::describe_gauge!(
        "incident_sync_credential_in_use",
        "1 for the credential that last obtained a token"
    );
    metrics::describe_gauge!(
        "incident_sync_credential_expiry_timestamp_seconds",
        "When an application's credential ends, in seconds since 1970"
    );
    metrics::describe_histogram!(RUN_DURATION, "Duration of tenant runs");
    // A counter that begins with the first run would show none of it, and none at all where no run ever ends.
    metrics::counter!("incident_sync_runs_total", "outcome" => "ok", "kind" => "poll").absolute(0);
    metrics::gauge!("incident_sync_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Some(handle)
}
