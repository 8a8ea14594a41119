//! The command `tenant export`.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use sha2::{Digest, Sha256};

use super::transfer::{Contents, FORMAT, Folder, MANIFEST, Manifest, cannot, file_of, finish, hex};
use crate::commands::exit::Failure;
use crate::commands::tenant::subject::find_tenant;
use crate::config::Config;
use crate::context::OpenDatabase;
use crate::store::Store;
use crate::store::tenant_data::rows::TenantRows;
use crate::tenant::TenantId;

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// The folder. Created if it does not exist; otherwise it must be empty, owned by you and of mode 0700.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Writes a consistent snapshot of the data of a tenant.
pub async fn run(config: &Config, args: ExportArgs) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let written = export_with(&database.store, &args).await;
    database.close().await;
    finish(args.json, &written?, &format!("Exported to {}:", args.to.display()))
}

async fn export_with(store: &Store, args: &ExportArgs) -> Result<Manifest, Failure> {
    let tenant = find_tenant(store, &args.tenant).await?;
    let folder = Folder::prepare(&args.to)?;
    let mut snapshot = store.snapshot_rows(TenantId(tenant.tenant_id)).await?;
    let mut tables = BTreeMap::new();
    for at in 0..snapshot.tables.len() {
        let name = snapshot.tables[at].name.clone();
        let contents = write_table(&mut snapshot, at, &folder).await?;
        tracing::info!(tenant.id = %tenant.tenant_id, table = name, count = contents.rows, "Exported a table");
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

async fn write_table(
    snapshot: &mut TenantRows,
    at: usize,
    folder: &Folder,
) -> Result<Contents, Failure> {
    let name = file_of(&snapshot.tables[at].name);
    let failed = |error: io::Error| cannot("write", &folder.path_of(&name), &error);
    let mut file = BufWriter::new(folder.create(&name).map_err(failed)?);
    let mut rows = 0;
    let mut sha256 = Sha256::new();
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
