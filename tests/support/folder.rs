//! Temporary folders.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

/// Where the folders are. Paths have the same length on every machine, as snapshots of tables need it.
pub(crate) const PARENT: &str = "/tmp";

/// A folder that Postgres can enter although it runs as another user when we are root.
pub(crate) fn open_folder(prefix: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(PARENT).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}
