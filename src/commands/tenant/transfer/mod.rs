//! The commands `tenant export` and `tenant import`: a folder with one JSON Lines file for each table, and a manifest that
//! is written last, so that a folder without one is no export.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::commands::tenant::purge::{actor, find_tenant, table};
use crate::config::Config;
use crate::context::OpenDatabase;
use crate::error::shown;
use crate::postgres::Hold;
use crate::store::Store;
use crate::store::tenant_data::purge::RowCounts;
use crate::store::tenant_data::rows::{BATCH_BYTES, TenantRows, TenantTable};
use crate::tenant::TenantId;

mod folder;
mod lines;

use folder::Folder;
use lines::Lines;

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// A hundred times what the tables and columns of today take.
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;

/// Whose data goes where.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// The folder: made if it is absent, else it must be empty, yours and of mode 0700.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What to restore.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The folder that `tenant export` wrote.
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What an export holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The newest migration of the database that it came from.
    schema: i64,
    tenant_id: Uuid,
    name: String,
    taken_at: DateTime<Utc>,
    tables: BTreeMap<String, Contents>,
}

/// What the file of one table holds.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    columns: Vec<String>,
    rows: u64,
    sha256: String,
}

/// Writes a tenant's data, all of one moment.
pub async fn export(config: &Config, args: ExportArgs) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let written = export_with(&database.store, &args).await;
    database.close().await;
    finish(args.json, &written?, &format!("in {}", args.to.display()))
}

/// Restores a tenant's data, all or nothing.
pub async fn import(config: &Config, args: ImportArgs) -> Result<(), Failure> {
    let folder = Folder::existing(&args.from)?;
    let manifest = read_manifest(&folder)?;
    let database = OpenDatabase::open(&config.database, Hold::Command, false).await?;
    let restored = import_with(&database.store, &manifest, &folder).await;
    database.close().await;
    restored?;
    finish(args.json, &manifest, "restored")
}

fn finish(json: bool, manifest: &Manifest, done: &str) -> Result<(), Failure> {
    let counts = counts(manifest);
    let value = json!({ "tenant_id": manifest.tenant_id, "name": manifest.name, "rows": counts });
    print(json, &value, || format!("{} is {done}:\n{}", shown(&manifest.name), table(&counts)))
}

fn counts(manifest: &Manifest) -> RowCounts {
    manifest.tables.iter().map(|(table, contents)| (table.clone(), contents.rows)).collect()
}

async fn export_with(store: &Store, args: &ExportArgs) -> Result<Manifest, Failure> {
    let tenant = find_tenant(store, &args.tenant).await?;
    let folder = Folder::prepare(&args.to)?;
    let mut snapshot = store.snapshot_rows(TenantId(tenant.tenant_id)).await?;
    let mut tables = BTreeMap::new();
    for at in 0..snapshot.tables.len() {
        let name = snapshot.tables[at].name.clone();
        let contents = write_table(&mut snapshot, at, &folder).await?;
        tracing::info!(tenant.id = %tenant.tenant_id, table = name, count = contents.rows, "exported");
        tables.insert(name, contents);
    }
    let manifest = Manifest {
        format: FORMAT,
        schema: snapshot.schema,
        tenant_id: tenant.tenant_id,
        name: tenant.name,
        taken_at: snapshot.began_at,
        tables,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from);
    let written = text.and_then(|text| {
        let mut file = folder.create(MANIFEST)?;
        file.write_all(&text)?;
        file.sync_all()?;
        folder.sync()
    });
    written.map_err(|error| cannot("write", &folder.path_of(MANIFEST), &error))?;
    Ok(manifest)
}

fn file_of(table: &str) -> String {
    format!("{table}.jsonl")
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Configuration(format!("cannot {what} {}: {error}", path.display()))
}

async fn write_table(
    snapshot: &mut TenantRows,
    at: usize,
    folder: &Folder,
) -> Result<Contents, Failure> {
    let name = file_of(&snapshot.tables[at].name);
    let failed = |error: io::Error| cannot("write", &folder.path_of(&name), &error);
    let mut file = BufWriter::new(folder.create(&name).map_err(failed)?);
    let (mut rows, mut sha256) = (0, Sha256::new());
    snapshot.open(at).await?;
    loop {
        let batch = snapshot.next().await?;
        if batch.is_empty() {
            break;
        }
        rows += batch.len() as u64;
        for bytes in batch.iter().flat_map(|row| [row.as_bytes(), b"\n"]) {
            sha256.update(bytes);
            file.write_all(bytes).map_err(failed)?;
        }
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)?;
    Ok(Contents { columns: snapshot.tables[at].columns.clone(), rows, sha256: hex(sha256) })
}

fn hex(sha256: Sha256) -> String {
    sha256.finalize().iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// The manifest of a folder, of which nothing else has been read.
fn read_manifest(folder: &Folder) -> Result<Manifest, Failure> {
    let path = folder.path_of(MANIFEST);
    let mut text = Vec::new();
    let read = folder
        .open(MANIFEST)
        .and_then(|file| file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Configuration(format!(
            "{} is missing: the folder is no export, or one that was interrupted. Export again",
            path.display()
        )),
        _ => cannot("read", &path, &error),
    })?;
    let refused = |what: &str| Failure::Configuration(format!("{}: {what}", path.display()));
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(refused("it is larger than 1 MiB, which no export writes. Export again"));
    }
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| refused(&format!("{error}. Export again")))?;
    if manifest.format != FORMAT {
        return Err(refused(&format!(
            "format {}, and this version reads {FORMAT}. Import with the version that exported",
            manifest.format
        )));
    }
    if !(1..=9999).contains(&manifest.taken_at.year()) {
        return Err(refused("taken_at has no year of four digits. Export again"));
    }
    if manifest.tables.get("tenants").is_none_or(|tenants| tenants.rows != 1) {
        return Err(refused("it has not one row of the table tenants. Export again"));
    }
    Ok(manifest)
}

/// Fails unless the database has every table and column of the manifest. Before any other file is opened: the names of the
/// files are made of those of the tables.
fn check_tables(
    manifest: &Manifest,
    folder: &Folder,
    known: &[TenantTable],
) -> Result<(), Failure> {
    let path = folder.path_of(MANIFEST);
    let refused = |what: String| {
        Failure::Configuration(format!("{}: {what}; nothing was restored", path.display()))
    };
    for (table, contents) in &manifest.tables {
        let Some(known) = known.iter().find(|known| known.name == *table) else {
            return Err(refused(format!("the database has no table {}", shown(table))));
        };
        if let Some(unknown) =
            contents.columns.iter().find(|column| !known.columns.contains(column))
        {
            return Err(refused(format!(
                "the database has no column {} in {table}",
                shown(unknown)
            )));
        }
    }
    Ok(())
}

/// The open files of the tables, all of them as they were written.
fn verified<'a>(
    manifest: &'a Manifest,
    folder: &Folder,
) -> Result<Vec<(&'a str, &'a Contents, File)>, Failure> {
    let mut files = Vec::new();
    for (table, contents) in &manifest.tables {
        let name = file_of(table);
        let path = folder.path_of(&name);
        let mut file = folder.open(&name).map_err(|error| cannot("read", &path, &error))?;
        let sum = checksum(&mut file).map_err(|error| cannot("read", &path, &error))?;
        if sum != contents.sha256 {
            return Err(Failure::Configuration(format!(
                "{} is not what was exported (its SHA-256 differs from {MANIFEST}); copy it again",
                path.display()
            )));
        }
        files.push((table.as_str(), contents, file));
    }
    Ok(files)
}

/// Leaves the file at its beginning.
fn checksum(file: &mut File) -> io::Result<String> {
    let (mut sha256, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => sha256.update(&buffer[..read]),
        }
    }
    file.rewind()?;
    Ok(hex(sha256))
}

async fn import_with(store: &Store, manifest: &Manifest, folder: &Folder) -> Result<(), Failure> {
    let tenant = TenantId(manifest.tenant_id);
    // In a transaction of its own: checksums of large files take longer than one may stand idle.
    let tables = store.locked_rows(tenant).await?.tables;
    check_tables(manifest, folder, &tables)?;
    let files = verified(manifest, folder)?;
    let mut restore = store.locked_rows(tenant).await?;
    if manifest.schema > restore.schema {
        return Err(Failure::Configuration(format!(
            "the export is of schema {} and the database of {}; upgrade incident-sync first",
            manifest.schema, restore.schema
        )));
    }
    let occupied = restore.occupied().await?;
    if !occupied.is_empty() {
        return Err(Failure::Configuration(format!(
            "the database has rows of {} ({tenant}) in {}; run tenant purge first",
            shown(&manifest.name),
            occupied.join(", ")
        )));
    }
    for (table, contents, file) in files {
        let path = folder.path_of(&file_of(table));
        let place = |what: String| {
            Failure::Configuration(format!("{}: {what}; nothing was restored", path.display()))
        };
        let Some(at) = restore.tables.iter().position(|known| known.name == table) else {
            return Err(place("the database has no such table any more".to_owned()));
        };
        let columns = Columns { at, named: &contents.columns, taken_at: manifest.taken_at };
        let rows = insert_file(&mut restore, &columns, file).await.map_err(place)?;
        if rows != contents.rows {
            return Err(place(format!("{rows} rows instead of {}", contents.rows)));
        }
        tracing::info!(tenant.id = %tenant, table, count = rows, "restored");
    }
    restore.clean_name().await?;
    Ok(restore.finish("restored", &actor(), &counts(manifest), None).await?)
}

/// Where rows go, and when they were taken.
struct Columns<'a> {
    at: usize,
    named: &'a [String],
    taken_at: DateTime<Utc>,
}

/// Answers how many rows there were, or what is wrong with them.
async fn insert_file(
    restore: &mut TenantRows,
    into: &Columns<'_>,
    file: File,
) -> Result<u64, String> {
    let mut lines = Lines::of(file);
    let (mut rows, mut count, mut batch) = (0, 0, String::new());
    loop {
        let line = lines.next()?;
        let is_last = line.is_none();
        if let Some(line) = line {
            batch.push(if batch.is_empty() { '[' } else { ',' });
            batch.push_str(&line);
            count += 1;
        }
        if !batch.is_empty() && (is_last || batch.len() > BATCH_BYTES) {
            batch.push(']');
            let inserted = if restore.tables[into.at].name == "sync_state" {
                restore.insert_state(&batch, into.taken_at).await
            } else {
                restore.insert(into.at, into.named, &batch).await
            };
            let inserted = inserted.map_err(|error| error.to_string())?;
            if inserted != count {
                return Err(format!(
                    "{inserted} of {count} rows are valid: a time must have a year of four digits"
                ));
            }
            rows += inserted;
            count = 0;
            batch.clear();
        }
        if is_last {
            return Ok(rows);
        }
    }
}
