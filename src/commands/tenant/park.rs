//! The commands `tenant park` and `tenant resume`.

use clap::Args;
use serde_json::{Value, json};

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::commands::tenant::subject::{actor, find_tenant};
use crate::config::Config;
use crate::context::{OpenDatabase, SetupError};
use crate::error::SyncError;
use crate::store::Store;
use crate::store::readers::KnownTenant;
use crate::tenant::TenantId;

#[derive(Debug, Args)]
pub struct ParkArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// The reason. Shown in `status`, hidden from customer-scoped readers.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The tenant, by name or id.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn park(config: &Config, args: ParkArgs) -> Result<(), Failure> {
    let park = async |store: &Store, id| store.park(id, &actor(), args.reason.as_deref()).await;
    let (tenant, is_parked) = change(config, &args.tenant, park).await?;
    if !is_parked {
        return Err(Failure::Configuration(format!(
            "{} was removed from the configuration and cannot be parked",
            tenant.name
        )));
    }
    print(args.json, &describe(&tenant, true), || {
        format!(
            "{} is parked. Resume it with: incident-sync tenant resume {}",
            tenant.name, tenant.tenant_id
        )
    })
}

pub async fn resume(config: &Config, args: ResumeArgs) -> Result<(), Failure> {
    let resume = async |store: &Store, id| store.resume(id, &actor()).await;
    let (tenant, was_parked) = change(config, &args.tenant, resume).await?;
    print(args.json, &describe(&tenant, false), || match was_parked {
        true => format!("{} is resumed. A running daemon starts it within seconds.", tenant.name),
        false => format!("{} was not parked.", tenant.name),
    })
}

async fn change(
    config: &Config,
    name: &str,
    work: impl AsyncFnOnce(&Store, TenantId) -> Result<bool, SyncError>,
) -> Result<(KnownTenant, bool), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let done = async {
        let tenant = find_tenant(&database.store, name).await?;
        let is_done =
            work(&database.store, TenantId(tenant.tenant_id)).await.map_err(SetupError::from)?;
        Ok((tenant, is_done))
    };
    let done = done.await;
    database.close().await;
    done
}

fn describe(tenant: &KnownTenant, is_parked: bool) -> Value {
    json!({ "tenant_id": tenant.tenant_id, "name": tenant.name, "parked": is_parked })
}
