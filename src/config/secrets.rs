//! Where secret files are looked for.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::entra::secret_file::SecretFile;

/// The folders of secret files.
pub(super) struct SecretFiles {
    /// `$CREDENTIALS_DIRECTORY`: systemd's, which guards it by itself.
    pub(super) credentials: Option<PathBuf>,
    /// Relative paths begin at the configuration file.
    pub(super) folder: PathBuf,
}

impl SecretFiles {
    /// The secret in that file, without its last line break.
    pub(super) fn read(&self, name: &str) -> Result<SecretString, String> {
        self.file(name).line()
    }

    /// The file of that name: a bare one is a credential of systemd's first.
    pub(super) fn file(&self, name: &str) -> SecretFile {
        let is_bare = !name.contains('/');
        let credential = self.credentials.as_ref().map(|credentials| credentials.join(name));
        let path = match credential {
            Some(path) if is_bare && path.exists() => path,
            _ => self.folder.join(name),
        };
        let places = match &self.credentials {
            Some(credentials) => {
                format!(" in {} or {}", credentials.display(), self.folder.display())
            }
            None => format!(" in {}", self.folder.display()),
        };
        let is_guarded =
            self.credentials.as_ref().is_some_and(|credentials| path.starts_with(credentials));
        SecretFile { path, bare: is_bare.then_some(places), is_guarded }
    }
}
