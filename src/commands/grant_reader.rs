//! The command `grant-reader`.

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::config::Config;
use crate::context::{OpenDatabase, SetupError};
use crate::store::Store;
use crate::store::readers::{GrantError, KnownTenant, ReaderAccess};

#[derive(Debug, Args)]
pub struct GrantArgs {
    /// The role. Created with CONNECTION LIMIT 10 if it does not exist; an existing limit is kept. Its name is visible to
    /// every role of the server.
    #[arg(value_name = "ROLE", value_parser = role_name)]
    role: String,
    /// A tenant that the role may read, by name or id. Repeatable. Access to all other tenants is revoked.
    #[arg(long = "tenant", value_name = "TENANT", required_unless_present = "all_tenants")]
    tenants: Vec<String>,
    /// Let the role read every tenant, including future ones.
    #[arg(long, conflicts_with = "tenants")]
    all_tenants: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Accepts names that need no quotes and that neither Postgres nor incident-sync reserves.
fn role_name(text: &str) -> Result<String, String> {
    let is_plain = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !is_plain || text.len() > 63 {
        return Err(
            "expected at most 63 lower-case letters, digits and _, not starting with a digit"
                .to_owned(),
        );
    }
    // Not every version of Postgres reserves all of these.
    let is_reserved = matches!(
        text,
        "public"
            | "none"
            | "user"
            | "current_user"
            | "current_role"
            | "session_user"
            | "system_user"
    );
    if is_reserved || text.starts_with("incident_sync_") || text.starts_with("pg_") {
        return Err("this name is reserved".to_owned());
    }
    Ok(text.to_owned())
}

pub async fn run(config: &Config, args: GrantArgs) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let granted = grant_with(&database.store, &args).await;
    database.close().await;
    let (is_new, tenants) = granted?;
    let value = json!({ "role": args.role, "created": is_new, "all_tenants": args.all_tenants, "tenants": tenants });
    print(args.json, &value, || {
        let mut lines = match tenants.len() {
            _ if args.all_tenants => vec![format!("{} can read every tenant", args.role)],
            1 => vec![format!("{} can read 1 tenant:", args.role)],
            count => vec![format!("{} can read {count} tenants:", args.role)],
        };
        lines.extend(
            tenants.iter().map(|tenant| format!("  {}  {}", tenant.tenant_id, tenant.name)),
        );
        if is_new {
            lines.push(format!(
                "The role is new and has no password. Set one in psql: \\password {}",
                args.role
            ));
        }
        lines.join("\n")
    })
}

async fn grant_with(store: &Store, args: &GrantArgs) -> Result<(bool, Vec<KnownTenant>), Failure> {
    let tenants = find(store, &args.tenants).await?;
    let access = if args.all_tenants {
        ReaderAccess::All
    } else {
        ReaderAccess::Tenants(tenants.iter().map(|tenant| tenant.tenant_id).collect())
    };
    let is_new = store.grant_reader(&args.role, &access).await.map_err(|error| match error {
        GrantError::Refused { .. } => Failure::Configuration(error.to_string()),
        GrantError::Database(error) => SetupError::from(error).into(),
        _ => Failure::Database(error.to_string()),
    })?;
    Ok((is_new, tenants))
}

/// Each name must identify one tenant; a removed tenant may have had the same name.
pub(crate) async fn find(store: &Store, named: &[String]) -> Result<Vec<KnownTenant>, Failure> {
    let plain =
        |name: &String| name.parse::<Uuid>().map_or_else(|_| name.clone(), |id| id.to_string());
    let named: Vec<String> = named.iter().map(plain).collect();
    let found = store.find_tenants(&named).await.map_err(SetupError::from)?;
    for name in &named {
        let meant = found
            .iter()
            .filter(|tenant| tenant.name == *name || tenant.tenant_id.to_string() == *name);
        match meant.count() {
            1 => {}
            0 => {
                return Err(Failure::Configuration(format!(
                    "the database has no tenant {name}. List the tenants with: incident-sync status"
                )));
            }
            _ => {
                return Err(Failure::Configuration(format!(
                    "several tenants have the name {name}. Give the id instead"
                )));
            }
        }
    }
    Ok(found)
}
