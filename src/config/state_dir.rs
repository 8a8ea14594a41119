//! The directory for state.

use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use super::environment::{Variables, process_environment};

/// The directory for state: systemd's `$STATE_DIRECTORY`, `/var/lib/incident-sync` for root, else below the home directory.
pub fn state_dir() -> PathBuf {
    state_dir_of(&process_environment(), geteuid().is_root())
}

pub(super) fn state_dir_of(environment: &Variables, is_root: bool) -> PathBuf {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    if let Some(first) =
        variable("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').find(|dir| !dir.is_empty()))
    {
        return PathBuf::from(first);
    }
    if is_root {
        return PathBuf::from("/var/lib/incident-sync");
    }
    if let Some(dir) = variable("XDG_STATE_HOME") {
        return Path::new(dir).join("incident-sync");
    }
    let home = variable("HOME").map(PathBuf::from);
    // The password database has the home directory of a service account without $HOME.
    let home = home
        .or_else(|| Some(User::from_uid(geteuid()).ok()??.dir))
        .unwrap_or_else(|| PathBuf::from("/"));
    home.join(".local/state/incident-sync")
}
