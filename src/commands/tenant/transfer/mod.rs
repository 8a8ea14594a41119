//! The format of an export: a folder with one JSON Lines file for each table. The manifest is written last, so a folder
//! without one is an interrupted export.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::commands::tenant::subject::row_table;
use crate::error::shown;
use crate::store::tenant_data::purge::RowCounts;

mod folder;
mod lines;

pub(super) use folder::Folder;
pub(super) use lines::Lines;

pub(super) const FORMAT: u32 = 1;
pub(super) const MANIFEST: &str = "manifest.json";

/// The content of an export.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// The newest migration of the exported database.
    pub(super) schema: i64,
    pub(super) tenant_id: Uuid,
    pub(super) name: String,
    pub(super) taken_at: DateTime<Utc>,
    pub(super) tables: BTreeMap<String, Contents>,
}

/// The content of the file of one table.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) columns: Vec<String>,
    pub(super) rows: u64,
    pub(super) sha256: String,
}

pub(super) fn finish(json: bool, manifest: &Manifest, done: &str) -> Result<(), Failure> {
    let counts = counts(manifest);
    let value = json!({ "tenant_id": manifest.tenant_id, "name": manifest.name, "rows": counts });
    print(json, &value, || format!("{done} {}:\n{}", shown(&manifest.name), row_table(&counts)))
}

pub(super) fn counts(manifest: &Manifest) -> RowCounts {
    manifest.tables.iter().map(|(table, contents)| (table.clone(), contents.rows)).collect()
}

pub(super) fn file_of(table: &str) -> String {
    format!("{table}.jsonl")
}

pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Configuration(format!("cannot {what} {}: {error}", path.display()))
}

pub(super) fn hex(sha256: Sha256) -> String {
    sha256.finalize().iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}
