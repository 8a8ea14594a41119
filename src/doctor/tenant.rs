//! What the doctor sees of a tenant: its token, what that says, and one call.

use super::network;
use super::network::Host;
use crate::commands::progress::TenantProgress;
use crate::defender::DefenderClient;
use crate::defender::paging::Request;
use crate::entra::claims::TokenCheck;
use crate::entra::{Token, TokenCache};
use crate::error::{Peer, SyncError};
use crate::store::Store;
use crate::store::quota::Quota;
use crate::sync::page_fetcher;
use crate::tenant::Tenant;

/// What was seen of a tenant.
#[derive(Debug, Clone)]
pub struct TenantProbe {
    /// Its name.
    pub name: String,
    /// What a token for the API should be for.
    pub scope: String,
    /// Nothing where Entra was not asked.
    pub token: Option<Result<TokenFacts, SyncError>>,
    /// Nothing where the API was not asked.
    pub call: Option<Result<(), SyncError>>,
}

/// What a token tells of itself.
#[derive(Debug, Clone)]
pub struct TokenFacts {
    /// Its tenant and roles.
    pub check: TokenCheck,
    /// For whom it is.
    pub audience: Option<String>,
}

/// The parties that a look at a tenant needs.
pub struct ProbeContext<'a> {
    /// Of all tenants, so that one broken credential is asked with for a few only.
    pub tokens: &'a TokenCache,
    /// The API.
    pub incidents: &'a DefenderClient,
    /// Where calls are counted; nothing without a good database.
    pub quota: Option<(&'a Store, Quota)>,
    /// What is known of the hosts already.
    pub hosts: &'a [Host],
}

/// Asks for a token, looks into it, and makes one call that answers an empty page.
pub async fn probe(
    tenant: &Tenant,
    context: &ProbeContext<'_>,
    line: &TenantProgress,
) -> TenantProbe {
    let (name, scope) = (tenant.name.clone(), tenant.endpoints.scope.clone());
    let is_reached = |url| {
        let origin = network::origin(url);
        context.hosts.iter().any(|host| host.origin == origin && host.is_reached())
    };
    if !is_reached(&tenant.endpoints.authority) {
        return TenantProbe { name, scope, token: None, call: None };
    }
    let token = match context.tokens.get(tenant).await {
        Ok(token) => token,
        Err(error) => return TenantProbe { name, scope, token: Some(Err(error)), call: None },
    };
    let told = TokenFacts { check: token.check(), audience: token.audience() };
    let call = if is_reached(&tenant.endpoints.base_url) {
        Some(call(tenant, &token, context, line).await)
    } else {
        None
    };
    TenantProbe { name, scope, token: Some(Ok(told)), call }
}

async fn call(
    tenant: &Tenant,
    token: &Token,
    context: &ProbeContext<'_>,
    line: &TenantProgress,
) -> Result<(), SyncError> {
    if let Some((store, quota)) = &context.quota {
        match store.reserve_call(tenant.id, quota).await {
            Ok(wait) if wait.is_zero() => {}
            Ok(wait) => {
                line.waiting(wait);
                tokio::time::sleep(wait).await;
            }
            // Not in the database before the daemon's first start.
            Err(SyncError::LeaseLost) => {}
            Err(error) => return Err(error),
        }
    }
    let answer = ask(tenant, token, context.incidents).await;
    if let (Some((store, _)), Err(error)) = (&context.quota, &answer) {
        page_fetcher::record_pause(store, tenant, error).await;
    }
    answer
}

async fn ask(tenant: &Tenant, token: &Token, incidents: &DefenderClient) -> Result<(), SyncError> {
    let request = Request::probe();
    match incidents.page(tenant, token, &request, None).await {
        // An API that takes no heed of the filter. Such a page has to be the only one in memory.
        Err(SyncError::BodyTooLarge { peer: Peer::Defender, .. }) => {
            let permit = incidents.large_page_permit().await;
            incidents.page(tenant, token, &request, Some(permit)).await.map(drop)
        }
        other => other.map(drop),
    }
}
