//! Secrets in files: found, checked, read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use secrecy::SecretString;

/// Nobody's password is longer; a wrong path may lead to a disk image.
const LARGEST: u64 = 64 * 1024;

/// Where secret files are looked for.
pub(super) struct SecretFiles {
    /// `$CREDENTIALS_DIRECTORY`: systemd's, which guards it by itself.
    pub(super) credentials: Option<PathBuf>,
    /// Relative paths begin at the configuration file.
    pub(super) folder: PathBuf,
}

impl SecretFiles {
    /// The secret in that file, without its last line break. The error names the file but for a bare name, which may
    /// be a secret that was pasted into the wrong key.
    pub(super) fn read(&self, name: &str) -> Result<SecretString, String> {
        let bare = !name.contains('/');
        let path = self.find(name);
        let label = if bare { "the file of that name".to_owned() } else { path.display().to_string() };
        let cannot_read = |error: std::io::Error| {
            let places = match &self.credentials {
                Some(credentials) if bare => format!(" in {} or {}", credentials.display(), self.folder.display()),
                None if bare => format!(" in {}", self.folder.display()),
                _ => String::new(),
            };
            format!("cannot read {label}{places}: {error}; create it with mode 0600, owned by the service's user")
        };

        let meta = fs::metadata(&path).map_err(cannot_read)?;
        if !meta.is_file() {
            return Err(format!("{label} is not a regular file; name a file that holds the secret"));
        }
        let guarded = self.credentials.as_ref().is_some_and(|credentials| path.starts_with(credentials));
        if !guarded && meta.permissions().mode() & 0o077 != 0 {
            let path = if bare { "the file".to_owned() } else { path.display().to_string() };
            return Err(format!("{label} is open to other users; close it with `chmod 600 {path}`"));
        }
        let mut text = String::new();
        File::open(&path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text)).map_err(cannot_read)?;
        one_line(&text).map_err(|problem| format!("{label} {problem}; write the secret alone into it"))
    }

    fn find(&self, name: &str) -> PathBuf {
        let credential = self.credentials.as_ref().map(|credentials| credentials.join(name));
        match credential {
            Some(path) if !name.contains('/') && path.exists() => path,
            _ => self.folder.join(name),
        }
    }
}

fn one_line(text: &str) -> Result<SecretString, &'static str> {
    let line = text.trim_end_matches(['\n', '\r']);
    if line.trim().is_empty() {
        return Err("is empty");
    }
    if text.len() as u64 > LARGEST || line.contains(['\n', '\r', '\0']) {
        return Err("holds more than one line");
    }
    Ok(SecretString::from(line))
}
