//! `tenants_dir`: a directory of files that are a tenant each.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::reader::{ConfigError, Report, Section};
use crate::tenant::TenantId;

/// The directory as it was read.
#[derive(Debug, Clone)]
pub struct TenantsDir {
    /// Where it is.
    pub path: PathBuf,
    /// Whose file is whose, by the name that errors give it.
    pub tenants: HashMap<String, TenantId>,
    /// How it looked just before its files were read.
    pub as_read: Option<Fingerprint>,
}

/// What changes when somebody writes, replaces or removes a file.
pub type Fingerprint = Vec<(PathBuf, Option<SystemTime>, u64, u64)>;

impl TenantsDir {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut dir = Self { path, tenants: HashMap::new(), as_read: None };
        dir.as_read = dir.fingerprint();
        dir
    }

    /// The files in the order of their names.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        // Editors keep their drafts in dot files.
        let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !hidden(path));
        paths.sort();
        Ok(paths)
    }

    /// How the directory looks; `None` while it cannot be read.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let print = |path: PathBuf| {
            let about = fs::metadata(&path).ok();
            let (length, inode) = about.as_ref().map_or((0, 0), |about| (about.len(), about.ino()));
            (path, about.and_then(|about| about.modified().ok()), length, inode)
        };
        Some(self.files().ok()?.into_iter().map(print).collect())
    }

    /// One section for each file that was not refused.
    pub(super) fn sections(&self, refused: &[ConfigError], report: &mut Report) -> Result<Vec<Section>, String> {
        let path = self.path.display();
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("the service's user cannot read {path}: {error}; run chmod go+rx {path} (and see its parents)")
            }
            _ => format!("cannot read {path}: {error}; create the directory or remove the key"),
        };
        let mut sections = Vec::new();
        for path in self.files().map_err(cannot)? {
            let name = path.display().to_string();
            if refused.iter().any(|error| error.file == name) {
                continue;
            }
            match super::parse_file(&path) {
                Ok(table) => sections.push(Section::new(&name, "", "tenants", table)),
                Err(error) => report.error(error),
            }
        }
        Ok(sections)
    }
}
