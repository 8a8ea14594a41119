//! Probes a tenant: its token, the claims in it, and one call.

use super::network;
use super::network::Host;
use crate::api::{ApiClient, Query};
use crate::entra::Tenant;
use crate::entra::claims::TokenCheck;
use crate::entra::{Token, TokenCache};
use crate::error::{ErrorClass, Peer, SyncError};
use crate::incident::paging::Request;
use crate::store::Store;
use crate::store::quota::Quotas;
use crate::sync::page_fetcher;
use crate::sync::progress::TenantProgress;
use crate::tenant::{Endpoints, Source};

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
    /// Tried if the requested scope may be the wrong one of two.
    pub other_scope: Option<OtherScope>,
}

/// The claims of a token.
#[derive(Debug, Clone)]
pub struct TokenFacts {
    /// Of tenant and roles.
    pub check: TokenCheck,
    pub audience: Option<String>,
    /// The credential that Entra refused before another one obtained the token, and why.
    pub refused: Option<(String, SyncError)>,
}

/// The result with the other scope of [`crate::tenant::Endpoints`].
#[derive(Debug, Clone)]
pub struct OtherScope {
    pub scope: String,
    pub call: Result<(), SyncError>,
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
    let nothing = TenantProbe {
        name: tenant.name.clone(),
        source: tenant.source(),
        scope: tenant.endpoints.scope.clone(),
        token: None,
        call: None,
        other_scope: None,
    };
    let is_reached = |url| {
        let origin = network::origin(url);
        context.hosts.iter().any(|host| host.origin == origin && host.is_reached())
    };
    if !is_reached(&tenant.endpoints.authority) {
        return nothing;
    }
    let is_api_reached = is_reached(&tenant.endpoints.base_url);
    let token = match context.tokens.get(tenant).await {
        Ok(token) => token,
        Err(error) => {
            let other_scope = try_other_scope(tenant, context, line, &error, is_api_reached).await;
            return TenantProbe { token: Some(Err(error)), other_scope, ..nothing };
        }
    };
    let refused = token.refused_credential();
    let facts = TokenFacts {
        check: token.check(),
        audience: token.audience(),
        refused: refused.map(|(id, error)| (id.name.to_owned(), error.clone())),
    };
    let call = if is_api_reached { Some(call(tenant, &token, context, line).await) } else { None };
    let other_scope = match &call {
        Some(Err(error)) => try_other_scope(tenant, context, line, error, is_api_reached).await,
        _ => None,
    };
    TenantProbe { token: Some(Ok(facts)), call, other_scope, ..nothing }
}

/// Tries the other scope if Entra does not know the resource of the first one, or the API does not accept its tokens.
async fn try_other_scope(
    tenant: &Tenant,
    context: &ProbeContext<'_>,
    line: &TenantProgress,
    error: &SyncError,
    is_api_reached: bool,
) -> Option<OtherScope> {
    let may_be_the_scope =
        matches!(error, SyncError::Entra { .. } | SyncError::TokenRejected { .. })
            && matches!(
                error.diagnosis().class,
                ErrorClass::TenantConfig | ErrorClass::Unauthorized
            );
    let scope = tenant.endpoints.other_scope.clone().filter(|_| may_be_the_scope)?;
    let endpoints = Endpoints { scope: scope.clone(), ..tenant.endpoints.clone() };
    let tenant = Tenant { endpoints, ..tenant.clone() };
    let call = match context.tokens.get(&tenant).await {
        Ok(token) if is_api_reached => call(&tenant, &token, context, line).await,
        Ok(_) => return None,
        Err(error) => Err(error),
    };
    Some(OtherScope { scope, call })
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
    let result = match ask(tenant, token, context.api).await {
        Err(error) => Err(context.tokens.judge_new_token(tenant, error).await),
        answered => answered,
    };
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
