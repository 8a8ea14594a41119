//! `tenants_dir`: a directory with one file for each tenant.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

use super::errors::ConfigError;
use super::section::{Report, Section};
use super::toml_file;
use crate::error::visible;
use crate::tenant::TenantId;

/// The directory as it was read.
#[derive(Debug, Clone)]
pub struct TenantsDir {
    pub path: PathBuf,
    /// The tenants by file name, as errors show it.
    pub tenants: HashMap<String, TenantId>,
    /// The fingerprint just before the files were read.
    pub as_read: Option<Fingerprint>,
}

/// Path, modification time, length and inode of each file; changes when a file is written, replaced or removed.
pub type Fingerprint = Vec<(PathBuf, Option<SystemTime>, u64, u64)>;

impl TenantsDir {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut dir = Self { path, tenants: HashMap::new(), as_read: None };
        dir.as_read = dir.fingerprint();
        dir
    }

    /// The files in the order of their names.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(&self.path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        // Editors write drafts to dot files.
        let hidden = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
        };
        paths.retain(|path| {
            path.extension().is_some_and(|extension| extension == "toml") && !hidden(path)
        });
        paths.sort();
        Ok(paths)
    }

    /// `None` while the directory cannot be read.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let print = |path: PathBuf| {
            let about = fs::metadata(&path).ok();
            let (length, inode) = about.as_ref().map_or((0, 0), |about| (about.len(), about.ino()));
            (path, about.and_then(|about| about.modified().ok()), length, inode)
        };
        Some(self.files().ok()?.into_iter().map(print).collect())
    }

    /// One section for each file that was not rejected.
    pub(super) fn sections(
        &self,
        rejected: &[ConfigError],
        report: &mut Report,
    ) -> Result<Vec<Section>, String> {
        let path = self.path.display();
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!(
                    "cannot read {path} as the service user: {error}. Run: chmod go+rx {path} (and check its parent directories)"
                )
            }
            _ => format!("cannot read {path}: {error}; create the directory or remove the key"),
        };
        if let Ok(about) = fs::metadata(&self.path) {
            check_writers(&about, &self.path)?;
        }
        let mut sections = Vec::new();
        for path in self.files().map_err(cannot)? {
            let name = path.display().to_string();
            if rejected.iter().any(|error| error.file == name) {
                continue;
            }
            match toml_file::parse_file_if(&path, |about| check_writers(about, &path)) {
                Ok(table) => sections.push(Section::new(&name, "", "tenants", table)),
                Err(error) => report.error(error),
            }
        }
        Ok(sections)
    }
}

/// Fails if another user can write the directory or one of its files, because their content determines which tenants are read
/// and where the credential is sent. As with secret files, root and the service user are trusted, groups are not.
fn check_writers(about: &Metadata, path: &Path) -> Result<(), String> {
    const OTHERS_WRITE: u32 = 0o022;
    // Other users can add files, which are rejected by owner, but cannot replace any.
    const STICKY: u32 = 0o1000;
    let shown = visible(&path.display().to_string());
    let owner = about.uid();
    let service = geteuid().as_raw();
    if owner != 0 && owner != service {
        return Err(format!(
            "{shown} is owned by user {owner}, who could have the credential sent elsewhere. Check its content, then run: chown {service} {shown}"
        ));
    }
    let is_shared =
        about.mode() & OTHERS_WRITE != 0 && !(about.is_dir() && about.mode() & STICKY != 0);
    // Volumes of Kubernetes have an open mode but are mounted read-only.
    let is_read_only =
        || statvfs(path).is_ok_and(|system| system.flags().contains(FsFlags::ST_RDONLY));
    if is_shared && !is_read_only() {
        return Err(format!(
            "{shown} is writable by other users, who could have the credential sent elsewhere. Check its content, then run: chmod go-w {shown}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn directory_and_file_of_other_writers_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contoso.toml");
        fs::write(&file, "").unwrap();
        let check = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            check_writers(&fs::metadata(path).unwrap(), path)
        };
        for path in [folder.path(), &file] {
            let cure = format!("chmod go-w {}", path.display());
            for mode in [0o777, 0o770, 0o702, 0o720] {
                assert!(check(path, mode).unwrap_err().contains(&cure), "{mode:o}");
            }
            for mode in [0o755, 0o750, 0o700] {
                assert_eq!(check(path, mode), Ok(()), "{mode:o}");
            }
        }
        assert_eq!(check(folder.path(), 0o1777), Ok(()), "other users cannot replace a file there");
        assert!(check(&file, 0o1666).is_err(), "the sticky bit has no effect on a file");
        if geteuid().is_root() {
            for path in [folder.path(), &file] {
                check(path, 0o755).unwrap();
                chown(path, Some(65_534), None).unwrap();
                let refused = check(path, 0o755).unwrap_err();
                assert!(
                    refused.contains("user 65534") && refused.contains("chown 0 /"),
                    "{refused}"
                );
            }
        }
    }
}
