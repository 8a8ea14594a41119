//! The command `status`: the fleet by problem, from the database.

mod csv;
mod text;

use std::collections::HashSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use console::Term;
use uuid::Uuid;

use crate::commands::exit::Failure;
use crate::commands::output::{print_line, write_result};
use crate::config::Config;
use crate::context::{OpenDatabase, SetupError};
use crate::entra::Tenant;
use crate::entra::expiry::{self, CredentialExpiry};
use crate::error::Owner;
use crate::store::status::{Standing, TenantStatus};
use crate::sync::retirement::RetirementNotice;
use crate::sync::status_document::StatusDocument;
use crate::sync::tenant_state::{State, must_act};

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// List every tenant, not only those with a problem.
    #[arg(long)]
    all: bool,
    /// Limit the status to this tenant, by name or id, with all that is known about it. Repeatable.
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Limit the status to tenants in this state.
    #[arg(long, value_name = "STATE", value_parser = State::NAMES)]
    state: Option<String>,
    /// Limit the status to tenants whose problem has this owner.
    #[arg(long, value_name = "OWNER", value_parser = Owner::NAMES)]
    owner: Option<String>,
    /// Refresh until Ctrl-C, every 5 seconds or as often as this says.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "5s", value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
    /// Print one line of CSV for each tenant, with the consent link where the customer's admin must act.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    csv: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    /// Whether only part of the fleet is asked for, which is then listed in full.
    fn is_filtered(&self) -> bool {
        !self.tenants.is_empty() || self.state.is_some() || self.owner.is_some()
    }

    fn includes(&self, tenant: &Standing) -> bool {
        let is_named =
            |name: &String| *name == tenant.name || name.parse() == Ok::<Uuid, _>(tenant.tenant_id);
        let owner = must_act(tenant).map(|(owner, _)| owner);
        (self.tenants.is_empty() || self.tenants.iter().any(is_named))
            && self.state.as_deref().is_none_or(|state| State::of(tenant).is_named(state))
            && self.owner.as_deref().is_none_or(|wanted| owner == Some(wanted))
    }
}

/// What the command prints, in each of its forms.
struct FleetStatus<'a> {
    now: DateTime<Utc>,
    /// Every tenant.
    fleet: &'a [TenantStatus],
    /// Those that the arguments ask for.
    shown: Vec<&'a TenantStatus>,
    configured: &'a [Arc<Tenant>],
    expiries: &'a [CredentialExpiry],
    retirement: Option<RetirementNotice>,
}

pub async fn run(config: &Config, args: StatusArgs) -> Result<(), Failure> {
    let Some(period) = args.watch else {
        return Box::pin(once(config, &args)).await;
    };
    loop {
        let result = Box::pin(once(config, &args)).await;
        match result {
            Ok(()) | Err(Failure::Tenant) => {}
            // The database may come back.
            Err(Failure::Database(problem)) => print_line(problem)?,
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(period).await;
    }
}

async fn once(config: &Config, args: &StatusArgs) -> Result<(), Failure> {
    let database = OpenDatabase::existing(&config.database).await?;
    let tenants = database.store.tenant_status().await.map_err(SetupError::from);
    database.close().await;
    let mut fleet = tenants?;
    let stored: HashSet<Uuid> = fleet.iter().map(|tenant| tenant.standing.tenant_id).collect();
    let missing = config.tenants.iter().filter(|tenant| !stored.contains(&tenant.id.0));
    fleet.extend(missing.map(|tenant| TenantStatus::unknown(tenant)));
    let expiries = expiry::expiries(&config.tenants).await;
    let now = expiry::now();
    let shown: Vec<&TenantStatus> =
        fleet.iter().filter(|tenant| args.includes(&tenant.standing)).collect();
    if let Some(unknown) = unknown_tenant(&args.tenants, &shown) {
        return Err(Failure::Configuration(format!(
            "no tenant is named {unknown}. List the tenants with: incident-sync tenant list"
        )));
    }
    let status = FleetStatus {
        now,
        fleet: &fleet,
        shown,
        configured: &config.tenants,
        expiries: &expiries,
        retirement: RetirementNotice::of(&config.tenants, now),
    };
    show(&status, args)?;
    let failing = status.shown.iter().any(|tenant| State::of(&tenant.standing) <= State::Stale);
    if failing { Err(Failure::Tenant) } else { Ok(()) }
}

fn unknown_tenant<'a>(names: &'a [String], shown: &[&TenantStatus]) -> Option<&'a String> {
    let is = |name: &String, tenant: &Standing| {
        *name == tenant.name || *name == tenant.tenant_id.to_string()
    };
    names.iter().find(|name| !shown.iter().any(|tenant| is(name, &tenant.standing)))
}

fn document<'a>(status: &FleetStatus<'a>) -> StatusDocument<'a, TenantStatus> {
    StatusDocument {
        now: status.now,
        fleet: status.fleet.iter().map(|tenant| &tenant.standing).collect(),
        shown: status.shown.iter().map(|tenant| (&tenant.standing, *tenant)).collect(),
        configured: status.configured.iter().collect(),
        expiries: status.expiries,
    }
}

fn show(status: &FleetStatus<'_>, args: &StatusArgs) -> Result<(), Failure> {
    if args.csv {
        return csv::write(status);
    }
    if args.watch.is_some() && std::io::stdout().is_terminal() {
        write_result(Term::stdout().clear_screen())?;
    }
    if args.json {
        print_line(format_args!("{:#}", document(status).to_json()))
    } else {
        print_line(text::of(status, args))
    }
}
