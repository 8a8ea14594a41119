//! Probes a tenant: its token, the claims in it, and one call.

use super::network;
use super::network::Host;
use crate::api::{ApiClient, Query};
use crate::entra::Tenant;
use crate::entra::claims::TokenCheck;
use crate::entra::{Token, TokenCache};
use crate::error::{Peer, SyncError};
use crate::incident::paging::Request;
use crate::store::Store;
use crate::store::quota::Quotas;
use crate::sync::page_fetcher;
use crate::sync::progress::TenantProgress;
use crate::tenant::Source;

/// The results of a tenant's probes.
#[derive(Debug, Clone)]
pub struct TenantProbe {
    pub name: String,
    pub source: Source,
    /// The requested scope.
    pub scope: String,
    /// `None` if Entra was not reached.
    pub token: Option<Result<TokenFacts, SyncError>>,
    /// `None` if the API was not reached.
    pub call: Option<Result<(), SyncError>>,
}

/// The claims of a token.
#[derive(Debug, Clone)]
pub struct TokenFacts {
    /// Of tenant and roles.
    pub check: TokenCheck,
    pub audience: Option<String>,
}

/// Shared by the probes of all tenants.
pub struct ProbeContext<'a> {
    /// One cache, so that the circuit breaker limits requests with a refused credential.
    pub tokens: &'a TokenCache,
    pub api: &'a ApiClient,
    /// Counts the calls; `None` without a usable database.
    pub quota: Option<(&'a Store, Quotas)>,
    /// The results of the hosts' probes.
    pub hosts: &'a [Host],
}

/// Requests a token, checks its claims, and makes one call that returns an empty page.
pub async fn probe(
    tenant: &Tenant,
    context: &ProbeContext<'_>,
    line: &TenantProgress,
) -> TenantProbe {
    let name = tenant.name.clone();
    let source = tenant.source();
    let scope = tenant.endpoints.scope.clone();
    let is_reached = |url| {
        let origin = network::origin(url);
        context.hosts.iter().any(|host| host.origin == origin && host.is_reached())
    };
    if !is_reached(&tenant.endpoints.authority) {
        return TenantProbe { name, source, scope, token: None, call: None };
    }
    let token = match context.tokens.get(tenant).await {
        Ok(token) => token,
        Err(error) => {
            return TenantProbe { name, source, scope, token: Some(Err(error)), call: None };
        }
    };
    let facts = TokenFacts { check: token.check(), audience: token.audience() };
    let call = if is_reached(&tenant.endpoints.base_url) {
        Some(call(tenant, &token, context, line).await)
    } else {
        None
    };
    TenantProbe { name, source, scope, token: Some(Ok(facts)), call }
}

async fn call(
    tenant: &Tenant,
    token: &Token,
    context: &ProbeContext<'_>,
    line: &TenantProgress,
) -> Result<(), SyncError> {
    if let Some((store, quotas)) = &context.quota {
        match store.reserve_call(tenant.id, quotas.of(tenant.source())).await {
            Ok(wait) if wait.is_zero() => {}
            Ok(wait) => {
                line.waiting(wait);
                tokio::time::sleep(wait).await;
            }
            // Before the first start of the daemon, the tenant is not in the database.
            Err(SyncError::LeaseLost) => {}
            Err(error) => return Err(error),
        }
    }
    let result = ask(tenant, token, context.api).await;
    if let (Some((store, _)), Err(error)) = (&context.quota, &result) {
        page_fetcher::record_pause(store, tenant, error).await;
    }
    result
}

async fn ask(tenant: &Tenant, token: &Token, api: &ApiClient) -> Result<(), SyncError> {
    let request = Request::probe();
    match api.page(tenant, token, Query::List(&request), None).await {
        // The API ignores the filter. Only one page of this size may be in memory.
        Err(SyncError::BodyTooLarge { peer: Peer::Defender | Peer::Graph, .. }) => {
            let permit = api.large_page_permit().await;
            api.page(tenant, token, Query::List(&request), Some(permit)).await.map(drop)
        }
        other => other.map(drop),
    }
}
