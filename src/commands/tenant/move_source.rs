//! The command `tenant move`: tries another source for each tenant, and writes it into the file of those that are ready.

use std::sync::Arc;

use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::source_file::SourceFile;
use super::subject::actor;
use crate::commands::consent_url;
use crate::commands::exit::Failure;
use crate::commands::output::{self, print};
use crate::commands::progress::ProgressBars;
use crate::config::Config;
use crate::context::{self, OpenDatabase};
use crate::daemon::signals;
use crate::entra::Tenant;
use crate::error::SyncError;
use crate::sync::page_fetcher::{PageFetcher, Services};
use crate::sync::progress::TenantProgress;
use crate::sync::source_switch;
use crate::tenant::Source;

#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The tenants, by name or id.
    #[arg(value_name = "TENANT", required = true)]
    tenants: Vec<String>,
    /// The new source.
    #[arg(long, value_name = "SOURCE", value_parser = Source::NAMES)]
    to: String,
    /// Only try it: change no file.
    #[arg(long)]
    check: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How far the move of a tenant came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum MoveState {
    /// Its file names the new source.
    Moved,
    /// Nothing is missing; no file was changed.
    Ready,
    /// The configuration names this source already.
    Configured,
    /// Something is missing.
    Refused,
}

#[derive(Debug, Serialize)]
struct Move {
    tenant_id: Uuid,
    name: String,
    from: &'static str,
    to: &'static str,
    state: MoveState,
    /// The class of the error, if the new source refused.
    class: Option<&'static str>,
    who_must_act: Option<&'static str>,
    /// What is missing and what to do.
    problem: Option<String>,
    /// For the customer's admin, if the consent is missing.
    consent_url: Option<String>,
    /// The changed file, or the one to be changed.
    file: Option<String>,
    #[serde(skip)]
    change: Option<SourceFile>,
}

pub async fn run(config: &Config, args: MoveArgs) -> Result<(), Failure> {
    let to = Source::from_name(&args.to).unwrap_or_default();
    let find = |name: &String| {
        config.tenant(name).cloned().ok_or_else(|| {
            Failure::Configuration(format!(
                "no tenant is named {name}. List the tenants with: incident-sync tenant list"
            ))
        })
    };
    let mut tenants = args.tenants.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    tenants.sort_by(|a, b| a.name.cmp(&b.name));
    tenants.dedup_by_key(|tenant| tenant.id);
    let database = OpenDatabase::existing(&config.database).await?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let services = context::services(config, database.store.clone());
    let bars = ProgressBars::new(tenants.len());
    let observer = bars.observer();
    let trials = tenants
        .iter()
        .map(|tenant| attempt(config, &services, tenant, to, &stop, observer.tenant(&tenant.name)));
    let mut moves: Vec<Move> =
        futures::stream::iter(trials).buffered(config.sync.concurrency).collect().await;
    bars.clear();
    if !args.check && !stop.is_cancelled() {
        for each in &mut moves {
            write(&services, each, to).await;
        }
    }
    signals.abort();
    drop(services);
    database.close().await;
    print(args.json, &json!(moves), || table(&moves))?;
    let is_done = moves.iter().all(|each| each.state != MoveState::Refused);
    if is_done { Ok(()) } else { Err(Failure::Tenant) }
}

/// Tries the new source with the tenant's consent and its stored incidents.
async fn attempt(
    config: &Config,
    services: &Services,
    tenant: &Arc<Tenant>,
    to: Source,
    stop: &CancellationToken,
    progress: TenantProgress,
) -> Move {
    let mut done = Move {
        tenant_id: tenant.id.0,
        name: tenant.name.clone(),
        from: tenant.source().as_str(),
        to: to.as_str(),
        state: MoveState::Ready,
        class: None,
        who_must_act: None,
        problem: None,
        consent_url: None,
        file: None,
        change: None,
    };
    if tenant.source() == to {
        done.state = MoveState::Configured;
        return done;
    }
    if !tenant.enabled {
        done.refuse("operator", "the tenant is disabled. Enable it first".to_owned());
        return done;
    }
    match SourceFile::prepare(config, tenant, to) {
        Ok(change) => {
            done.file = Some(change.path.display().to_string());
            done.change = Some(change);
        }
        Err(problem) => done.refuse("operator", problem),
    }
    let wanted = tenant.read_from(to);
    if let Err(error) = try_source(services, &wanted, stop, progress).await {
        let diagnosis = error.diagnosis();
        let problem = match &error {
            SyncError::LeaseLost => {
                "the database does not know the tenant yet. Start the service first".to_owned()
            }
            error => format!("{} ({error})", diagnosis.advice),
        };
        done.class = Some(diagnosis.class.as_str());
        if diagnosis.class.awaits_consent() {
            let link = consent_url::link_of(&wanted).ok();
            done.consent_url = link.map(String::from);
        }
        done.refuse(diagnosis.owner.as_str(), problem);
    }
    done
}

/// Token, role, and the ids on a page.
async fn try_source(
    services: &Services,
    tenant: &Tenant,
    stop: &CancellationToken,
    progress: TenantProgress,
) -> Result<(), SyncError> {
    let clock = services.store.clock().await?;
    let stored = services.store.stored_extent(tenant.id).await?;
    let pages = PageFetcher::new(services, tenant, stop, clock, progress);
    let proven = source_switch::prove(services, tenant, stored, &pages).await;
    pages.finish();
    proven
}

async fn write(services: &Services, done: &mut Move, to: Source) {
    if done.state != MoveState::Ready {
        return;
    }
    let Some(change) = &done.change else { return };
    if let Err(error) = change.write() {
        let problem = format!("cannot write {}: {error}", change.path.display());
        done.refuse("operator", problem);
        return;
    }
    done.state = MoveState::Moved;
    let tenant = crate::tenant::TenantId(done.tenant_id);
    if let Err(error) = services.store.audit_source(tenant, to, &actor()).await {
        done.problem = Some(format!("the file is written, but the audit log is not: {error}"));
    }
}

impl Move {
    /// A second reason comes after the first one.
    fn refuse(&mut self, who: &'static str, problem: String) {
        self.state = MoveState::Refused;
        self.who_must_act = Some(self.who_must_act.unwrap_or(who));
        self.problem = Some(match self.problem.take() {
            Some(first) => format!("{first}. {problem}"),
            None => problem,
        });
    }
}

fn table(moves: &[Move]) -> String {
    let mut table = output::table(["tenant", "from", "to", "result", "who must act", "what"]);
    for each in moves {
        let result = match each.state {
            MoveState::Moved => "moved",
            MoveState::Ready => "ready",
            MoveState::Configured => "configured already",
            MoveState::Refused => "refused",
        };
        table.add_row([
            each.name.as_str(),
            each.from,
            each.to,
            result,
            each.who_must_act.unwrap_or_default(),
            each.problem.as_deref().or(each.file.as_deref()).unwrap_or_default(),
        ]);
    }
    // Outside the table, where a link is not wrapped.
    let links = moves.iter().filter_map(|each| {
        each.consent_url.as_ref().map(|url| format!("\nConsent link for {}: {url}", each.name))
    });
    table.to_string() + &links.collect::<String>()
}
