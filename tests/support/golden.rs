//! Snapshots of what people and programs read, a file each in `tests/snapshots/`.

use std::path::Path;

/// Compares with `tests/snapshots/<folder>/<name>.snap`.
pub(crate) fn assert_golden(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    settings.set_snapshot_path(snapshots.join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
