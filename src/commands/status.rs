//! The command `status`: the state of each tenant, from the database.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::{self, print};
use crate::config::Config;
use crate::context::{OpenDatabase, SetupError};
use crate::entra::Tenant;
use crate::entra::expiry::{self, CredentialExpiry};
use crate::store::status::TenantStatus;
use crate::sync::retirement::RetirementNotice;
use crate::sync::tenant_state::{State, data_as_of, last_run, must_act};
use crate::tenant::Source;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(config: &Config, args: StatusArgs) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let tenants = database.store.tenant_status().await.map_err(SetupError::from);
    database.close().await;
    let mut tenants = tenants?;
    let stored: HashSet<Uuid> = tenants.iter().map(|tenant| tenant.standing.tenant_id).collect();
    let missing = config.tenants.iter().filter(|tenant| !stored.contains(&tenant.id.0));
    tenants.extend(missing.map(|tenant| TenantStatus::unknown(tenant)));
    let expiries = expiry::expiries(&config.tenants).await;
    let now = expiry::now();
    print(args.json, &as_json(&tenants, &config.tenants, &expiries, now), || {
        let retirement = RetirementNotice::of(&config.tenants, now);
        let retirement =
            retirement.map_or_else(String::new, |notice| format!("{}\n", notice.describe()));
        let credentials =
            expiries.iter().map(|each| format!("\n{}", each.describe(now))).collect::<String>();
        retirement + &table(&tenants) + &progress(&tenants) + &credentials
    })?;
    let failing = tenants.iter().any(|tenant| State::of(&tenant.standing) <= State::Stale);
    if failing { Err(Failure::Tenant) } else { Ok(()) }
}

/// The rows of the database, with each tenant's state, credentials and the announced end of its API.
fn as_json(
    tenants: &[TenantStatus],
    configured: &[Arc<Tenant>],
    expiries: &[CredentialExpiry],
    now: DateTime<Utc>,
) -> Value {
    let configured_as = |id| configured.iter().find(|tenant| tenant.id.0 == id);
    let of = |tenant: &TenantStatus| {
        let mut value = json!(tenant);
        let tenant_id = tenant.standing.tenant_id;
        value["state"] = State::of(&tenant.standing).as_str().into();
        value["must_act"] = must_act(&tenant.standing)
            .map(|(who, what)| json!({ "owner": who, "what": what }))
            .into();
        value["credentials"] = expiry::of_tenant(configured, tenant_id, expiries);
        value["retirement"] = RetirementNotice::of_tenant(configured_as(tenant_id), now);
        value
    };
    tenants.iter().map(of).collect()
}

/// How many tenants are read from each source, while both are in use.
fn progress(tenants: &[TenantStatus]) -> String {
    let present = tenants.iter().filter(|tenant| tenant.standing.removed_at.is_none());
    let (graph, defender): (Vec<Source>, Vec<Source>) = present
        .filter_map(|tenant| Source::from_name(tenant.standing.source.as_deref()?))
        .partition(|source| *source == Source::Graph);
    if graph.is_empty() || defender.is_empty() {
        return String::new();
    }
    format!("\nsource: {} graph, {} defender", graph.len(), defender.len())
}

fn table(tenants: &[TenantStatus]) -> String {
    let mut table = output::table([
        "tenant",
        "state",
        "source",
        "data as of",
        "last run",
        "incidents",
        "open",
        "rejected",
        "late",
        "gaps",
        "failures",
        "who must act",
        "what",
    ]);
    for TenantStatus { standing, incidents, open_incidents, .. } in tenants {
        let (who, what) = must_act(standing).unwrap_or_default();
        table.add_row([
            standing.name.clone(),
            State::of(standing).as_str().to_owned(),
            standing.source.clone().unwrap_or_default(),
            data_as_of(standing),
            last_run(standing),
            incidents.to_string(),
            open_incidents.to_string(),
            standing.rejected.to_string(),
            standing.found_late.unwrap_or(0).to_string(),
            standing.gaps.to_string(),
            standing.consecutive_failures.unwrap_or(0).to_string(),
            who.to_owned(),
            what.to_owned(),
        ]);
    }
    table.to_string()
}
