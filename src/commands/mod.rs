//! The command line: one module for each command, with its arguments, its output and its exit status.

mod args;
pub mod check;
pub mod completions;
pub mod config;
pub mod consent_url;
#[cfg(feature = "demo")]
pub mod demo;
pub mod exit;
pub mod grant_reader;
pub mod health;
pub mod man;
pub mod migrate;
pub mod output;
mod progress;
pub mod run;
pub mod status;
pub mod sync;
pub mod tenant;
pub mod verify;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::commands::config::ConfigCommand;
use crate::commands::exit::Failure;
use crate::commands::tenant::TenantCommand;
use crate::config::{Config, Purpose};
use crate::daemon::systemd;
use crate::telemetry::{self, LogFormat};

/// Mirror Microsoft 365 Defender incidents from many customer tenants into one Postgres database.
///
/// Exit status: 0 success, 1 a tenant failed, 2 usage or configuration error, 3 database error.
#[derive(Debug, Parser)]
#[command(name = "incident-sync", version, max_term_width = 100)]
struct Cli {
    /// The configuration file. Default: `$INCIDENT_SYNC_CONFIG`, then /etc/incident-sync/incident-sync.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Increase verbosity (repeatable). `RUST_LOG` gives full control.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// The format of the log on standard error.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: sync every enabled tenant on schedule.
    Run(run::RunArgs),
    /// Sync every tenant once, now.
    Sync(sync::SyncArgs),
    /// Compare the database with the API without writing. Exit status 1 if they differ.
    Verify(verify::VerifyArgs),
    /// Decode and store quarantined incidents again, for example after an update.
    RetryRejected(sync::RetryRejectedArgs),
    /// Diagnose files, clock, network, database and each tenant's token, role and API access; name who has to fix what.
    Check(check::CheckArgs),
    /// Show each tenant's freshness, last outcome and row counts, from the database.
    Status(status::StatusArgs),
    /// Check that a daemon answers at `http.listen`. Exit status 1 if not. For containers.
    Health(health::HealthArgs),
    /// Apply database migrations.
    Migrate(migrate::MigrateArgs),
    /// Create or change a database role that reads the data of some tenants, or of all.
    GrantReader(grant_reader::GrantArgs),
    /// Validate or print the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Manage tenants and their data.
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// Print the link for a customer's admin consent; with --listen, onboard the customer.
    ConsentUrl(consent_url::ConsentArgs),
    /// Print a shell completion script.
    Completions(completions::CompletionsArgs),
    /// Write the man pages, one for each command.
    Man(man::ManArgs),
    /// Run a demonstration on this machine: a private Postgres, a simulator with twelve tenants, and the daemon.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Run only the simulator: a token endpoint and an incidents API with generated tenants.
    #[cfg(feature = "demo")]
    Simulate(demo::SimulateArgs),
}

/// How often and how quickly the daemon reads an invalid configuration at its start under systemd.
const START_TRIES: u32 = 4;
const START_PAUSE: Duration = Duration::from_secs(3);

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_quiet_on_terminal =
        !matches!(cli.command, Command::Run(_)) && std::io::stderr().is_terminal();
    let level = match (cli.verbose, is_quiet_on_terminal) {
        (0, true) => "error",
        (0, false) | (1, true) => "info",
        (1, false) | (2, true) => "debug",
        _ => "trace",
    };
    telemetry::start(cli.log_format, level);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(dispatch(cli));
            // A name lookup cannot be interrupted; waiting for it could exceed the ten seconds of a stop.
            runtime.shutdown_background();
            result
        }
        Err(error) => {
            Err(Failure::Configuration(format!("cannot start the async runtime: {error}")))
        }
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

/// Runs the commands that need no valid configuration, then the others.
async fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args).await,
        #[cfg(feature = "demo")]
        Command::Simulate(args) => demo::simulate(args).await,
        Command::Completions(args) => completions::run::<Cli>(&args),
        Command::Man(args) => man::run::<Cli>(&args),
        Command::Health(args) => health::run(cli.config.as_deref(), args).await,
        command => {
            let config = load_or_wait(cli.config.as_deref(), &command).await?;
            Box::pin(configured(config, cli.config, command)).await
        }
    }
}

/// The unit fails for good with an invalid configuration. At the start of a machine, files may arrive late.
async fn load_or_wait(file: Option<&Path>, command: &Command) -> Result<Config, Failure> {
    let is_unit = matches!(command, Command::Run(_)) && systemd::is_supervised();
    for _ in 1..START_TRIES {
        match load(file, command) {
            Err(failure) if is_unit => {
                tracing::error!(
                    owner = "operator",
                    "Configuration rejected: {failure}. Trying again in {} s",
                    START_PAUSE.as_secs()
                );
                systemd::show_status("The configuration is invalid".to_owned()).await;
                tokio::time::sleep(START_PAUSE).await;
            }
            loaded => return loaded,
        }
    }
    load(file, command)
}

/// Whether a command sends the credentials to Entra.
fn purpose(command: &Command) -> Purpose {
    match command {
        Command::Check(_) | Command::Config { command: ConfigCommand::Check(_) } => Purpose::Judge,
        Command::Tenant { command: TenantCommand::Move(_) }
        | Command::Run(_)
        | Command::Sync(_)
        | Command::Verify(_)
        | Command::ConsentUrl(_) => Purpose::Run,
        _ => Purpose::WithoutCredentials,
    }
}

/// Loads the configuration; `check` and `config check` report its errors in their own form.
fn load(file: Option<&Path>, command: &Command) -> Result<Config, Failure> {
    let config =
        crate::config::load_for(purpose(command), file).map_err(|errors| match command {
            Command::Check(args) => check::refused(&errors, args),
            Command::Config { command: ConfigCommand::Check(args) } => {
                let file = crate::config::file(file);
                config::report_rejected(file.as_deref(), &errors, args)
            }
            _ => Failure::Configuration(errors.to_string()),
        })?;
    // The command prints them itself.
    if matches!(command, Command::Config { command: ConfigCommand::Check(_) }) {
        return Ok(config);
    }
    for warning in &config.warnings {
        tracing::warn!(owner = "operator", "{warning}");
    }
    // The daemon logs them itself.
    if !matches!(command, Command::Run(_)) {
        for error in &config.tenants_dir_errors {
            tracing::error!(owner = "operator", error = %error, "Ignoring an invalid file in tenants_dir; all other tenants are processed");
        }
    }
    Ok(config)
}

async fn configured(
    config: Config,
    file: Option<PathBuf>,
    command: Command,
) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(config, file, args).await,
        Command::Sync(args) => sync::run(&config, args).await,
        Command::Verify(args) => verify::run(&config, args).await,
        Command::RetryRejected(args) => sync::retry_rejected(&config, args).await,
        Command::Check(args) => check::run(&config, args).await,
        Command::Status(args) => status::run(&config, args).await,
        Command::Migrate(args) => migrate::run(&config, args).await,
        Command::GrantReader(args) => grant_reader::run(&config, args).await,
        Command::Config { command } => config::run(&config, &command),
        Command::Tenant { command } => tenant::run(&config, command).await,
        Command::ConsentUrl(args) => consent_url::run(&config, file.as_deref(), &args).await,
        Command::Completions(_) | Command::Man(_) | Command::Health(_) => Ok(()),
        #[cfg(feature = "demo")]
        Command::Demo(_) | Command::Simulate(_) => Ok(()),
    }
}
