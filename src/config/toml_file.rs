//! One TOML file, from its path to a table.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use config::{FileFormat, Map, Source, Value};
use nix::fcntl::OFlag;

use super::environment::Variables;
use super::errors::ConfigError;
use crate::postgres::io_message;

/// Read when neither the command line nor the environment names a file.
const DEFAULT_FILE: &str = "/etc/incident-sync/incident-sync.toml";

/// The main file: the named one, `$INCIDENT_SYNC_CONFIG`, or the one in `/etc` if it exists.
pub(super) fn find_file(named: Option<&Path>, environment: &Variables) -> Option<PathBuf> {
    let from_environment = || {
        environment.get("INCIDENT_SYNC_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
    let file = named.map(Path::to_owned).or_else(from_environment).or_else(default)?;
    // Absolute, so that a reload finds it from any working directory.
    Some(std::path::absolute(&file).unwrap_or(file))
}

pub(super) fn parse_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    parse_file_if(path, |_| Ok(()))
}

/// Parses a file whose metadata passes `check`. Both use one descriptor, so that the file cannot change between them.
pub(super) fn parse_file_if(
    path: &Path,
    check: impl FnOnce(&Metadata) -> Result<(), String>,
) -> Result<Map<String, Value>, ConfigError> {
    let wrong =
        |problem| ConfigError { file: path.display().to_string(), key: String::new(), problem };
    let cannot_read = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => wrong(format!(
            "cannot read the file: {}. If only the service cannot read it, move any secret into a separate file, then run: chmod go+r {}",
            io_message(&error),
            path.display()
        )),
        _ => wrong(format!("cannot read the file: {error}")),
    };
    // Opening a pipe without a writer would block.
    let flags = OFlag::O_NONBLOCK.bits();
    let mut file =
        File::options().read(true).custom_flags(flags).open(path).map_err(cannot_read)?;
    check(&file.metadata().map_err(cannot_read)?).map_err(wrong)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(cannot_read)?;
    let parsed = config::File::from_str(&text, FileFormat::Toml).collect();
    parsed.map_err(|error| wrong(without_source_line(&error.to_string())))
}

/// A syntax error without the source line that it quotes, which may contain a secret.
fn without_source_line(error: &str) -> String {
    let quoted = |line: &str| {
        line.trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start()
            .starts_with('|')
    };
    let kept: Vec<&str> =
        error.lines().map(str::trim).filter(|line| !line.is_empty() && !quoted(line)).collect();
    kept.join(": ")
}
