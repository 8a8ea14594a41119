//! The directories of secret files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::environment::Variables;
use crate::entra::secret_file::{Readers, SecretFile};

/// The directory beside the configuration that the unit passes to the service: each file is a credential of systemd, named
/// after the directory and itself.
const DIRECTORY: &str = "credentials";
/// Where systemd keeps the credentials of the running unit.
const OF_UNIT: &str = "/run/credentials/incident-sync.service";
/// The state of a unit with a dynamic user.
const PRIVATE_STATE: &str = "/var/lib/private/incident-sync";

/// What a configuration is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To run: every credential must be readable.
    Run,
    /// To judge whether the service can run: the files must be readable for its user too.
    Judge,
    /// For commands that send nothing to Entra: credentials may be unreadable.
    WithoutCredentials,
}

pub(super) struct SecretFiles {
    /// `$CREDENTIALS_DIRECTORY`, to which systemd restricts access; for root, that of the running unit.
    pub(super) credentials: Option<PathBuf>,
    /// The directory of the configuration file, for relative paths.
    pub(super) folder: PathBuf,
    pub(super) purpose: Purpose,
    /// Who reads the files besides this process.
    pub(super) readers: Readers,
}

impl SecretFiles {
    pub(super) fn new(
        folder: PathBuf,
        environment: &Variables,
        state_dir: &Path,
        is_root: bool,
        purpose: Purpose,
    ) -> Self {
        let passed = environment
            .get("CREDENTIALS_DIRECTORY")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from);
        let of_unit = || Some(PathBuf::from(OF_UNIT)).filter(|dir| is_root && dir.is_dir());
        let service = service_user(state_dir).filter(|_| is_root);
        let readers = Readers { service, is_judged: purpose == Purpose::Judge };
        Self { credentials: passed.or_else(of_unit), folder, purpose, readers }
    }

    /// The content of a secret file, without its last line break.
    pub(super) fn read(&self, name: &str) -> Result<SecretString, String> {
        self.file(name).line()
    }

    /// The file of this name. For a name without a slash, a credential of systemd takes precedence.
    pub(super) fn file(&self, name: &str) -> SecretFile {
        let is_bare = !name.contains('/');
        let beside = self.folder.join(DIRECTORY).join(name);
        let passed = self.credentials.iter().flat_map(|credentials| {
            [credentials.join(name), credentials.join(format!("{DIRECTORY}_{name}"))]
        });
        let found = passed.chain([beside.clone()]).find(|path| is_bare && path.exists());
        let path = found.unwrap_or_else(|| self.folder.join(name));
        let directory = self.folder.join(DIRECTORY);
        let folders = self.credentials.iter().chain([&directory, &self.folder]);
        let locations: Vec<String> = folders.map(|folder| folder.display().to_string()).collect();
        let is_guarded =
            self.credentials.as_ref().is_some_and(|credentials| path.starts_with(credentials));
        // The unit passes it, so that the service need not read it there.
        let is_judged = self.readers.is_judged && !(is_bare && path == beside);
        let readers = Readers { is_judged, ..self.readers };
        let bare = is_bare.then(|| format!(" in {}", locations.join(" or ")));
        SecretFile { path, bare, is_guarded, readers }
    }
}

/// The user that the service runs as: the owner of its state. `None` for root, or before the first start.
fn service_user(state_dir: &Path) -> Option<u32> {
    let owner = |path: &Path| fs::metadata(path).ok().map(|about| about.uid());
    let owners = [owner(state_dir), owner(Path::new(PRIVATE_STATE))];
    owners.into_iter().flatten().find(|owner| *owner != 0)
}
