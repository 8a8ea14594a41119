//! The doctor: checks everything between the configuration and a tenant's incidents and names who has to fix what.
//!
//! The probes collect facts, from which [`diagnose`] makes findings. A check whose prerequisite failed is reported as not
//! tried, not as another failure.

pub mod database;
pub mod diagnose;
pub mod files;
pub mod finding;
pub mod network;
pub mod tenant;

use std::sync::Arc;

use futures::StreamExt;
use uuid::Uuid;

pub use database::DatabaseFacts;
pub use files::{ConfigurationFacts, is_readable_by_root_only};
pub use finding::{CheckResult, ErrorText, Finding, Group};

use crate::api::ApiClient;
use crate::config::{Config, ConfigError, ConfigErrors};
use crate::context::{self, OpenDatabase};
use crate::entra::expiry::{self, CredentialExpiry};
use crate::entra::{Tenant, TokenCache};
use crate::http_client::{self, Deadlines};
use crate::sync::progress::Progress;
use crate::sync::retirement::RetirementNotice;
use crate::tenant::TenantId;
use database::probe_database;
use files::inspect_configuration;

/// The facts that findings are made from.
#[derive(Debug)]
pub struct Facts {
    pub configuration: ConfigurationFacts,
    pub expiries: Vec<CredentialExpiry>,
    pub egress: network::Egress,
    pub hosts: Vec<network::Host>,
    pub database: DatabaseFacts,
    pub tenants: Vec<tenant::TenantProbe>,
    /// About the tenants on an API whose end is announced.
    pub retirement: Option<RetirementNotice>,
}

/// Probes everything and diagnoses it.
pub async fn all(config: &Config, tenants: &[Arc<Tenant>], progress: &Progress) -> Vec<Finding> {
    // Without tenants, the network path is probed with the endpoints of [app].
    let placeholder = tenants.is_empty().then(|| onboarding_tenant(config)).flatten();
    let probe_tenants = placeholder.as_ref().map_or(tenants, std::slice::from_ref);
    let egress = network::egress(&config.http_client).await;
    let hosts = network::hosts(&config.http_client, &egress, probe_tenants).await;
    let opened = OpenDatabase::unchecked(&config.database).await;
    let database = probe_database(&config.database, opened.as_ref()).await;
    let has_schema =
        database.inspection.as_ref().is_ok_and(|inspected| matches!(inspected.schema, Some(Ok(_))));
    let fleet = match &opened {
        Ok(opened) if has_schema => opened.store.known_tenants().await.ok(),
        _ => None,
    };
    let client = http_client::client_on(&config.http_client, Deadlines::default());
    let tokens = TokenCache::new(client.clone());
    let api = ApiClient::new(client);
    let quota = opened
        .as_ref()
        .ok()
        .filter(|_| has_schema)
        .map(|open| (&open.store, context::quotas(config)));
    let context = tenant::ProbeContext { tokens: &tokens, api: &api, quota, hosts: &hosts };
    let probes = probe_all_tenants(tenants, &context, config.sync.concurrency, progress).await;
    if let Ok(opened) = opened {
        opened.close().await;
    }
    let facts = Facts {
        configuration: inspect_configuration(config, fleet.as_deref()),
        expiries: expiry::expiries(probe_tenants).await,
        egress,
        hosts,
        database,
        tenants: probes,
        retirement: RetirementNotice::of(tenants, expiry::now()),
    };
    // The errors are those of files in tenants_dir that were left out.
    config
        .tenants_dir_errors
        .iter()
        .map(of_error)
        .chain(diagnose::diagnose(&facts, expiry::now()))
        .collect()
}

/// A placeholder, to probe the application and the hosts of `[app]`.
fn onboarding_tenant(config: &Config) -> Option<Arc<Tenant>> {
    let app = config.onboarding.app.clone()?;
    Some(Arc::new(Tenant::with_defaults(
        TenantId(Uuid::nil()),
        "[app]",
        config.onboarding.endpoints(None, config.onboarding.source()),
        app,
    )))
}

/// The checks before a customer consents: the application's credential, the proxy and the hosts.
pub async fn connectivity(config: &Config, tenants: &[Arc<Tenant>]) -> Vec<Finding> {
    let egress = network::egress(&config.http_client).await;
    let hosts = network::hosts(&config.http_client, &egress, tenants).await;
    diagnose::connectivity(&expiry::expiries(tenants).await, &egress, &hosts, expiry::now())
}

/// In the order of the configuration.
async fn probe_all_tenants(
    tenants: &[Arc<Tenant>],
    context: &tenant::ProbeContext<'_>,
    concurrency: usize,
    progress: &Progress,
) -> Vec<tenant::TenantProbe> {
    let probes = tenants.iter().enumerate().map(|(index, each)| async move {
        let line = progress.tenant(&each.name);
        let probe = tenant::probe(each, context, &line).await;
        line.finished();
        (index, probe)
    });
    // Boxed, because the compiler cannot infer that the nested closures are Send.
    let probes = futures::stream::iter(probes).map(Box::pin);
    let mut probed: Vec<_> = probes.buffer_unordered(concurrency).collect().await;
    probed.sort_unstable_by_key(|(index, _)| *index);
    probed.into_iter().map(|(_, probe)| probe).collect()
}

/// The findings for an invalid configuration.
pub fn of_rejected(errors: &ConfigErrors) -> Vec<Finding> {
    let rest = [(Group::Network, "dns"), (Group::Database, "server"), (Group::Tenants, "token")];
    let rest = rest.map(|(group, check)| Finding {
        group,
        check,
        about: String::new(),
        result: CheckResult::NotTried,
        who_must_act: None,
        advice: "the configuration is invalid".to_owned(),
        error: None,
    });
    errors.0.iter().map(of_error).chain(rest).collect()
}

fn of_error(error: &ConfigError) -> Finding {
    Finding {
        group: Group::Configuration,
        check: "file",
        about: error.file.clone(),
        result: CheckResult::Failure,
        who_must_act: Some("operator"),
        advice: if error.key.is_empty() {
            error.problem.clone()
        } else {
            format!("{}: {}", error.key, error.problem)
        },
        error: None,
    }
}
