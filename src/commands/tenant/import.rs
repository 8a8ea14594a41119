//! The command `tenant import`.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::PathBuf;

use chrono::{DateTime, Datelike, Utc};
use clap::Args;
use sha2::{Digest, Sha256};

use super::transfer::{
    Contents, FORMAT, Folder, Lines, MANIFEST, Manifest, cannot, counts, file_of, finish, hex,
};
use crate::commands::exit::Failure;
use crate::commands::tenant::subject::actor;
use crate::config::Config;
use crate::context::OpenDatabase;
use crate::error::shown;
use crate::postgres::Hold;
use crate::store::Store;
use crate::store::tenant_data::rows::{BATCH_BYTES, TenantRows, TenantTable};
use crate::tenant::TenantId;

/// A hundred times the size for the current tables and columns.
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The folder of an export.
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Restores the data of a tenant in one transaction.
pub async fn run(config: &Config, args: ImportArgs) -> Result<(), Failure> {
    let folder = Folder::existing(&args.from)?;
    let manifest = read_manifest(&folder)?;
    let database = OpenDatabase::open(&config.database, Hold::Command, false).await?;
    let restored = import_with(&database.store, &manifest, &folder).await;
    database.close().await;
    restored?;
    finish(args.json, &manifest, "Imported")
}

/// Reads the manifest of a folder, before any other file.
fn read_manifest(folder: &Folder) -> Result<Manifest, Failure> {
    let path = folder.path_of(MANIFEST);
    let mut text = Vec::new();
    let read = folder
        .open(MANIFEST)
        .and_then(|file| file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Configuration(format!(
            "{} is missing: the folder is not an export, or the export was interrupted. Export again",
            path.display()
        )),
        _ => cannot("read", &path, &error),
    })?;
    let refused = |what: &str| Failure::Configuration(format!("{}: {what}", path.display()));
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(refused("larger than 1 MiB, which no export writes. Export again"));
    }
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| refused(&format!("{error}. Export again")))?;
    if manifest.format != FORMAT {
        return Err(refused(&format!(
            "format {} is not supported (expected {FORMAT}). Import with the version that exported it",
            manifest.format
        )));
    }
    if !(1..=9999).contains(&manifest.taken_at.year()) {
        return Err(refused("taken_at has no year of four digits. Export again"));
    }
    if manifest.tables.get("tenants").is_none_or(|tenants| tenants.rows != 1) {
        return Err(refused("expected one row of the table tenants. Export again"));
    }
    Ok(manifest)
}

/// Fails unless the database has every table and column of the manifest. Called before any other file is opened, because
/// file names are derived from table names.
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

/// The open files of the tables, after their checksums matched.
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
                "{} differs from the export (SHA-256 mismatch with {MANIFEST}). Copy it again",
                path.display()
            )));
        }
        files.push((table.as_str(), contents, file));
    }
    Ok(files)
}

/// Returns to the beginning of the file afterwards.
fn checksum(file: &mut File) -> io::Result<String> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
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
    // In a transaction of its own, because checksums of large files take longer than the idle limit of a transaction.
    let tables = store.locked_rows(tenant).await?.tables;
    check_tables(manifest, folder, &tables)?;
    let files = verified(manifest, folder)?;
    let mut restore = store.locked_rows(tenant).await?;
    if manifest.schema > restore.schema {
        return Err(Failure::Configuration(format!(
            "the export has schema {}, newer than the database with {}. Upgrade incident-sync first",
            manifest.schema, restore.schema
        )));
    }
    let occupied = restore.occupied().await?;
    if !occupied.is_empty() {
        return Err(Failure::Configuration(format!(
            "the database already has rows of {} ({tenant}) in {}. Run tenant purge first",
            shown(&manifest.name),
            occupied.join(", ")
        )));
    }
    for (table, contents, file) in files {
        let path = folder.path_of(&file_of(table));
        let failure = |what: String| {
            Failure::Configuration(format!("{}: {what}; nothing was restored", path.display()))
        };
        let Some(at) = restore.tables.iter().position(|known| known.name == table) else {
            return Err(failure("the database no longer has this table".to_owned()));
        };
        let columns = Columns { at, named: &contents.columns, taken_at: manifest.taken_at };
        let rows = insert_file(&mut restore, &columns, file).await.map_err(failure)?;
        if rows != contents.rows {
            return Err(failure(format!("{rows} rows instead of {}", contents.rows)));
        }
        tracing::info!(tenant.id = %tenant, table, count = rows, "Restored a table");
    }
    restore.clean_name().await?;
    Ok(restore.finish("restored", &actor(), &counts(manifest), None).await?)
}

/// The target columns of rows, and the time of the export.
struct Columns<'a> {
    at: usize,
    named: &'a [String],
    taken_at: DateTime<Utc>,
}

/// Returns the number of rows, or what is wrong with them.
async fn insert_file(
    restore: &mut TenantRows,
    into: &Columns<'_>,
    file: File,
) -> Result<u64, String> {
    let mut lines = Lines::of(file);
    let mut rows = 0;
    let mut count = 0;
    let mut batch = String::new();
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
