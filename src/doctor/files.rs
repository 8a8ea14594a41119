//! The facts about the files of the configuration.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::config::Config;
use crate::store::tenants::{RemovedTenants, StoredTenant};
use crate::sync::fleet_change::{Confirmation, FleetChange};

/// Facts about a valid configuration.
#[derive(Debug)]
pub struct ConfigurationFacts {
    /// The main file.
    pub file: String,
    /// The number of configured tenants.
    pub tenants: usize,
    /// Files that users other than their owner can write.
    pub open_to_writers: Vec<String>,
    /// Files that only root can read, although the service runs as another user.
    pub closed_to_service: Vec<String>,
    /// What works but should be changed.
    pub warnings: Vec<String>,
    /// The tenants whose removal is held back, or would be at the next start.
    pub missing: Option<MissingTenants>,
}

/// Tenants that the database knows and the configuration does not name.
#[derive(Debug)]
pub struct MissingTenants {
    pub names: Vec<String>,
    /// The tenants that the database knows.
    pub of: usize,
}

impl MissingTenants {
    fn of(config: &Config, known: &[StoredTenant]) -> Option<Self> {
        let named: Vec<(Uuid, &str)> =
            config.tenants.iter().map(|tenant| (tenant.id.0, tenant.name.as_str())).collect();
        // A file that is invalid may name a tenant that is missing.
        let reported: Vec<Uuid> = known
            .iter()
            .filter(|tenant| tenant.is_missing && !tenant.is_removed)
            .map(|tenant| tenant.tenant_id)
            .collect();
        let may_leave = if config.tenants_dir_errors.is_empty() {
            RemovedTenants::AllOthers
        } else {
            RemovedTenants::Only(&reported)
        };
        let change = FleetChange::of(known, &named, may_leave, Confirmation::None);
        if change.held.is_empty() {
            return None;
        }
        let names = change.held.into_iter().map(|(_, name)| name).collect();
        Some(Self { names, of: change.before })
    }
}

pub(super) fn inspect_configuration(
    config: &Config,
    known: Option<&[StoredTenant]>,
) -> ConfigurationFacts {
    let file = config.file.as_deref();
    let dir = config.onboarding.dir.as_deref();
    let dir_files = dir
        .and_then(|dir| dir.read_dir().ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let paths = [file, file.and_then(Path::parent), dir]
        .into_iter()
        .flatten()
        .map(Path::to_owned)
        .chain(dir_files);
    let paths: Vec<PathBuf> = paths.collect();
    let matching = |is_match: fn(&Path) -> bool| {
        paths.iter().filter(|path| is_match(path)).map(|path| path.display().to_string()).collect()
    };
    ConfigurationFacts {
        file: file
            .map_or_else(|| "built-in defaults".to_owned(), |file| file.display().to_string()),
        tenants: config.tenants.len(),
        open_to_writers: matching(is_open_to_writers),
        closed_to_service: matching(is_closed_to_service),
        warnings: config.warnings.clone(),
        missing: known.and_then(|known| MissingTenants::of(config, known)),
    }
}

/// Whether users other than its owner can write a file or replace it.
fn is_open_to_writers(path: &Path) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode());
    mode & OTHERS_WRITE != 0 && mode & STICKY == 0
}

/// Whether only root can read a file or enter a directory. systemd allocates the user of the unit at its start, so that user
/// owns no file; an owner or group other than root may belong to a service that is set up differently.
pub fn is_readable_by_root_only(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    let needed = if metadata.is_dir() { 0o5 } else { 0o4 };
    let by_others = metadata.mode() & needed == needed;
    let by_group = metadata.gid() != 0 && metadata.mode() >> 3 & needed == needed;
    metadata.uid() == 0 && !by_others && !by_group
}

/// Only TOML files and directories: other files may contain secrets, which must stay unreadable.
fn is_closed_to_service(path: &Path) -> bool {
    let is_read = path.is_dir() || path.extension().is_some_and(|extension| extension == "toml");
    is_read && is_readable_by_root_only(path)
}
