//! The command `run`: the daemon.

use std::path::PathBuf;

use clap::Args;

use crate::commands::exit::Failure;
use crate::config::Config;
use crate::daemon::lifecycle::{self, DaemonError};

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Skip migrations at startup; run `incident-sync migrate` yourself.
    #[arg(long)]
    no_migrate: bool,
}

/// Runs the daemon until SIGTERM or SIGINT. `file` is the configuration named on the command line.
pub async fn run(config: Config, file: Option<PathBuf>, args: RunArgs) -> Result<(), Failure> {
    Ok(lifecycle::run(config, file, !args.no_migrate).await?)
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::Setup(error) => error.into(),
            DaemonError::PostgresExited => Self::Database(error.to_string()),
            DaemonError::DispatcherEnded(_) => Self::NotDone(error.to_string()),
            DaemonError::Hangup(_) | DaemonError::Schedule(_) | DaemonError::Listen { .. } => {
                Self::Configuration(error.to_string())
            }
        }
    }
}
