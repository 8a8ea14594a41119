//! The commands `sync` and `retry-rejected`: one run of each tenant.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::commands::args::{TenantFilter, time};
use crate::commands::exit::Failure;
use crate::commands::output::{self, print};
use crate::commands::progress::ProgressBars;
use crate::config::Config;
use crate::context::{self, OpenDatabase, SetupError};
use crate::daemon::signals;
use crate::entra::Tenant;
use crate::postgres::Hold;
use crate::store::runs::Outcome;
use crate::sync::engine::TenantResult;
use crate::sync::tenant_run::SyncMode;

#[derive(Debug, Args)]
pub struct SyncArgs {
    #[command(flatten)]
    filter: TenantFilter,
    /// Read everything that the API retains, not only what changed.
    #[arg(long, conflicts_with = "since")]
    full: bool,
    /// Read everything updated since this time, such as 2026-11-01 or 2026-11-01T08:30:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct RetryRejectedArgs {
    #[command(flatten)]
    filter: TenantFilter,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(config: &Config, args: SyncArgs) -> Result<(), Failure> {
    let mode = match args.since {
        Some(time) => SyncMode::Since(time),
        None if args.full => SyncMode::Full,
        None => SyncMode::Incremental,
    };
    sync(config, &args.filter, mode, args.json).await
}

pub async fn retry_rejected(config: &Config, args: RetryRejectedArgs) -> Result<(), Failure> {
    sync(config, &args.filter, SyncMode::Quarantine, args.json).await
}

async fn sync(
    config: &Config,
    filter: &TenantFilter,
    mode: SyncMode,
    json: bool,
) -> Result<(), Failure> {
    let tenants = filter.select(config)?;
    if mode == SyncMode::Quarantine {
        context::must_exist(&config.database).map_err(SetupError::from)?;
    }
    let database = OpenDatabase::open(&config.database, Hold::Command, true).await?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let bars = ProgressBars::new(tenants.len());
    let result = sync_with(config, &database, &tenants, mode, &bars, stop, json).await;
    signals.abort();
    database.close().await;
    result
}

async fn sync_with(
    config: &Config,
    database: &OpenDatabase,
    tenants: &[Arc<Tenant>],
    mode: SyncMode,
    bars: &ProgressBars,
    stop: CancellationToken,
    json: bool,
) -> Result<(), Failure> {
    let started = Instant::now();
    let engine = context::engine(config, database.store.clone(), bars.observer(), stop)
        .await
        .map_err(SetupError::from)?;
    let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.id.0).collect();
    let results = engine.run_once(&ids, mode).await.map_err(SetupError::from)?;
    bars.clear();
    let ran = |tenant: &Tenant| results.iter().any(|result| result.tenant.id == tenant.id);
    let skipped: Vec<&str> =
        tenants.iter().filter(|tenant| !ran(tenant)).map(|tenant| tenant.name.as_str()).collect();
    print(json, &as_json(&results, &skipped, started.elapsed()), || table(&results))?;
    for name in &skipped {
        eprintln!(
            "{name}: skipped (parked, leased by another instance, throttled, or interrupted)"
        );
    }
    let is_good = skipped.is_empty() && results.iter().all(|result| result.outcome == Outcome::Ok);
    if is_good { Ok(()) } else { Err(Failure::Tenant) }
}

/// One row for each run.
pub(crate) fn table(results: &[TenantResult]) -> String {
    let mut table = output::table([
        "tenant",
        "outcome",
        "pages",
        "incidents",
        "written",
        "alerts",
        "rejected",
        "seconds",
        "who must act",
        "what",
    ]);
    for result in results {
        let counts = &result.report.counts;
        let (who, advice) = result
            .diagnosis
            .as_ref()
            .map_or(("", ""), |diagnosis| (diagnosis.owner.as_str(), &*diagnosis.advice));
        table.add_row([
            result.tenant.name.clone(),
            result.outcome.as_str().to_owned(),
            counts.api_calls.to_string(),
            counts.incidents_seen.to_string(),
            counts.incidents_written.to_string(),
            counts.alerts_written.to_string(),
            counts.rejected.to_string(),
            format!("{:.1}", result.took.as_secs_f64()),
            who.to_owned(),
            advice.to_owned(),
        ]);
    }
    table.to_string()
}

fn as_json(results: &[TenantResult], skipped: &[&str], took: Duration) -> Value {
    let tenant = |result: &TenantResult| {
        let counts = &result.report.counts;
        json!({
            "tenant_id": result.tenant.id.0,
            "name": result.tenant.name,
            "outcome": result.outcome,
            "api_calls": counts.api_calls,
            "throttled": counts.throttled,
            "incidents_seen": counts.incidents_seen,
            "incidents_written": counts.incidents_written,
            "alerts_written": counts.alerts_written,
            "rejected": counts.rejected,
            "mistyped_fields": counts.mistyped_fields,
            "watermark": result.report.watermark,
            "seconds": result.took.as_secs_f64(),
            "error_class": result.diagnosis.as_ref().map(|diagnosis| diagnosis.class),
            "who_must_act": result.diagnosis.as_ref().map(|diagnosis| diagnosis.owner.as_str()),
            "advice": result.diagnosis.as_ref().map(|diagnosis| &*diagnosis.advice),
            "error": result.report.failure.as_ref().map(ToString::to_string),
        })
    };
    let tenants: Vec<Value> = results.iter().map(tenant).collect();
    json!({
        "ok": skipped.is_empty() && results.iter().all(|result| result.outcome == Outcome::Ok),
        "seconds": took.as_secs_f64(),
        "left_out": skipped,
        "tenants": tenants,
    })
}
