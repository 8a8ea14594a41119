//! The commands `tenant export` and `tenant import`: a folder with one JSON Lines file for each table, and a manifest that
//! is written last, so that a folder without one is no export.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::config::Config;
use crate::embedded::Hold;
use crate::failure::Failure;
use crate::life::{actor, one, table};
use crate::report::print;
use crate::setup::OpenDatabase;
use crate::store::Store;
use crate::store::purge::RowCounts;
use crate::store::transfer::{BATCH_BYTES, TenantRows};
use crate::tenant::TenantId;

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";

/// Whose data goes where.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// The folder: made if it is absent, refused if it is not empty.
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
    let manifest = verified(&args.from)?;
    let database = OpenDatabase::open(&config.database, Hold::Command, false).await?;
    let restored = import_with(&database.store, &manifest, &args.from).await;
    database.close().await;
    restored?;
    finish(args.json, &manifest, "restored")
}

fn finish(json: bool, manifest: &Manifest, done: &str) -> Result<(), Failure> {
    let counts = counts(manifest);
    let value = json!({ "tenant_id": manifest.tenant_id, "name": manifest.name, "rows": counts });
    print(json, &value, || format!("{} is {done}:\n{}", manifest.name, table(&counts)))
}

fn counts(manifest: &Manifest) -> RowCounts {
    manifest.tables.iter().map(|(table, contents)| (table.clone(), contents.rows)).collect()
}

async fn export_with(store: &Store, args: &ExportArgs) -> Result<Manifest, Failure> {
    let tenant = one(store, &args.tenant).await?;
    prepare(&args.to)?;
    let mut snapshot = store.rows_of_a_moment(TenantId(tenant.tenant_id)).await?;
    let mut tables = BTreeMap::new();
    for at in 0..snapshot.tables.len() {
        let name = snapshot.tables[at].name.clone();
        let contents = write_table(&mut snapshot, at, &file_of(&args.to, &name)).await?;
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
    let path = args.to.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from);
    let written = text.and_then(|text| {
        let mut file = new_file(&path)?;
        file.write_all(&text)?;
        file.sync_all()?;
        File::open(&args.to)?.sync_all()
    });
    written.map_err(|error| cannot("write", &path, &error))?;
    Ok(manifest)
}

/// For nobody else's eyes.
fn prepare(folder: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(|error| cannot("make", folder, &error)),
    }
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Failure::Configuration(format!("{} is not empty; name a new folder", folder.display()))),
        Err(error) => Err(cannot("read", folder, &error)),
    }
}

fn file_of(folder: &Path, table: &str) -> PathBuf {
    folder.join(format!("{table}.jsonl"))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Configuration(format!("cannot {what} {}: {error}", path.display()))
}

async fn write_table(snapshot: &mut TenantRows, at: usize, path: &Path) -> Result<Contents, Failure> {
    let failed = |error: io::Error| cannot("write", path, &error);
    let mut file = BufWriter::new(new_file(path).map_err(failed)?);
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

/// The manifest of a folder whose files are as they were written.
fn verified(folder: &Path) -> Result<Manifest, Failure> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Configuration(format!(
            "{} has no {MANIFEST}: it is no export, or one that was interrupted; export again",
            folder.display()
        )),
        _ => cannot("read", &path, &error),
    })?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| Failure::Configuration(format!("{}: {error}; export again", path.display())))?;
    if manifest.format != FORMAT {
        return Err(Failure::Configuration(format!(
            "{}: format {}, and this version reads {FORMAT}; import with the version that exported",
            path.display(),
            manifest.format
        )));
    }
    for (table, contents) in &manifest.tables {
        let path = file_of(folder, table);
        let sum = checksum(&path).map_err(|error| cannot("read", &path, &error))?;
        if sum != contents.sha256 {
            return Err(Failure::Configuration(format!(
                "{} is not what was exported (its SHA-256 differs from {MANIFEST}); copy it again",
                path.display()
            )));
        }
    }
    Ok(manifest)
}

fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut sha256, mut buffer) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(sha256)),
            read => sha256.update(&buffer[..read]),
        }
    }
}

async fn import_with(store: &Store, manifest: &Manifest, folder: &Path) -> Result<(), Failure> {
    let mut restore = store.rows_to_change(TenantId(manifest.tenant_id)).await?;
    if manifest.schema > restore.schema {
        return Err(Failure::Configuration(format!(
            "the export is of schema {} and the database of {}; upgrade incident-sync first",
            manifest.schema, restore.schema
        )));
    }
    let occupied = restore.occupied().await?;
    if !occupied.is_empty() {
        return Err(Failure::Configuration(format!(
            "the database has rows of {} ({}) in {}; run tenant purge first",
            manifest.name,
            manifest.tenant_id,
            occupied.join(", ")
        )));
    }
    for (table, contents) in &manifest.tables {
        let path = file_of(folder, table);
        let place = |what: String| Failure::Configuration(format!("{}: {what}; nothing was restored", path.display()));
        let Some(at) = restore.tables.iter().position(|known| known.name == *table) else {
            return Err(place("the database has no such table".to_owned()));
        };
        let known = &restore.tables[at].columns;
        if let Some(unknown) = contents.columns.iter().find(|column| !known.contains(column)) {
            return Err(place(format!("the database has no column {unknown} in it")));
        }
        let rows = insert_file(&mut restore, at, &contents.columns, &path).await.map_err(place)?;
        if rows != contents.rows {
            return Err(place(format!("{rows} rows instead of {}", contents.rows)));
        }
        tracing::info!(tenant.id = %manifest.tenant_id, table, count = rows, "restored");
    }
    Ok(restore.finish("restored", &actor(), &counts(manifest), None).await?)
}

/// Answers how many rows there were, or what is wrong with them.
async fn insert_file(restore: &mut TenantRows, at: usize, columns: &[String], path: &Path) -> Result<u64, String> {
    let mut lines = BufReader::new(File::open(path).map_err(|error| error.to_string())?).lines();
    let (mut rows, mut batch) = (0, String::new());
    loop {
        let line = lines.next().transpose().map_err(|error| error.to_string())?;
        let is_last = line.is_none();
        if let Some(line) = line {
            batch.push(if batch.is_empty() { '[' } else { ',' });
            batch.push_str(&line);
        }
        if !batch.is_empty() && (is_last || batch.len() > BATCH_BYTES) {
            batch.push(']');
            rows += restore.insert(at, columns, &batch).await.map_err(|error| error.to_string())?;
            batch.clear();
        }
        if is_last {
            return Ok(rows);
        }
    }
}
