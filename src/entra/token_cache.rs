//! The tokens of all tenants. Each is requested once in its lifetime and shared by all waiting callers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::{Client, Url};
use tracing::Instrument;
use tracing::field::Empty;

use super::Tenant;
use super::circuit_breaker::CircuitBreaker;
use super::credential::{ClientAuth, Credential, CredentialId};
use super::token_request::{Token, TokenRequests};
use crate::error::{Retry, SyncError, TokenRequest};
use crate::tenant::TenantId;

/// The pause after a failed renewal while the current token is valid.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// How long no further token is requested after a new one was refused: the next one would be refused as well. Shorter than the
/// time between two probes of a parked tenant.
const REJECTION_HOLD: Duration = Duration::from_secs(30 * 60);

/// Authority, tenant, client id and scope. Equal keys share a token.
type Key = (Url, TenantId, String, String);
/// Authority and client id. Entra throttles an app, not a tenant.
type ThrottledApp = (Url, String);

#[derive(Debug, Default)]
pub(super) struct CacheEntry {
    pub(super) token: Option<Arc<Token>>,
    /// Set after a failed renewal: the time of the next one.
    pub(super) renew_at: Option<Instant>,
    pub(super) failure: Option<(Instant, SyncError)>,
    /// When the API refused this token although it was new.
    pub(super) rejected_at: Option<Instant>,
}

#[derive(Debug)]
pub struct TokenCache {
    requests: TokenRequests,
    breaker: CircuitBreaker,
    /// The lock of an entry is held during its request, so that there is one request at a time for each token.
    entries: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<CacheEntry>>>>,
    /// Until when Entra throttles an app.
    throttled: Mutex<HashMap<ThrottledApp, Instant>>,
}

impl TokenCache {
    pub fn new(client: Client) -> Self {
        Self {
            requests: TokenRequests::new(client),
            breaker: CircuitBreaker::default(),
            entries: Mutex::default(),
            throttled: Mutex::default(),
        }
    }

    /// The tenant's token, from the cache while it is valid. Callers that wait for the same request share its result.
    pub async fn get(&self, tenant: &Tenant) -> Result<Arc<Token>, SyncError> {
        let called = Instant::now();
        let entry = self.entry(tenant);
        let mut entry = entry.lock().await;
        let renew_at = entry.renew_at;
        if let Some(token) =
            entry.token.as_ref().filter(|token| Instant::now() < renew_at.unwrap_or(token.renew_at))
        {
            return Ok(Arc::clone(token));
        }
        // A request that failed while this caller waited for the lock answers this caller, too.
        if let Some((_, error)) = entry.failure.as_ref().filter(|(failed, _)| *failed >= called) {
            return Err(error.clone());
        }
        let result = match self.check_throttling(tenant) {
            Ok(()) => self.request(tenant).await,
            Err(throttled) => Err(throttled),
        };
        self.record_throttling(tenant, result.as_ref().err());
        match result {
            Ok(token) => {
                let token = Arc::new(token);
                *entry = CacheEntry { token: Some(Arc::clone(&token)), ..CacheEntry::default() };
                Ok(token)
            }
            Err(error) => {
                let now = Instant::now();
                if let Some(token) = entry
                    .token
                    .as_ref()
                    .filter(|token| error.is_transient() && now < token.ends)
                    .cloned()
                {
                    tracing::debug!(
                        tenant.id = %tenant.id, tenant.name = tenant.name, error = %error,
                        "Token renewal failed; using the current token until it expires"
                    );
                    entry.renew_at = Some(token.ends.min(now + RENEWAL_PAUSE));
                    return Ok(token);
                }
                *entry =
                    CacheEntry { failure: Some((now, error.clone())), ..CacheEntry::default() };
                Err(error)
            }
        }
    }

    /// Removes a token that the API did not accept.
    pub async fn forget(&self, tenant: &Tenant) {
        *self.entry(tenant).lock().await = CacheEntry::default();
    }

    /// Whether a new token of this tenant was refused a short time ago.
    pub async fn is_rejected(&self, tenant: &Tenant) -> bool {
        let rejected_at = self.entry(tenant).lock().await.rejected_at;
        rejected_at.is_some_and(|rejected_at| rejected_at.elapsed() < REJECTION_HOLD)
    }

    /// The error of a call with a new token. A 401 is the fault of the audience, not of the token's age.
    pub async fn judge_new_token(&self, tenant: &Tenant, error: SyncError) -> SyncError {
        let SyncError::Api { api, status: 401, code, target, .. } = &error else { return error };
        if error.diagnosis().retry != Retry::WithNewToken {
            return error;
        }
        let entry = self.entry(tenant);
        let mut entry = entry.lock().await;
        entry.rejected_at = entry.rejected_at.or(Some(Instant::now()));
        let audience = entry.token.as_ref().and_then(|token| token.audience());
        SyncError::TokenRejected {
            api: *api,
            code: code.clone(),
            target: target.clone(),
            request: Box::new(TokenRequest {
                audience: audience.unwrap_or_else(|| "an audience that cannot be read".to_owned()),
                scope: tenant.endpoints.scope.clone(),
            }),
        }
    }

    /// Permits an immediate probe of each refused credential, as after a reload of the configuration.
    pub fn probe_refused(&self) {
        self.breaker.probe_refused();
    }

    pub(super) fn entry(&self, tenant: &Tenant) -> Arc<tokio::sync::Mutex<CacheEntry>> {
        let endpoints = &tenant.endpoints;
        let key = (
            endpoints.authority.clone(),
            tenant.id,
            tenant.app.client_id.clone(),
            endpoints.scope.clone(),
        );
        let mut entries = self.entries.lock();
        Arc::clone(entries.entry(key).or_default())
    }

    /// Fails while Entra throttles the app, because a request for any of its tenants would prolong the throttling.
    fn check_throttling(&self, tenant: &Tenant) -> Result<(), SyncError> {
        let throttled = self.throttled.lock();
        let until = throttled.get(&throttled_app(tenant)).copied();
        let left = until.and_then(|until| until.checked_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero())
            .map_or(Ok(()), |left| Err(SyncError::EntraHold { left }))
    }

    fn record_throttling(&self, tenant: &Tenant, error: Option<&SyncError>) {
        if let Some(SyncError::Entra { status: 429, .. }) = error
            && let Some(Retry::After(pause)) = error.map(|error| error.diagnosis().retry)
        {
            let mut throttled = self.throttled.lock();
            throttled.insert(throttled_app(tenant), Instant::now() + pause);
        }
    }

    /// Requests a token with the first credential, or with the next one if Entra refuses the first.
    async fn request(&self, tenant: &Tenant) -> Result<Token, SyncError> {
        let mut refusal = None;
        for (credential_id, credential) in tenant.app.credentials() {
            match Box::pin(self.request_with(tenant, &credential_id, credential)).await {
                Err(error) if error.is_credential_error() => {
                    refusal = refusal.or(Some((credential_id, error)));
                }
                other => return other.map(|token| Token { refused: refusal, ..token }),
            }
        }
        Err(refusal.expect("an app has at least one credential").1)
    }

    async fn request_with(
        &self,
        tenant: &Tenant,
        credential_id: &CredentialId,
        credential: &Arc<Credential>,
    ) -> Result<Token, SyncError> {
        let (auth, fingerprint) = credential.client_auth(credential_id).await;
        let turn = self.breaker.turn(credential_id, &fingerprint).await;
        self.breaker.check(credential_id, &fingerprint)?;
        let span = tracing::info_span!(
            "token_request",
            credential = credential_id.name,
            otel.status_code = Empty
        );
        let result = Box::pin(self.requests.request(tenant, &auth)).instrument(span.clone()).await;
        if result.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        let label = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("incident_sync_token_requests_total", "result" => label).increment(1);
        match &result {
            Ok(_) => self.breaker.record_success(tenant, credential_id, fingerprint, credential),
            Err(error) if error.shared_credential_code().is_some() => {
                if let ClientAuth::ManagedIdentity(identity) = &*auth {
                    identity.forget().await;
                }
                self.breaker.record_refusal(tenant, credential_id, fingerprint, credential, error);
            }
            Err(_) => {}
        }
        drop(turn);
        result
    }
}

fn throttled_app(tenant: &Tenant) -> ThrottledApp {
    (tenant.endpoints.authority.clone(), tenant.app.client_id.clone())
}
