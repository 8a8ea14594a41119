//! The command `verify`: compares the database with the API.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::commands::args::{TenantFilter, time};
use crate::commands::exit::Failure;
use crate::commands::output::{self, print};
use crate::commands::progress::ProgressBars;
use crate::config::Config;
use crate::context::{self, OpenDatabase};
use crate::daemon::signals;
use crate::sync::verify::{self, Drift, VerifyRange};
use crate::tenant::Source;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    filter: TenantFilter,
    /// Compare only what was updated since this time, such as 2026-11-01 or 2026-11-01T08:30:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Compare with this source instead of the configured one. The tenant must have consented to its permission.
    #[arg(long, value_name = "SOURCE", value_parser = Source::NAMES)]
    source: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(config: &Config, args: VerifyArgs) -> Result<(), Failure> {
    let mut tenants = args.filter.select(config)?;
    if let Some(source) = args.source.as_deref().and_then(Source::from_name) {
        tenants = tenants.iter().map(|tenant| Arc::new(tenant.read_from(source))).collect();
    }
    let database = OpenDatabase::existing(&config.database).await?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let services = context::services(config, database.store.clone());
    let range = VerifyRange {
        since: args.since,
        lookback: config.sync.lookback,
        overlap: config.sync.overlap,
    };
    let bars = ProgressBars::new(tenants.len());
    let drifts =
        verify::all(&services, &tenants, range, config.sync.concurrency, &stop, &bars.observer())
            .await;
    bars.clear();
    signals.abort();
    drop(services);
    database.close().await;
    let is_clean = drifts.iter().all(Drift::is_clean);
    print(args.json, &json!({ "ok": is_clean, "tenants": drifts }), || table(&drifts))?;
    if is_clean { Ok(()) } else { Err(Failure::Tenant) }
}

/// Shows the first few examples of each kind of drift.
fn table(drifts: &[Drift]) -> String {
    const EXAMPLES: usize = 5;
    fn examples<T: ToString>(found: &[T]) -> String {
        let shown: Vec<String> = found.iter().take(EXAMPLES).map(ToString::to_string).collect();
        match found.len() {
            0 => "0".to_owned(),
            few @ 1..=EXAMPLES => format!("{few}: {}", shown.join(", ")),
            many => format!("{many}: {}, ...", shown.join(", ")),
        }
    }
    let mut table = output::table([
        "tenant",
        "source",
        "compared",
        "too recent",
        "missing",
        "older",
        "extra",
        "alerts",
        "rejected",
        "gaps",
        "who must act",
        "what",
    ]);
    for drift in drifts {
        table.add_row([
            drift.name.clone(),
            drift.source.to_owned(),
            drift.compared.to_string(),
            drift.too_recent.to_string(),
            examples(&drift.missing),
            examples(&drift.older),
            examples(&drift.extra),
            examples(&drift.alerts),
            drift.rejected.to_string(),
            drift.gaps.to_string(),
            drift.who_must_act.unwrap_or_default().to_owned(),
            drift.failure.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}
