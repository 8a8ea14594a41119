//! Where the log goes, and the recorder of metrics.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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

/// Sends the log to the journal or to standard error. `level` holds unless `RUST_LOG` says otherwise.
pub fn start_log(format: LogFormat, level: &str) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("warn,incident_sync={level}")));
    let registry = tracing_subscriber::registry().with(filter);
    let text = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => registry.with(text.json().flatten_event(true)).init(),
        LogFormat::Auto => match journal() {
            Some(journal) => registry.with(journal).init(),
            None => registry.with(text).init(),
        },
        LogFormat::Text => registry.with(text).init(),
    }
    std::panic::set_hook(Box::new(tell_panic));
}

/// As an event like any other: the lines that Rust prints by itself are no JSON, and the journal does not know their level.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or_default();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(who = "us", error = what, place, "a task panicked; this is a defect of incident-sync");
}

/// systemd sets `JOURNAL_STREAM` for services whose output goes to the journal.
fn journal() -> Option<tracing_journald::Layer> {
    std::env::var_os("JOURNAL_STREAM")?;
    tracing_journald::layer().ok()
}

/// How often the recorder sums up the durations that it was told.
const UPKEEP: Duration = Duration::from_secs(5);

/// Records metrics from here on; `None` when a recorder is there already. To be called within the runtime.
pub fn start_metrics() -> Option<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder().ok()?;
    // Where nobody asks for `/metrics`, the recorder would keep each duration for ever.
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    metrics::describe_counter!("incident_sync_passes_total", "Tenant runs by outcome and kind");
    metrics::describe_counter!("incident_sync_api_calls_total", "Calls to the Defender API by HTTP status");
    metrics::describe_counter!("incident_sync_token_requests_total", "Token requests by result");
    metrics::describe_counter!("incident_sync_incidents_written_total", "Incident versions stored");
    metrics::describe_counter!("incident_sync_rejected_total", "Incidents put into quarantine");
    metrics::describe_counter!("incident_sync_throttled_seconds_total", "Seconds of pause that the service asked for");
    metrics::describe_counter!("incident_sync_quota_waits_total", "Waits for our own quota");
    metrics::describe_gauge!("incident_sync_credential_refused", "1 while Entra refuses an application's credential");
    metrics::describe_gauge!("incident_sync_credential_in_use", "1 for the credential that last obtained a token");
    metrics::describe_gauge!(
        "incident_sync_credential_expiry_timestamp_seconds",
        "When an application's credential ends, in seconds since 1970"
    );
    metrics::describe_histogram!("incident_sync_pass_duration_seconds", "Duration of tenant runs");
    metrics::gauge!("incident_sync_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Some(handle)
}
