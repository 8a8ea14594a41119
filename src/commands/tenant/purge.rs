//! The command `tenant purge`, and what the commands on a whole tenant's data have in common.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use serde_json::json;

use crate::commands::exit::Failure;
use crate::commands::grant_reader;
use crate::commands::output::print;
use crate::config::Config;
use crate::context::{OpenDatabase, SetupError};
use crate::store::Store;
use crate::store::readers::KnownTenant;
use crate::store::tenant_data::purge::RowCounts;
use crate::tenant::TenantId;

/// Whose data to delete.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Deletes all data of a tenant, and tells how many rows.
pub async fn purge(config: &Config, args: PurgeArgs) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let purged = purge_with(&database.store, config, &args).await;
    database.close().await;
    let (tenant, counts) = purged?;
    let value = json!({ "tenant_id": tenant.tenant_id, "name": tenant.name, "deleted": counts });
    print(args.json, &value, || format!("{} is deleted:\n{}", tenant.name, table(&counts)))
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
            "{} is configured: its data would come back; remove it or set enabled = false, reload the daemon, and try again",
            tenant.name
        )));
    }
    if store.is_enabled(id).await.map_err(SetupError::from)? {
        let refused: Vec<String> = config.refused.iter().map(ToString::to_string).collect();
        if !refused.is_empty() {
            return Err(Failure::Configuration(format!(
                "nobody knows whether {} has left while files of tenants_dir are refused; mend or remove them, run systemctl \
                 reload incident-sync, and try again:\n{}",
                tenant.name,
                refused.join("\n")
            )));
        }
        return Err(Failure::Configuration(format!(
            "no daemon has read yet that {} is no more: run systemctl reload incident-sync, and try again",
            tenant.name
        )));
    }
    if !args.yes && !confirmed(&tenant)? {
        return Err(Failure::Configuration("nothing was deleted".to_owned()));
    }
    let told = |table: &str, count| tracing::info!(tenant.id = %id, table, count, "deleting");
    let counts = store.purge(id, &actor(), told).await.map_err(SetupError::from)?;
    Ok((tenant, counts))
}

pub(crate) async fn find_tenant(store: &Store, name: &str) -> Result<KnownTenant, Failure> {
    let mut found = grant_reader::find(store, &[name.to_owned()]).await?;
    found
        .pop()
        .ok_or_else(|| Failure::Configuration(format!("the database knows no tenant {name}")))
}

/// Whether somebody typed the tenant's name.
fn confirmed(tenant: &KnownTenant) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Configuration("nobody is there to confirm it; add --yes".to_owned()));
    }
    eprint!(
        "All data of {} ({}) will be deleted for good. Type its name: ",
        tenant.name, tenant.tenant_id
    );
    drop(std::io::stderr().flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && answer.trim() == tenant.name)
}

/// Who does it, for the audit.
pub(crate) fn actor() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    format!("{}@{host}", user.map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name))
}

pub(crate) fn table(counts: &RowCounts) -> String {
    let lines: Vec<String> =
        counts.iter().map(|(table, count)| format!("{count:>10}  {table}")).collect();
    lines.join("\n")
}
