//! The doctor: database, and for each tenant the token, what it says, and one call. Says who must do what.

use chrono::DateTime;
use serde::Serialize;

use crate::defender::Incidents;
use crate::defender::paging::{PAGE_ROWS, Request};
use crate::entra::Tokens;
use crate::entra::claims::Look;
use crate::error::SyncError;
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
    match incidents.page(tenant, &token, &Request { window, skip: 0, top: PAGE_ROWS, link: None }).await {
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
