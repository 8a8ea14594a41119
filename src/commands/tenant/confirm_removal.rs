//! The command `tenant confirm-removal`: removes the tenants whose removal the daemon holds back.

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::commands::tenant::subject::actor;
use crate::config::{Config, ConfigErrors};
use crate::context::{OpenDatabase, SetupError};
use crate::store::Store;
use crate::store::tenants::StoredTenant;

#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Removes them from the database's list of tenants; their data stays.
pub async fn run(config: &Config, args: ConfirmArgs) -> Result<(), Failure> {
    // A file that cannot be read may name a tenant that is only missing because of that.
    if !config.tenants_dir_errors.is_empty() {
        let errors = ConfigErrors(config.tenants_dir_errors.clone());
        return Err(Failure::Configuration(format!(
            "{errors}\nFix these files first; nothing was removed"
        )));
    }
    let database = OpenDatabase::existing(&config.database).await?;
    let removed = confirm_with(&database.store, config).await;
    database.close().await;
    let removed = removed?;
    let names: Vec<&str> = removed.iter().map(|tenant| tenant.name.as_str()).collect();
    let tenants: Vec<_> = removed
        .iter()
        .map(|tenant| json!({ "tenant_id": tenant.tenant_id, "name": tenant.name }))
        .collect();
    print(args.json, &json!({ "removed": tenants }), || match names[..] {
        [] => "No removal of tenants is held back.".to_owned(),
        _ => format!(
            "Removed {} tenants from the configuration: {}. Their data stays; delete it with: incident-sync tenant purge",
            names.len(),
            names.join(", ")
        ),
    })
}

/// Only what the daemon has reported, and what is still missing.
async fn confirm_with(store: &Store, config: &Config) -> Result<Vec<StoredTenant>, Failure> {
    let known = store.known_tenants().await.map_err(SetupError::from)?;
    let is_confirmed = |tenant: &StoredTenant| {
        let is_configured = config.tenants.iter().any(|named| named.id.0 == tenant.tenant_id);
        tenant.is_missing && !tenant.is_removed && !is_configured
    };
    let removed: Vec<StoredTenant> = known.into_iter().filter(is_confirmed).collect();
    let ids: Vec<Uuid> = removed.iter().map(|tenant| tenant.tenant_id).collect();
    store.remove_missing(&ids, &actor()).await.map_err(SetupError::from)?;
    Ok(removed)
}
