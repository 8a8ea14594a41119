//! Writes a tenant's source into its own file in `tenants_dir`.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::PathBuf;

use uuid::Uuid;

use crate::config::{Config, own_addresses, with_source};
use crate::entra::Tenant;
use crate::tenant::Source;

/// A change of one file that has been prepared.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    before: String,
    after: String,
}

impl SourceFile {
    /// Prepares the change; the error says what to change by hand.
    pub(super) fn prepare(
        config: &Config,
        tenant: &Tenant,
        source: Source,
    ) -> Result<Self, String> {
        let word = source.as_str();
        let own = config.tenants_dir.as_ref().and_then(|dir| {
            dir.tenants.iter().find(|(_, id)| **id == tenant.id).map(|(file, _)| file)
        });
        let Some(file) = own else {
            let main = config
                .file
                .as_ref()
                .map_or_else(String::new, |file| format!(" in {}", file.display()));
            return Err(format!(
                "the tenant has no file of its own in tenants_dir. Set source = \"{word}\" in its [[tenants]] table{main}, then run: systemctl reload incident-sync"
            ));
        };
        // A link is kept, and its target is changed.
        let path =
            fs::canonicalize(file).map_err(|error| format!("cannot read {file}: {error}"))?;
        let before =
            fs::read_to_string(&path).map_err(|error| format!("cannot read {file}: {error}"))?;
        let wanted = tenant.read_from(source).endpoints;
        for (key, value) in own_addresses(&before) {
            let is_kept = match key {
                "scope" => value.trim() == wanted.scope,
                _ => value.parse().is_ok_and(|url: url::Url| url == wanted.base_url),
            };
            if !is_kept {
                return Err(format!(
                    "{file} sets {key} for the other source. Remove that line or replace its value, and set source = \"{word}\" there"
                ));
            }
        }
        let after = with_source(&before, source).map_err(|problem| format!("{file}: {problem}"))?;
        Ok(Self { path, before, after })
    }

    /// Replaces the file atomically; mode and owner stay.
    pub(super) fn write(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(std::path::Path::new("."));
        let about = fs::metadata(&self.path)?;
        // The configuration ignores such names, and the random part prevents a prepared link.
        let draft = dir.join(format!(".source-{}.draft", Uuid::new_v4().simple()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        let replaced = file
            .write_all(self.after.as_bytes())
            .and_then(|()| fchown(&file, Some(about.uid()), Some(about.gid())))
            .and_then(|()| file.set_permissions(Permissions::from_mode(about.mode() & 0o7777)))
            .and_then(|()| file.sync_all())
            .and_then(|()| self.check_unchanged())
            .and_then(|()| fs::rename(&draft, &self.path));
        if replaced.is_err() {
            fs::remove_file(&draft)?;
        }
        replaced?;
        fs::File::open(dir)?.sync_all()
    }

    fn check_unchanged(&self) -> io::Result<()> {
        if fs::read_to_string(&self.path)? == self.before {
            return Ok(());
        }
        Err(io::Error::other("the file was changed meanwhile; run the command again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(path: PathBuf, before: &str) -> SourceFile {
        SourceFile { path, before: before.to_owned(), after: "source = \"graph\"\n".to_owned() }
    }

    #[test]
    fn file_is_replaced_with_its_mode_and_without_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contoso.toml");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        prepared(path.clone(), "x").write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "source = \"graph\"\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o604);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_changed_meanwhile_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contoso.toml");
        fs::write(&path, "changed").unwrap();
        assert!(prepared(path.clone(), "x").write().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "changed");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
