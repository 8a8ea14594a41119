//! The directories of secret files.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::entra::secret_file::SecretFile;

pub(super) struct SecretFiles {
    /// `$CREDENTIALS_DIRECTORY`, to which systemd restricts access.
    pub(super) credentials: Option<PathBuf>,
    /// The directory of the configuration file, for relative paths.
    pub(super) folder: PathBuf,
}

impl SecretFiles {
    /// The content of a secret file, without its last line break.
    pub(super) fn read(&self, name: &str) -> Result<SecretString, String> {
        self.file(name).line()
    }

    /// The file of this name. For a name without a slash, a credential of systemd takes precedence.
    pub(super) fn file(&self, name: &str) -> SecretFile {
        let is_bare = !name.contains('/');
        let credential = self.credentials.as_ref().map(|credentials| credentials.join(name));
        let path = match credential {
            Some(path) if is_bare && path.exists() => path,
            _ => self.folder.join(name),
        };
        let locations = match &self.credentials {
            Some(credentials) => {
                format!(" in {} or {}", credentials.display(), self.folder.display())
            }
            None => format!(" in {}", self.folder.display()),
        };
        let is_guarded =
            self.credentials.as_ref().is_some_and(|credentials| path.starts_with(credentials));
        SecretFile { path, bare: is_bare.then_some(locations), is_guarded }
    }
}
