//! The doctor: database, and for each tenant the token, what it says, and one call. Says who must do what.

use std::sync::Arc;

use chrono::DateTime;
use futures::StreamExt;
use serde::Serialize;

use crate::config::Config;
use crate::defender::Incidents;
use crate::defender::paging::{PAGE_ROWS, Request};
use crate::embedded::Hold;
use crate::entra::Tokens;
use crate::entra::claims::Look;
use crate::error::SyncError;
use crate::expiry;
use crate::http::{self, Deadlines};
use crate::setup::{self, OpenDatabase};
use crate::store::Store;
use crate::store::quota::Quota;
use crate::tenant::Tenant;
use crate::window::Window;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// Nothing to do.
    Ok,
    /// Works, but somebody should look at it.
    Warning,
    /// Does not work.
    Failure,
}

impl CheckResult {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was checked: a part of us, or a tenant's name.
    pub what: String,
    /// How it ended.
    pub result: CheckResult,
    /// Who must act; empty for nobody.
    pub who: &'static str,
    /// In plain words.
    pub detail: String,
}

impl Finding {
    /// Something is as it should be.
    pub fn ok(what: &str, detail: impl Into<String>) -> Self {
        Self { what: what.to_owned(), result: CheckResult::Ok, who: "", detail: detail.into() }
    }

    /// The operator should look at something.
    pub fn warning(what: &str, detail: impl Into<String>) -> Self {
        Self { what: what.to_owned(), result: CheckResult::Warning, who: "operator", detail: detail.into() }
    }

    /// Something failed.
    pub fn failure(what: &str, error: &SyncError) -> Self {
        let verdict = error.verdict();
        let detail = format!("{} ({error})", verdict.say);
        Self { what: what.to_owned(), result: CheckResult::Failure, who: verdict.who.as_str(), detail }
    }
}

/// Checks everything; the second answer is whether the database is good.
pub async fn all(config: &Config, tenants: &[Arc<Tenant>]) -> (Vec<Finding>, bool) {
    let file = config.file.as_ref().map_or_else(|| "built-in defaults".to_owned(), |file| file.display().to_string());
    let mut findings = vec![Finding::ok("configuration", format!("{file}, {} tenants", config.tenants.len()))];
    findings.extend(config.warnings.iter().map(|warning| Finding::warning("configuration", warning.clone())));
    let ends = expiry::endings(tenants);
    findings.extend(ends.iter().map(|ending| ending.finding(expiry::now())));
    let database = match OpenDatabase::open(&config.database, Hold::Command, false).await {
        Ok(database) => {
            findings.push(schema(&database.store).await);
            Some(database)
        }
        Err(error) => {
            let (what, detail) = ("database".to_owned(), error.to_string());
            findings.push(Finding { what, result: CheckResult::Failure, who: "operator", detail });
            None
        }
    };
    let client = http::client_on(&config.http_client, Deadlines::default());
    let (tokens, incidents) = (Tokens::new(client.clone()), Incidents::new(client));
    {
        let quota = database.as_ref().map(|database| (&database.store, setup::quota(config)));
        let calls = tenants.iter().map(|each| tenant(each, &tokens, &incidents, quota));
        let calls = futures::stream::iter(calls).buffered(config.sync.concurrency);
        findings.extend(calls.collect::<Vec<_>>().await);
    }
    let is_database_good = database.is_some();
    if let Some(database) = database {
        database.close().await;
    }
    (findings, is_database_good)
}

async fn schema(store: &Store) -> Finding {
    match store.pending_migrations().await {
        Ok(0) => match store.missing_objects().await {
            Ok((_, indexes)) if indexes.is_empty() => Finding::ok("database", "reached; the schema is current"),
            Ok((_, indexes)) => Finding::warning(
                "database",
                format!("missing in the schema defender: {}; queries will be slow", indexes.join(", ")),
            ),
            Err(error) => Finding::failure("database", &error),
        },
        Ok(pending) => {
            Finding::warning("database", format!("{pending} migrations are pending; run: incident-sync migrate"))
        }
        Err(error) => Finding::failure("database", &error),
    }
}

/// Asks for a token and makes one call that answers an empty page.
/// With a database the call counts in the tenant's quota.
pub async fn tenant(
    tenant: &Tenant,
    tokens: &Tokens,
    incidents: &Incidents,
    quota: Option<(&Store, Quota)>,
) -> Finding {
    let token = match tokens.get(tenant).await {
        Ok(token) => token,
        Err(error) => return Finding::failure(&tenant.name, &error),
    };
    if let Some((store, quota)) = quota {
        match store.reserve_call(tenant.id, &quota).await {
            Ok(wait) => tokio::time::sleep(wait).await,
            Err(error @ SyncError::Paused { .. }) => return Finding::failure(&tenant.name, &error),
            // Not in the database before the daemon's first start.
            Err(_) => {}
        }
    }
    let window = Window { from: DateTime::from_timestamp(4_102_444_800, 0), to: None, status: None };
    match incidents
        .page(tenant, &token, &Request { window, skip: 0, top: PAGE_ROWS, link: None }, Some(incidents.room().await))
        .await
    {
        Err(error) => Finding::failure(&tenant.name, &error),
        Ok(_) => match token.look() {
            Look::Fine => Finding::ok(&tenant.name, "token, tenant, role and one call"),
            Look::RoleMissing => {
                Finding::warning(&tenant.name, "the API answers although the token shows no role Incident.Read.All")
            }
            Look::Opaque => Finding::warning(
                &tenant.name,
                "the API answers, but the token cannot be read, so its tenant is not proven",
            ),
        },
    }
}
