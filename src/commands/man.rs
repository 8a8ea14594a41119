//! The command `man`.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::commands::exit::Failure;

#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory; created if it does not exist.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Writes a page for the program and one for each of its commands.
pub fn run<C: CommandFactory>(args: &ManArgs) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(C::command(), &args.directory));
    written.map_err(|error| {
        Failure::Configuration(format!(
            "cannot write the man pages to {}: {error}",
            args.directory.display()
        ))
    })
}
