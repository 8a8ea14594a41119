//! A file with a secret. Its permissions are checked at each read, because files are replaced at run time.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use secrecy::SecretString;

/// Limits the memory for a wrong path, such as that of a disk image. Passwords and certificates are smaller.
const BYTES_MAX: u64 = 64 * 1024;

/// The location of a secret, and the parts of it that messages may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    pub path: PathBuf,
    /// The folders searched, if the file was named without a folder. The name may be a secret that was pasted into the wrong
    /// key, so messages do not show it.
    pub bare: Option<String>,
    /// systemd protects it (a credential of the unit).
    pub is_guarded: bool,
    pub readers: Readers,
}

/// Who reads a secret file besides this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readers {
    /// The service's user, if this is root and the service runs as another one.
    pub service: Option<u32>,
    /// Whether the service must be able to read the file.
    pub is_judged: bool,
}

impl SecretFile {
    /// The secret in the file, without its last line break.
    pub fn line(&self) -> Result<SecretString, String> {
        let text = String::from_utf8(self.bytes()?).map_err(|_| self.wrong("is not text"))?;
        one_line(&text).map_err(|problem| self.wrong(problem))
    }

    /// The content of the file, which must be closed to other users.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        self.bytes_where(|_| true)
    }

    /// The content of the file, without a check of its permissions.
    pub fn open_bytes(&self) -> Result<Vec<u8>, String> {
        self.bytes_where(|_| false)
    }

    /// The content of the file. If it is secret, the file must belong to this user or root and be closed to others. The open
    /// file is checked, because another one may get its name meanwhile.
    pub fn bytes_where(&self, is_secret: impl FnOnce(&[u8]) -> bool) -> Result<Vec<u8>, String> {
        // Opening a pipe without a writer would block.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(flags).open(&self.path);
        let file = file.map_err(|error| self.cannot_read(&error))?;
        let about = file.metadata().map_err(|error| self.cannot_read(&error))?;
        if !about.is_file() {
            return Err(format!(
                "{} is not a regular file. Specify a file that contains the secret",
                self.label()
            ));
        }
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.cannot_read(&error))?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(self.wrong("is larger than 64 KiB"));
        }
        if is_secret(&bytes) && !self.is_guarded {
            self.check_closed(&about)?;
        }
        Ok(bytes)
    }

    /// Fails if another user can read the file or change its mode.
    fn check_closed(&self, about: &Metadata) -> Result<(), String> {
        let path =
            if self.bare.is_some() { String::new() } else { format!(" {}", self.path.display()) };
        let label = self.label();
        let locations = self.locations();
        let service = geteuid().as_raw();
        if about.permissions().mode() & 0o077 != 0 {
            return Err(format!(
                "{label}{locations} is open to other users. Close it with `chmod 600{path}`"
            ));
        }
        let owner = about.uid();
        let Readers { service: of_service, is_judged } = self.readers;
        if owner != 0 && owner != service && Some(owner) != of_service {
            return Err(format!(
                "{label}{locations} belongs to user {owner}, who can read and replace it. It must belong to root or to the service's user: `chown {service}{path}`"
            ));
        }
        if let Some(user) = of_service.filter(|user| is_judged && *user != owner) {
            return Err(format!(
                "{label}{locations} is readable by root only; the service runs as user {user} and cannot read it. Move it into the directory credentials beside incident-sync.toml, which the unit passes to the service, name it without a folder, and restart the service"
            ));
        }
        Ok(())
    }

    /// The name of the file in messages.
    pub fn label(&self) -> String {
        if self.bare.is_some() {
            "the file of that name".to_owned()
        } else {
            self.path.display().to_string()
        }
    }

    fn cannot_read(&self, error: &std::io::Error) -> String {
        let label = self.label();
        let locations = self.locations();
        format!(
            "cannot read {label}{locations}: {error}. Create it with mode 0600, owned by the service user"
        )
    }

    fn locations(&self) -> &str {
        self.bare.as_deref().unwrap_or_default()
    }

    fn wrong(&self, problem: &str) -> String {
        format!("{} {problem}. Write only the secret into it", self.label())
    }
}

fn one_line(text: &str) -> Result<SecretString, &'static str> {
    let line = text.trim_end_matches(['\n', '\r']);
    if line.trim().is_empty() {
        return Err("is empty");
    }
    if line.contains(['\n', '\r', '\0']) {
        return Err("contains more than one line");
    }
    Ok(SecretString::from(line))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn file_of_other_mode_or_owner_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "x").unwrap();
        let file = SecretFile {
            path: path.clone(),
            bare: None,
            is_guarded: false,
            readers: Readers::default(),
        };
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(file.bytes().unwrap_err().contains("chmod 600 /"));
        assert!(file.open_bytes().is_ok());
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(file.bytes().unwrap(), b"x");
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let refused = file.bytes().unwrap_err();
            assert!(
                refused.contains("belongs to user 65534") && refused.contains("chown 0 /"),
                "{refused}"
            );
            let readers = Readers { service: Some(65_534), is_judged: true };
            let of_service = SecretFile { readers, ..file.clone() };
            assert!(of_service.bytes().is_ok(), "the service's own file");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
            let closed = of_service.bytes().unwrap_err();
            assert!(closed.contains("runs as user 65534 and cannot read it"), "{closed}");
            let readers = Readers { is_judged: false, ..readers };
            assert!(SecretFile { readers, ..file.clone() }.bytes().is_ok());
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let bare = SecretFile { bare: Some(" in /etc".into()), ..file.clone() };
            assert!(!bare.bytes().unwrap_err().contains("secret`"), "the name may be a secret");
            assert!(file.open_bytes().is_ok());
            assert!(SecretFile { is_guarded: true, ..file }.bytes().is_ok());
        }
    }

    #[test]
    fn pipe_is_rejected_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = SecretFile { path, bare: None, is_guarded: false, readers: Readers::default() };
        assert!(file.bytes().unwrap_err().contains("not a regular file"));
    }
}
