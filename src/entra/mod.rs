//! Tokens of the customer tenants: asked for once in their lifetime, looked into before they are used.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::Instrument;
use tracing::field::Empty;

use crate::error::{BREAKER_PROBE, IDENTITY_PROBE, Peer, Retry, SyncError};
use crate::http_client;
use crate::tenant::{Tenant, TenantId, TokenVersion};

pub mod certificate;
pub mod claims;
pub mod credential;
pub mod expiry;
pub mod managed_identity;
pub mod secret_file;
#[cfg(test)]
mod tests;

use claims::TokenCheck;
use credential::{ClientAuth, Credential, CredentialId, Fingerprint};

const REPLY_BYTES_MAX: usize = 64 * 1024;
/// A token is renewed this long before it ends, or a tenth of its life before, whichever is shorter.
const RENEW_EARLY: Duration = Duration::from_secs(300);
/// A renewal that failed is tried again so much later, while the token before lasts.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);
/// Lifetimes beyond a day or below a minute are not believed; none at all is taken for five minutes.
const LIFETIME: std::ops::RangeInclusive<u64> = 60..=86_400;
const LIFETIME_UNTOLD: u64 = 300;

/// An access token for one tenant.
#[derive(Debug)]
pub struct Token {
    value: SecretString,
    renew_at: Instant,
    ends: Instant,
    check: TokenCheck,
}

impl Token {
    pub(crate) fn bearer(&self) -> &str {
        self.value.expose_secret()
    }

    /// What the token told of itself.
    pub fn check(&self) -> TokenCheck {
        self.check
    }

    /// For whom it is, if it can be read.
    pub fn audience(&self) -> Option<String> {
        claims::audience(self.bearer())
    }
}

/// Whose token it is; tokens of one key are the same token.
type Key = (Url, TenantId, String, String);

#[derive(Debug, Default)]
struct CacheEntry {
    token: Option<Arc<Token>>,
    /// Not before, when a renewal has failed.
    renew_at: Option<Instant>,
    failure: Option<(Instant, SyncError)>,
}

/// The tokens of all tenants.
#[derive(Debug)]
pub struct TokenCache {
    client: Client,
    entries: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<CacheEntry>>>>,
    refusals: Mutex<HashMap<CredentialId, Refusals>>,
    /// The credentials that have obtained a token and were not refused since.
    accepted_credentials: Mutex<HashMap<CredentialId, Fingerprint>>,
    /// Whose turn it is to try one that is not proven.
    turns: Mutex<HashMap<CredentialId, Arc<tokio::sync::Mutex<()>>>>,
    holds: Mutex<HashMap<Application, Instant>>,
    /// Seconds that Entra's clock is ahead of ours, once an assertion was refused for its time.
    skew: AtomicI64,
    /// Which of an application's credentials last obtained a token.
    in_use: Mutex<HashMap<Vec<CredentialId>, &'static str>>,
}

/// Entra throttles an application, not a tenant: authority and client id.
type Application = (Url, String);

/// For which tenants Entra refused an app's own credential.
#[derive(Debug)]
struct Refusals {
    /// Another one may be accepted.
    fingerprint: Fingerprint,
    tenants: HashSet<TenantId>,
    /// The last one.
    error: SyncError,
    /// None where it is to be tried at once.
    last_asked: Option<Instant>,
}

impl TokenCache {
    /// An empty cache.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            entries: Mutex::default(),
            refusals: Mutex::default(),
            accepted_credentials: Mutex::default(),
            turns: Mutex::default(),
            holds: Mutex::default(),
            skew: AtomicI64::new(0),
            in_use: Mutex::default(),
        }
    }

    /// The tenant's token, from the cache while it lasts. Callers that wait for the same request share its result.
    pub async fn get(&self, tenant: &Tenant) -> Result<Arc<Token>, SyncError> {
        let asked = Instant::now();
        let entry = self.entry(tenant);
        let mut entry = entry.lock().await;
        let renew_at = entry.renew_at;
        if let Some(token) =
            entry.token.as_ref().filter(|token| Instant::now() < renew_at.unwrap_or(token.renew_at))
        {
            return Ok(Arc::clone(token));
        }
        if let Some((_, error)) = entry.failure.as_ref().filter(|(failed, _)| *failed >= asked) {
            return Err(error.clone());
        }
        let result = match self.check_hold(tenant) {
            Ok(()) => self.request(tenant).await,
            Err(held) => Err(held),
        };
        self.note_hold(tenant, result.as_ref().err());
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
                        "the token was not renewed; the one before is used until it ends"
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

    /// Drops a token that the API did not accept.
    pub async fn forget(&self, tenant: &Tenant) {
        *self.entry(tenant).lock().await = CacheEntry::default();
    }

    /// Lets each refused credential be tried again at once, because the configuration was read again. That it was refused
    /// stays known, and is no news when it is refused once more.
    pub fn probe_refused(&self) {
        for refused in self.refusals.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            refused.last_asked = None;
        }
    }

    fn entry(&self, tenant: &Tenant) -> Arc<tokio::sync::Mutex<CacheEntry>> {
        let endpoints = &tenant.endpoints;
        let key = (
            endpoints.authority.clone(),
            tenant.id,
            tenant.app.client_id.clone(),
            endpoints.scope.clone(),
        );
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(entries.entry(key).or_default())
    }

    /// While Entra holds the application, a request for any of its tenants would only prolong that.
    fn check_hold(&self, tenant: &Tenant) -> Result<(), SyncError> {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let until = holds.get(&application(tenant)).copied();
        let left = until.and_then(|until| until.checked_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero())
            .map_or(Ok(()), |left| Err(SyncError::EntraHold { left }))
    }

    fn note_hold(&self, tenant: &Tenant, error: Option<&SyncError>) {
        if let Some(SyncError::Entra { status: 429, .. }) = error
            && let Some(Retry::After(pause)) = error.map(|error| error.diagnosis().retry)
        {
            let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
            holds.insert(application(tenant), Instant::now() + pause);
        }
    }

    /// A credential that was refused for two tenants is refused for all: one probe in a while, not one for each tenant. Where
    /// the managed identity service is unwell, one failure is enough, and a while is short.
    fn check_breaker(
        &self,
        credential_id: &CredentialId,
        fingerprint: &Fingerprint,
    ) -> Result<(), SyncError> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let refused =
            refusals.get_mut(credential_id).filter(|refused| refused.fingerprint == *fingerprint);
        let Some(refused) = refused else { return Ok(()) };
        let is_transient = refused.error.is_transient();
        let (probe, enough) = if is_transient { (IDENTITY_PROBE, 1) } else { (BREAKER_PROBE, 2) };
        let is_time = refused.last_asked.is_none_or(|asked| asked.elapsed() >= probe);
        if refused.tenants.len() < enough || is_time {
            refused.last_asked = Some(Instant::now());
            return Ok(());
        }
        let code = refused.error.shared_credential_code().unwrap_or_default();
        Err(if is_transient {
            refused.error.clone()
        } else {
            SyncError::CredentialBreaker { code }
        })
    }

    /// The turn to wait for; none for a credential that is proven.
    fn turn(
        &self,
        credential_id: &CredentialId,
        fingerprint: &Fingerprint,
    ) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let is_proven = self
            .accepted_credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(credential_id)
            == Some(fingerprint);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        (!is_proven).then(|| Arc::clone(turns.entry(credential_id.clone()).or_default()))
    }

    /// Answers whether it is the first refusal of this very credential, or for another kind of reason than the last.
    fn note_refusal(
        &self,
        tenant: &Tenant,
        credential_id: &CredentialId,
        fingerprint: Fingerprint,
        error: &SyncError,
    ) -> bool {
        self.accepted_credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(credential_id);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let last_asked = Some(Instant::now());
        let fresh =
            || Refusals { fingerprint, tenants: HashSet::new(), error: error.clone(), last_asked };
        let refused = refusals.entry(credential_id.clone()).or_insert_with(fresh);
        if refused.fingerprint != fingerprint {
            *refused = fresh();
        }
        let is_first = refused.tenants.is_empty()
            || refused.error.diagnosis().class != error.diagnosis().class;
        refused.tenants.insert(tenant.id);
        refused.error = error.clone();
        is_first
    }

    /// By the first credential; by the next one where Entra refuses the first.
    async fn request(&self, tenant: &Tenant) -> Result<Token, SyncError> {
        let mut refused = None;
        for (credential_id, credential) in tenant.app.credentials() {
            match Box::pin(self.request_by(tenant, &credential_id, credential)).await {
                Err(error) if error.is_credential_error() => refused = refused.or(Some(error)),
                other => return other,
            }
        }
        Err(refused.expect("an application has a credential"))
    }

    async fn request_by(
        &self,
        tenant: &Tenant,
        credential_id: &CredentialId,
        by: &Arc<Credential>,
    ) -> Result<Token, SyncError> {
        let (auth, fingerprint) = by.client_auth(credential_id).await;
        let name = credential_id.name;
        // Else all tenants in flight would be refused before the second refusal is known.
        let turn = self.turn(credential_id, &fingerprint);
        let turn = match &turn {
            Some(turn) => tokio::time::timeout(TURN_PATIENCE, turn.lock()).await.ok(),
            None => None,
        };
        self.check_breaker(credential_id, &fingerprint)?;
        let span =
            tracing::info_span!("token_request", credential = name, otel.status_code = Empty);
        let result = Box::pin(self.request_with(tenant, &auth)).instrument(span.clone()).await;
        if result.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        let told = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("incident_sync_token_requests_total", "result" => told).increment(1);
        if let Err(error) = &result
            && error.shared_credential_code().is_some()
        {
            if let ClientAuth::ManagedIdentity(identity) = &*auth {
                identity.forget().await;
            }
            credential_id.set("incident_sync_credential_refused", 1.0);
            // Once, not for each tenant.
            if self.note_refusal(tenant, credential_id, fingerprint, error) {
                let (diagnosis, whose) = (error.diagnosis(), whose(credential_id));
                let what =
                    if error.is_transient() { "cannot be used for now" } else { "is refused" };
                tracing::error!(
                    app = credential_id.client_id, credential = name, tenant.name = credential_id.owner, kind = by.kind(),
                    class = diagnosis.class.as_str(), owner = diagnosis.owner.as_str(), advice = &*diagnosis.advice, error = %error,
                    "{whose} credential {what}: {name} ({kind})", kind = by.kind()
                );
            }
        } else if result.is_ok() {
            self.accepted_credentials
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(credential_id.clone(), fingerprint);
            self.note_success(tenant, credential_id, by);
        }
        drop(turn);
        result
    }

    fn note_success(&self, tenant: &Tenant, credential_id: &CredentialId, by: &Credential) {
        let name = credential_id.name;
        credential_id.set("incident_sync_credential_refused", 0.0);
        let credential_ids: Vec<CredentialId> =
            tenant.app.credentials().map(|(credential_id, _)| credential_id).collect();
        for other in &credential_ids {
            other.set("incident_sync_credential_in_use", f64::from(other == credential_id));
        }
        let refused =
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(credential_id);
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let before = in_use.insert(credential_ids, name);
        if before != Some(name) || refused.is_some() {
            let whose = whose(credential_id);
            tracing::info!(
                app = credential_id.client_id,
                credential = name,
                tenant.name = credential_id.owner,
                kind = by.kind(),
                "tokens are obtained by {whose} credential: {name}"
            );
        }
    }

    /// An assertion that is refused for its time is made again by Entra's clock, once.
    async fn request_with(&self, tenant: &Tenant, auth: &ClientAuth) -> Result<Token, SyncError> {
        let skew = self.skew.load(Ordering::Relaxed);
        let result = Box::pin(self.ask(tenant, auth)).await;
        let is_clock_skew = result.as_ref().is_err_and(is_clock_skew);
        let learned = self.skew.load(Ordering::Relaxed);
        if is_clock_skew
            && matches!(auth, ClientAuth::Certificate(_))
            && learned.abs_diff(skew) > SKEW_WORTH_A_TRY
        {
            tracing::warn!(
                owner = "operator",
                seconds = learned,
                "this machine's clock differs from Entra's; assertions are made by Entra's"
            );
            return Box::pin(self.ask(tenant, auth)).await;
        }
        result
    }

    async fn ask(&self, tenant: &Tenant, auth: &ClientAuth) -> Result<Token, SyncError> {
        let endpoints = &tenant.endpoints;
        let (path, what) = match endpoints.token_version {
            TokenVersion::V1 => {
                ("oauth2/token", ("resource", endpoints.scope.trim_end_matches("/.default")))
            }
            TokenVersion::V2 => ("oauth2/v2.0/token", ("scope", endpoints.scope.as_str())),
        };
        let url =
            format!("{}/{}/{path}", endpoints.authority.as_str().trim_end_matches('/'), tenant.id);
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", tenant.app.client_id.as_str()),
            what,
        ];
        let proven = self.client_auth_param(tenant, auth, &url).await?;
        form.push((
            if matches!(auth, ClientAuth::Secret(_)) {
                "client_secret"
            } else {
                "client_assertion"
            },
            proven.expose_secret(),
        ));
        if !matches!(auth, ClientAuth::Secret(_)) {
            form.push((
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
        }
        let response = self
            .client
            .post(url)
            .form(&form)
            .send()
            .await
            .map_err(|error| http_client::transport(Peer::Entra, error))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(SyncError::Redirected { peer: Peer::Entra, status: status.as_u16() });
        }
        let server_time = http_client::server_time(response.headers());
        let retry_after = http_client::retry_after(response.headers());
        if !status.is_success() {
            let body = http_client::read_refusal(response, Peer::Entra).await?;
            let error = refusal(status.as_u16(), &body, retry_after);
            if let (true, Some(server)) = (is_clock_skew(&error), server_time) {
                self.skew.store(server.timestamp() - unix_now(), Ordering::Relaxed);
            }
            return Err(error);
        }
        let body = http_client::read_text(response, Peer::Entra, REPLY_BYTES_MAX).await?;
        let (value, lifetime) = read_reply(&body)?;
        let check = claims::check(value.expose_secret(), tenant.id)?;
        if check == TokenCheck::Unreadable {
            tracing::warn!(tenant.id = %tenant.id, tenant.name = tenant.name, "the token cannot be read, so its tenant is not proven by us; it is used all the same");
        }
        let ends = Instant::now() + lifetime;
        Ok(Token { value, renew_at: ends - RENEW_EARLY.min(lifetime / 10), ends, check })
    }

    /// The secret or assertion for this very request.
    async fn client_auth_param(
        &self,
        tenant: &Tenant,
        auth: &ClientAuth,
        url: &str,
    ) -> Result<SecretString, SyncError> {
        match auth {
            ClientAuth::Secret(value) | ClientAuth::Assertion(value) => Ok(value.clone()),
            ClientAuth::ManagedIdentity(identity) => {
                identity.assertion(&tenant.endpoints.authority).await
            }
            ClientAuth::Certificate(certificate) => {
                let now = unix_now() + self.skew.load(Ordering::Relaxed);
                let assertion = certificate.assertion(&tenant.app.client_id, url, now);
                assertion.map(SecretString::from).map_err(|what| SyncError::Assertion { what })
            }
        }
    }
}

/// "Client assertion is not within its valid time range", and its relatives.
fn is_clock_skew(error: &SyncError) -> bool {
    const CLOCK_SKEW_CODES: [u32; 3] = [700_024, 50_012, 500_133];
    matches!(error, SyncError::Entra { codes, .. } if codes.iter().any(|code| CLOCK_SKEW_CODES.contains(code)))
}

/// A tenant whose token request hangs delays the first request of others by no more.
const TURN_PATIENCE: Duration = Duration::from_secs(1);
/// A smaller difference of the clocks was no reason for a refusal.
const SKEW_WORTH_A_TRY: u64 = 60;

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().cast_signed()
}

fn whose(credential_id: &CredentialId) -> &'static str {
    if credential_id.owner.is_some() { "the tenant's own" } else { "the application's" }
}

fn application(tenant: &Tenant) -> Application {
    (tenant.endpoints.authority.clone(), tenant.app.client_id.clone())
}

/// v1 sends numbers as strings, v2 as numbers.
fn read_reply(body: &str) -> Result<(SecretString, Duration), SyncError> {
    #[derive(Deserialize)]
    struct Reply {
        access_token: Option<SecretString>,
        expires_in: Option<Value>,
    }
    let reply: Reply = serde_json::from_str(body)
        .map_err(|_| SyncError::TokenReply { what: "it is not the JSON of a token reply" })?;
    let token = reply.access_token.filter(|token| !token.expose_secret().is_empty());
    let token = token.ok_or(SyncError::TokenReply { what: "access_token is missing" })?;
    // A line break would end the header that carries the token.
    if !token.expose_secret().bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(SyncError::TokenReply {
            what: "access_token holds characters that no token has",
        });
    }
    let seconds = match reply.expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, then it is clamped"
    )]
    let seconds = seconds.map_or(LIFETIME_UNTOLD, |seconds: f64| {
        (seconds as u64).clamp(*LIFETIME.start(), *LIFETIME.end())
    });
    Ok((token, Duration::from_secs(seconds)))
}

/// Source: `MicrosoftDocs/entra-docs`, `reference-error-codes.md`. The description is free text and stays out.
fn refusal(status: u16, body: &str, retry_after: Option<Duration>) -> SyncError {
    let is_json = serde_json::from_str::<IgnoredAny>(body).is_ok();
    if !is_json && status < 500 && status != 429 {
        return SyncError::TokenReply { what: "an error that is not JSON" };
    }
    // Field by field: one that is odd must not hide the others.
    let word = |key: &str| http_client::word(body, key);
    let codes = http_client::field(body, "error_codes").map_or("[]", RawValue::get);
    let codes: Vec<&RawValue> = serde_json::from_str(codes).unwrap_or_default();
    let codes = codes.into_iter().filter_map(|code| code.get().parse().ok()).collect();
    SyncError::Entra {
        status,
        error: word("error"),
        codes,
        trace_id: word("trace_id"),
        retry_after,
    }
}
