//! The command `tenant purge`.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use serde_json::json;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::commands::tenant::subject::{actor, find_tenant, row_table};
use crate::config::Config;
use crate::context::{OpenDatabase, SetupError};
use crate::store::Store;
use crate::store::readers::KnownTenant;
use crate::store::tenant_data::purge::RowCounts;
use crate::tenant::TenantId;

#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// Skip the confirmation.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(config: &Config, args: PurgeArgs) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let purged = purge_with(&database.store, config, &args).await;
    database.close().await;
    let (tenant, counts) = purged?;
    let value = json!({ "tenant_id": tenant.tenant_id, "name": tenant.name, "deleted": counts });
    print(args.json, &value, || format!("Deleted {}:\n{}", tenant.name, row_table(&counts)))
}

async fn purge_with(
    store: &Store,
    config: &Config,
    args: &PurgeArgs,
) -> Result<(KnownTenant, RowCounts), Failure> {
    let tenant = find_tenant(store, &args.tenant).await?;
    let id = TenantId(tenant.tenant_id);
    let is_configured =
        config.tenants.iter().any(|configured| configured.id == id && configured.enabled);
    if is_configured {
        return Err(Failure::Configuration(format!(
            "{} is still configured, so its data would be read again. Remove it or set enabled = false, reload the daemon and retry",
            tenant.name
        )));
    }
    if store.is_enabled(id).await.map_err(SetupError::from)? {
        let refused: Vec<String> =
            config.tenants_dir_errors.iter().map(ToString::to_string).collect();
        if !refused.is_empty() {
            return Err(Failure::Configuration(format!(
                "cannot verify that {} was removed while files in tenants_dir are invalid. Fix or remove them, run systemctl \
                 reload incident-sync and retry:\n{}",
                tenant.name,
                refused.join("\n")
            )));
        }
        return Err(Failure::Configuration(format!(
            "The daemon has not yet picked up the removal of {}: run systemctl reload incident-sync and retry",
            tenant.name
        )));
    }
    if !args.yes && !confirmed(&tenant)? {
        return Err(Failure::Configuration("not confirmed: nothing was deleted".to_owned()));
    }
    let log = |table: &str, count| tracing::info!(tenant.id = %id, table, count, "Deleting");
    let counts = store.purge(id, &actor(), log).await.map_err(SetupError::from)?;
    Ok((tenant, counts))
}

/// Asks for the name of the tenant.
fn confirmed(tenant: &KnownTenant) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Configuration("Not a terminal: pass --yes to confirm".to_owned()));
    }
    eprint!(
        "All data of {} ({}) will be deleted permanently. Type its name to confirm: ",
        tenant.name, tenant.tenant_id
    );
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && answer.trim() == tenant.name)
}
