//! The command `tenant list`.

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::commands::exit::Failure;
use crate::commands::output::{self, print};
use crate::config::Config;
use crate::entra::Tenant;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(config: &Config, args: &ListArgs) -> Result<(), Failure> {
    print(args.json, &as_json(&config.tenants), || table(&config.tenants))
}

fn table(tenants: &[Arc<Tenant>]) -> String {
    let mut table =
        output::table(["tenant", "id", "enabled", "source", "authority", "API", "labels"]);
    for tenant in tenants {
        let labels: Vec<String> =
            tenant.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.add_row([
            tenant.name.clone(),
            tenant.id.to_string(),
            if tenant.enabled { "yes" } else { "no" }.to_owned(),
            tenant.source().as_str().to_owned(),
            tenant.endpoints.authority.to_string(),
            tenant.endpoints.base_url.to_string(),
            labels.join(", "),
        ]);
    }
    table.to_string()
}

fn as_json(tenants: &[Arc<Tenant>]) -> Value {
    let tenant = |tenant: &Arc<Tenant>| {
        json!({
            "tenant_id": tenant.id.0,
            "name": tenant.name,
            "enabled": tenant.enabled,
            "source": tenant.source().as_str(),
            "authority": tenant.endpoints.authority.as_str(),
            "base_url": tenant.endpoints.base_url.as_str(),
            "labels": tenant.labels,
        })
    };
    Value::Array(tenants.iter().map(tenant).collect())
}
