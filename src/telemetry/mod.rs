//! The log and the recorder of metrics.

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

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Structured fields to the journal if the service runs under systemd, text otherwise.
    Auto,
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Sends the log to the journal or to standard error at `level`, which `RUST_LOG` overrides.
pub fn start(format: LogFormat, level: &str) {
    tracing_subscriber::registry().with(log(format, level)).init();
    std::panic::set_hook(Box::new(log_panic));
}

fn log<S>(format: LogFormat, level: &str) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let levels = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!(
            // What the pool reports, the dispatcher reports with its cause and owner.
            "warn,sqlx::pool=off,sqlx_core::pool=off,incident_sync={level}"
        ))
    });
    // See no-color.org: not empty disables colors.
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
    // Libraries open spans, which would lengthen each line.
    layer.with_filter(levels.and(filter_fn(|metadata| metadata.is_event())))
}

/// Logs panics as events: the lines that Rust prints are not JSON and have no level in the journal.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let what = panic_message(panic.payload_as_str().unwrap_or_default());
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        owner = "developers",
        error = what,
        place = location,
        "A task panicked. Report this bug with the log"
    );
}

/// systemd sets `JOURNAL_STREAM` for services whose output goes to the journal.
fn journal() -> Option<tracing_journald::Layer> {
    std::env::var_os("JOURNAL_STREAM")?;
    tracing_journald::layer().ok()
}

/// How often the recorder aggregates the recorded durations.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder of metrics; `None` if there is one already. Call it within the runtime.
///
/// # Panics
/// Never: the buckets are constants.
pub fn start_metrics() -> Option<PrometheusHandle> {
    let durations = Matcher::Full(RUN_DURATION.to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(durations, &DURATION_BOUNDS);
    let recorder = builder.expect("the buckets are not empty").build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok()?;
    // Without scrapes of `/metrics`, the recorder would keep every duration.
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    describe_metrics();
    // Otherwise these would not exist before their first event.
    metrics::counter!("incident_sync_runs_total", "outcome" => "ok", "kind" => "poll").absolute(0);
    for result in ["ok", "error"] {
        metrics::counter!("incident_sync_token_requests_total", "result" => result).absolute(0);
    }
    metrics::counter!("incident_sync_quota_waits_total").absolute(0);
    metrics::gauge!("incident_sync_config_reload_failed").set(0.0);
    metrics::gauge!("incident_sync_config_files_refused").set(0.0);
    metrics::gauge!("incident_sync_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Some(handle)
}

fn describe_metrics() {
    for (name, help) in COUNTERS {
        metrics::describe_counter!(name, help);
    }
    for (name, help) in GAUGES {
        metrics::describe_gauge!(name, help);
    }
    metrics::describe_histogram!(RUN_DURATION, "Duration of tenant runs");
}

const COUNTERS: [(&str, &str); 8] = [
    ("incident_sync_runs_total", "Tenant runs by outcome and kind"),
    (
        "incident_sync_api_calls_total",
        "Calls to the Defender API and to Microsoft Graph by HTTP status",
    ),
    ("incident_sync_token_requests_total", "Token requests by result"),
    ("incident_sync_incidents_written_total", "Incident versions stored"),
    ("incident_sync_rejected_total", "Incidents put into quarantine"),
    ("incident_sync_retention_deleted_total", "Closed incidents that retention deleted"),
    ("incident_sync_throttled_seconds_total", "Seconds of pause that the API requested"),
    ("incident_sync_quota_waits_total", "Waits for the configured call quota"),
];

const GAUGES: [(&str, &str); 9] = [
    ("incident_sync_tenants", "Tenants of the database by state"),
    ("incident_sync_api_retired", "1 while an API refuses every tenant and seems to be retired"),
    ("incident_sync_credential_refused", "1 while Entra refuses the credential"),
    ("incident_sync_credential_in_use", "1 for the credential that last obtained a token"),
    (
        "incident_sync_credential_expiry_timestamp_seconds",
        "When the credential expires, in seconds since 1970",
    ),
    (
        "incident_sync_credential_files_unusable",
        "1 while the files of the credential are unreadable or inconsistent",
    ),
    ("incident_sync_config_reload_failed", "1 if the last reload was rejected"),
    ("incident_sync_config_files_refused", "Invalid files of tenants_dir, which are ignored"),
    ("incident_sync_build_info", "1, with the version as a label"),
];
