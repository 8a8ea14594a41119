//! The server programs of Postgres on this machine, and their version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::EmbeddedError;

/// The oldest supported server.
pub(crate) const OLDEST_MAJOR: u32 = 15;

/// The directories of packages, newest version first, then those of `PATH`.
fn program_dirs() -> Vec<PathBuf> {
    let mut versioned: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            versioned.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    versioned.sort_by(|a, b| b.cmp(a));
    let mut dirs: Vec<PathBuf> = versioned.into_iter().map(|(_, dir)| dir).collect();
    dirs.extend(["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    // The only use of the environment outside of config: the location of programs is not a setting of incident-sync.
    dirs.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    dirs
}

/// The directory of `initdb` and `postgres`. Existing data requires the version that created it.
pub(super) fn find_programs(
    configured: Option<&Path>,
    data_version: Option<u32>,
) -> Result<PathBuf, EmbeddedError> {
    let dirs = configured.map_or_else(program_dirs, |dir| vec![dir.to_owned()]);
    let mut found = Vec::new();
    for dir in
        dirs.iter().filter(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
    {
        let version = major_version(&dir.join("postgres"));
        match (version, data_version) {
            (Some(version), Some(data)) if version == data => return Ok(dir.clone()),
            (Some(version), None) if version >= OLDEST_MAJOR => return Ok(dir.clone()),
            _ => {
                let version =
                    version.map_or_else(|| "an unknown version".to_owned(), |v| v.to_string());
                found.push(format!("{version} in {}", dir.display()));
            }
        }
    }
    if found.is_empty() {
        let searched = configured.map_or_else(
            || "/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, PATH".to_owned(),
            |dir| format!("{} (database.postgres_bin)", dir.display()),
        );
        return Err(EmbeddedError::NoPrograms { searched });
    }
    let wanted = data_version.map_or_else(
        || format!("{OLDEST_MAJOR} or newer"),
        |version| format!("{version}, the version of the existing data,"),
    );
    Err(EmbeddedError::WrongVersion { wanted, found: found.join(", ") })
}

/// Parses `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split("(PostgreSQL) ").nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
