//! The command `health`: a probe for containers.

use std::net::SocketAddr;
use std::path::Path;

use clap::Args;

use crate::commands::exit::Failure;
use crate::config;
use crate::daemon::http::server;

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Probe this address and read no configuration.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
}

/// Reads only `http.listen`, so that it works with an otherwise invalid configuration.
pub async fn run(file: Option<&Path>, args: HealthArgs) -> Result<(), Failure> {
    let address = args.address.unwrap_or_else(|| config::listen(file));
    server::ask_health(address).await.map_err(Failure::NotHealthy)
}
