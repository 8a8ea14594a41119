//! The commands, and what each exit status means.

pub mod consent_url;
#[cfg(feature = "demo")]
pub mod demo;
pub mod exit;
pub mod grant_reader;
pub mod man;
pub mod output;
pub mod progress;
pub mod tenant;

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::commands::consent_url::ConsentArgs;
use crate::commands::exit::Failure;
use crate::commands::grant_reader::GrantArgs;
use crate::commands::output::State;
use crate::commands::progress::Progress;
use crate::commands::tenant::erase_person::{self, EraseArgs};
use crate::commands::tenant::park::{self, ParkArgs, ResumeArgs};
use crate::commands::tenant::purge::{self, PurgeArgs};
use crate::commands::tenant::transfer::{self, ExportArgs, ImportArgs};
use crate::config::{self, Config, ConfigErrors};
use crate::context::{self, OpenDatabase, SetupError};
use crate::daemon::http::server;
use crate::daemon::{lifecycle, signals};
use crate::doctor::{self, CheckResult, Group};
use crate::entra::expiry;
use crate::postgres::Hold;
use crate::store::runs::Outcome;
use crate::store::status::TenantStatus;
use crate::sync::tenant_run::SyncMode;
use crate::sync::verify::{self, Drift, VerifyRange};
use crate::telemetry::{self, LogFormat};
use crate::tenant::Tenant;

/// Keeps a Postgres database equal to the Microsoft 365 Defender incidents of many customer tenants.
///
/// Exit status: 0 good, 1 some tenant failed, 2 usage or configuration, 3 database.
#[derive(Debug, Parser)]
#[command(name = "incident-sync", version, max_term_width = 100)]
struct Cli {
    /// The configuration; else `$INCIDENT_SYNC_CONFIG`, else /etc/incident-sync/incident-sync.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log more; `RUST_LOG` says it in detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// The form of the log on standard error.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The daemon: synchronises every enabled tenant on schedule.
    Run {
        /// Leaves the schema alone; `migrate` is then run by hand.
        #[arg(long)]
        no_migrate: bool,
    },
    /// One pass now.
    Sync(SyncArgs),
    /// Reads the API again and compares it with the database, without writing; exit status 1 if they differ.
    Verify(VerifyArgs),
    /// Decodes and stores again what is in quarantine, as after an update of incident-sync.
    RetryRejected {
        /// Only this tenant, by name or id; may be repeated.
        #[arg(long = "tenant", value_name = "TENANT")]
        tenants: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The doctor: files, clock, network, database, and for each tenant token, role and one call; says who must do what.
    Check {
        /// Only this tenant, by name or id; may be repeated.
        #[arg(long = "tenant", value_name = "TENANT")]
        tenants: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Each tenant's freshness, last outcome and counts, from the database.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Whether a daemon lives at `http.listen`; exit status 1 if not. For containers.
    Health {
        /// Ask there, and read no configuration.
        #[arg(long, value_name = "ADDRESS")]
        address: Option<SocketAddr>,
    },
    /// Applies migrations.
    Migrate {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a database role that reads some tenants only, or all.
    GrantReader(GrantArgs),
    /// The configuration: whether it is right, and what holds.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The configured tenants.
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// The link by which a customer's admin consents; with --listen, takes the customer on.
    ConsentUrl(ConsentArgs),
    /// Prints what a shell needs to complete the commands and options.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Writes the man pages, one for each command.
    Man {
        /// Where to; made if it is absent.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Everything on this machine: a private Postgres, a simulator with a dozen tenants, and the daemon.
    #[cfg(feature = "demo")]
    Demo {
        /// One pass, the summary, three queries and their answers, then exit.
        #[arg(long)]
        once: bool,
        /// The simulator's incidents a tenant.
        #[arg(long, default_value_t = 120)]
        incidents: usize,
    },
    /// The simulator alone: token endpoint and incidents API with seeded, living tenants.
    #[cfg(feature = "demo")]
    Simulate {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8443")]
        listen: SocketAddr,
        /// Tenants.
        #[arg(long, default_value_t = 12)]
        tenants: usize,
        /// Incidents a tenant.
        #[arg(long, default_value_t = 120)]
        incidents: usize,
    },
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// Only this tenant, by name or id; may be repeated.
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Read everything that the API retains, not only what is new.
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
struct VerifyArgs {
    /// Only this tenant, by name or id; may be repeated.
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Compare only what was updated since this time, such as 2026-11-01 or 2026-11-01T08:30:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Lists the configured tenants.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stops a tenant until somebody resumes it; its data stays.
    Park(ParkArgs),
    /// Lets a parked tenant be tried at once.
    Resume(ResumeArgs),
    /// Deletes all data of a tenant that is disabled or gone from the configuration.
    Purge(PurgeArgs),
    /// Erases one person from a tenant's data.
    ErasePerson(EraseArgs),
    /// Writes all data of a tenant into a folder, as JSON Lines with checksums.
    Export(ExportArgs),
    /// Restores what `tenant export` wrote, where the tenant has no rows.
    Import(ImportArgs),
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Reads all files and tells everything that is wrong with them; asks neither network nor database.
    Check {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What holds and where it comes from: a file, the environment, or a default. Secrets are not shown.
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A day begins at midnight UTC.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    let form = "write it like 2026-11-01 (midnight UTC) or 2026-11-01T08:30:00Z";
    text.parse::<DateTime<Utc>>().or_else(|_| day()).map_err(|_| form.to_owned())
}

impl Command {
    fn runs_tenants(&self) -> bool {
        matches!(self, Self::Run { .. } | Self::Sync(_) | Self::RetryRejected { .. })
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_quiet_on_terminal =
        !matches!(cli.command, Command::Run { .. }) && std::io::stderr().is_terminal();
    let level = match (cli.verbose, is_quiet_on_terminal) {
        (0, true) => "error",
        (0, false) | (1, true) => "info",
        (1, false) | (2, true) => "debug",
        _ => "trace",
    };
    let _telemetry = telemetry::start(cli.log_format, level, cli.command.runs_tenants());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli));
            // A name look-up cannot be interrupted, and waiting for it would break the promise of ten seconds.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::Configuration(format!("the runtime did not start: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Tenant) {
                eprintln!("incident-sync: {failure}");
            }
            ExitCode::from(failure.status())
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        #[cfg(feature = "demo")]
        Command::Demo { once, incidents } => {
            return crate::commands::demo::run(once, incidents).await;
        }
        #[cfg(feature = "demo")]
        Command::Simulate { listen, tenants, incidents } => {
            return crate::commands::demo::simulate(listen, tenants, incidents).await;
        }
        Command::Completions { shell } => {
            return output::write_result(
                std::io::stdout().write_all(&man::completions::<Cli>(shell)),
            );
        }
        Command::Man { directory } => {
            return man::write_man_pages::<Cli>(&directory).map_err(|error| {
                Failure::Configuration(format!(
                    "the man pages cannot be written to {}: {error}",
                    directory.display()
                ))
            });
        }
        Command::Health { address } => {
            let address = address.unwrap_or_else(|| config::listen(cli.config.as_deref()));
            return server::ask_health(address).await.map_err(Failure::NotHealthy);
        }
        _ => {}
    }
    let config = config::load(cli.config.as_deref()).map_err(|errors| match cli.command {
        Command::Check { json, .. } => check_refused(&errors, json),
        Command::Config { command: ConfigCommand::Check { json: true } } => {
            let file = config::file(cli.config.as_deref());
            let printed = output::print_line(format_args!(
                "{:#}",
                output::config_json(file.as_deref(), None, &[], &errors.0)
            ));
            printed.err().unwrap_or_else(|| Failure::Configuration(errors.to_string()))
        }
        _ => Failure::Configuration(errors.to_string()),
    })?;
    let is_told_by_command =
        matches!(cli.command, Command::Config { command: ConfigCommand::Check { .. } });
    for warning in config.warnings.iter().filter(|_| !is_told_by_command) {
        tracing::warn!(owner = "operator", "{warning}");
    }
    if !matches!(cli.command, Command::Run { .. }) && !is_told_by_command {
        for error in &config.refused {
            tracing::error!(owner = "operator", error = %error, "a file of tenants_dir is refused; all other tenants go on");
        }
    }
    match cli.command {
        Command::Run { no_migrate } => lifecycle::run(config, cli.config, !no_migrate).await,
        Command::Sync(args) => sync(&config, &args.tenants, args.mode(), args.json).await,
        Command::Verify(args) => verify(&config, args).await,
        Command::RetryRejected { tenants, json } => {
            sync(&config, &tenants, SyncMode::Quarantine, json).await
        }
        Command::Check { tenants, json } => check(&config, &tenants, json).await,
        Command::Status { json } => status(&config, json).await,
        Command::Migrate { json } => migrate(&config, json).await,
        Command::GrantReader(args) => grant_reader::grant(&config, args).await,
        Command::Config { command } => show_config(&config, &command),
        Command::Tenant { command } => tenant(&config, command).await,
        Command::ConsentUrl(args) => consent_url::run(&config, cli.config.as_deref(), &args).await,
        Command::Completions { .. } | Command::Man { .. } | Command::Health { .. } => Ok(()),
        #[cfg(feature = "demo")]
        Command::Demo { .. } | Command::Simulate { .. } => Ok(()),
    }
}

fn show_config(config: &Config, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show { json } => output::print(*json, &json!(config.settings), || {
            output::settings_table(&config.settings)
        }),
        ConfigCommand::Check { json } => check_config(config, *json),
    }
}

/// Warnings are a part of the answer here, whatever the level of the log is.
fn check_config(config: &Config, json: bool) -> Result<(), Failure> {
    let Config { file, tenants, warnings, refused, .. } = config;
    let value = output::config_json(file.as_deref(), Some(tenants.len()), warnings, refused);
    output::print(json, &value, || {
        let file = file
            .as_ref()
            .map_or_else(|| "no file: the defaults".to_owned(), |file| file.display().to_string());
        let judged =
            if refused.is_empty() { "valid" } else { "valid but for files of tenants_dir" };
        let warnings =
            warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect::<String>();
        format!("{file}: {judged}, {} tenants{warnings}", tenants.len())
    })?;
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Failure::Configuration(ConfigErrors(refused.clone()).to_string()))
    }
}

async fn tenant(config: &Config, command: TenantCommand) -> Result<(), Failure> {
    match command {
        TenantCommand::List { json } => {
            output::print(json, &output::tenant_json(&config.tenants), || {
                output::tenant_table(&config.tenants)
            })
        }
        TenantCommand::Park(args) => park::park(config, args).await,
        TenantCommand::Resume(args) => park::resume(config, args).await,
        TenantCommand::Purge(args) => purge::purge(config, args).await,
        TenantCommand::ErasePerson(args) => erase_person::erase(config, args).await,
        TenantCommand::Export(args) => transfer::export(config, args).await,
        TenantCommand::Import(args) => transfer::import(config, args).await,
    }
}

/// The tenants that the operator named, or all enabled ones.
fn chosen(config: &Config, named: &[String]) -> Result<Vec<Arc<Tenant>>, Failure> {
    if named.is_empty() {
        return Ok(config.tenants.iter().filter(|tenant| tenant.enabled).cloned().collect());
    }
    let find = |name: &String| {
        let found = config.tenant(name).filter(|tenant| tenant.enabled).cloned();
        found.ok_or_else(|| {
            Failure::Configuration(format!(
                "no enabled tenant is called {name}; see: incident-sync tenant list"
            ))
        })
    };
    named.iter().map(find).collect()
}

impl SyncArgs {
    fn mode(&self) -> SyncMode {
        match self.since {
            Some(time) => SyncMode::Since(time),
            None if self.full => SyncMode::Full,
            None => SyncMode::Incremental,
        }
    }
}

async fn sync(
    config: &Config,
    named: &[String],
    mode: SyncMode,
    json: bool,
) -> Result<(), Failure> {
    let tenants = chosen(config, named)?;
    if mode == SyncMode::Quarantine {
        context::must_exist(&config.database).map_err(SetupError::from)?;
    }
    let database = OpenDatabase::open(&config.database, Hold::Command, true).await?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let progress = Progress::on_terminal(tenants.len());
    let result = sync_with(config, &database, &tenants, mode, &progress, stop, json).await;
    signals.abort();
    database.close().await;
    result
}

async fn sync_with(
    config: &Config,
    database: &OpenDatabase,
    tenants: &[Arc<Tenant>],
    mode: SyncMode,
    progress: &Progress,
    stop: CancellationToken,
    json: bool,
) -> Result<(), Failure> {
    let started = Instant::now();
    let engine = context::engine(config, database.store.clone(), progress.clone(), stop)
        .await
        .map_err(SetupError::from)?;
    let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.id.0).collect();
    let results = engine.run_once(&ids, mode).await.map_err(SetupError::from)?;
    progress.finish();
    let ran = |tenant: &Tenant| results.iter().any(|result| result.tenant.id == tenant.id);
    let left_out: Vec<&str> =
        tenants.iter().filter(|tenant| !ran(tenant)).map(|tenant| tenant.name.as_str()).collect();
    output::print(json, &output::sync_json(&results, &left_out, started.elapsed()), || {
        output::sync_table(&results)
    })?;
    for name in &left_out {
        eprintln!(
            "{name}: left out; it is parked (see status), another instance works on it, the service asked for a pause, or the command was stopped"
        );
    }
    let is_good = left_out.is_empty() && results.iter().all(|result| result.outcome == Outcome::Ok);
    if is_good { Ok(()) } else { Err(Failure::Tenant) }
}

async fn check(config: &Config, named: &[String], json: bool) -> Result<(), Failure> {
    let tenants = chosen(config, named)?;
    let progress = Progress::on_terminal(tenants.len());
    let findings = doctor::all(config, &tenants, &progress).await;
    progress.finish();
    output::print(json, &output::check_json(&findings), || output::check_table(&findings))?;
    let mut failed =
        findings.iter().filter(|finding| finding.result == CheckResult::Failure).peekable();
    if failed.peek().is_none() {
        return Ok(());
    }
    if failed.any(|finding| finding.group == Group::Database) {
        return Err(Failure::Database("the database check failed".to_owned()));
    }
    Err(Failure::Tenant)
}

/// The doctor answers also where every other command gives up.
fn check_refused(errors: &ConfigErrors, json: bool) -> Failure {
    let findings = doctor::of_refused(errors);
    let printed =
        output::print(json, &output::check_json(&findings), || output::check_table(&findings));
    printed.err().unwrap_or_else(|| Failure::Configuration(errors.to_string()))
}

async fn verify(config: &Config, args: VerifyArgs) -> Result<(), Failure> {
    let tenants = chosen(config, &args.tenants)?;
    let database = OpenDatabase::existing(&config.database).await?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let services = context::services(config, database.store.clone());
    let span = VerifyRange {
        since: args.since,
        lookback: config.sync.lookback,
        overlap: config.sync.overlap,
    };
    let progress = Progress::on_terminal(tenants.len());
    let drifts =
        verify::all(&services, &tenants, span, config.sync.concurrency, &stop, &progress).await;
    progress.finish();
    signals.abort();
    drop(services);
    database.close().await;
    output::print(args.json, &json!(drifts), || output::drift_table(&drifts))?;
    if drifts.iter().all(Drift::is_clean) { Ok(()) } else { Err(Failure::Tenant) }
}

async fn status(config: &Config, json: bool) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let tenants = database.store.tenant_status().await.map_err(SetupError::from);
    database.close().await;
    let mut tenants = tenants?;
    let known: HashSet<Uuid> = tenants.iter().map(|tenant| tenant.standing.tenant_id).collect();
    let unknown = config.tenants.iter().filter(|tenant| !known.contains(&tenant.id.0));
    tenants.extend(unknown.map(|tenant| TenantStatus::unknown(tenant)));
    let expiries = expiry::expiries(&config.tenants).await;
    output::print(json, &output::status_json(&tenants, &config.tenants, &expiries), || {
        let now = expiry::now();
        let credentials =
            expiries.iter().map(|each| format!("\n{}", each.describe(now))).collect::<String>();
        output::status_table(&tenants) + &credentials
    })?;
    let failing = tenants.iter().any(|tenant| State::of(&tenant.standing) <= State::Stale);
    if failing { Err(Failure::Tenant) } else { Ok(()) }
}

async fn migrate(config: &Config, json: bool) -> Result<(), Failure> {
    let database = OpenDatabase::open(&config.database, Hold::Command, true).await?;
    database.close().await;
    output::print(json, &json!({ "ok": true }), || "the schema is current".to_owned())
}
