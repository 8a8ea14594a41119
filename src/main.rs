//! The command `incident-sync`.

use std::process::ExitCode;

fn main() -> ExitCode {
    incident_sync::cli::main()
}
