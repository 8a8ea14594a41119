//! One token request: form, client authentication, response.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};

use super::Tenant;
use super::claims::{self, TokenCheck};
use super::credential::{ClientAuth, CredentialId};
use super::token_reply::{REPLY_BYTES_MAX, read_error, read_reply};
use crate::error::{Peer, SyncError};
use crate::http_client;
use crate::tenant::TokenVersion;

/// How long before its expiry a token is renewed; a tenth of its lifetime if that is shorter.
const RENEW_EARLY: Duration = Duration::from_secs(300);
/// In seconds. A smaller difference of the clocks does not cause a rejection.
const RETRIED_SKEW_MIN: u64 = 60;

/// An access token for one tenant.
#[derive(Debug)]
pub struct Token {
    pub(super) value: SecretString,
    pub(super) renew_at: Instant,
    pub(super) ends: Instant,
    pub(super) check: TokenCheck,
    /// The credential that Entra refused before another one obtained this token.
    pub(super) refused: Option<(CredentialId, SyncError)>,
}

impl Token {
    pub(crate) fn bearer(&self) -> &str {
        self.value.expose_secret()
    }

    /// The result of checking its claims.
    pub fn check(&self) -> TokenCheck {
        self.check
    }

    /// The credential that Entra refused before another one obtained this token, and why.
    pub fn refused_credential(&self) -> Option<&(CredentialId, SyncError)> {
        self.refused.as_ref()
    }

    /// The audience, if the token is readable.
    pub fn audience(&self) -> Option<String> {
        claims::audience(self.bearer())
    }
}

#[derive(Debug)]
pub(super) struct TokenRequests {
    client: Client,
    /// Seconds that Entra's clock is ahead of this machine's; measured when an assertion is rejected for its time.
    skew: AtomicI64,
}

impl TokenRequests {
    pub(super) fn new(client: Client) -> Self {
        Self { client, skew: AtomicI64::new(0) }
    }

    /// Requests a token. An assertion that is rejected for its time is signed again once, with Entra's time.
    pub(super) async fn request(
        &self,
        tenant: &Tenant,
        auth: &ClientAuth,
    ) -> Result<Token, SyncError> {
        let skew = self.skew.load(Ordering::Relaxed);
        let result = Box::pin(self.send(tenant, auth)).await;
        let is_clock_skew = result.as_ref().is_err_and(is_clock_skew);
        let measured = self.skew.load(Ordering::Relaxed);
        if is_clock_skew
            && matches!(auth, ClientAuth::Certificate(_))
            && measured.abs_diff(skew) > RETRIED_SKEW_MIN
        {
            tracing::warn!(
                owner = "operator",
                seconds = measured,
                "This machine's clock differs from Entra's; assertions now use Entra's time"
            );
            return Box::pin(self.send(tenant, auth)).await;
        }
        result
    }

    async fn send(&self, tenant: &Tenant, auth: &ClientAuth) -> Result<Token, SyncError> {
        let endpoints = &tenant.endpoints;
        let (path, resource) = match endpoints.token_version {
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
            resource,
        ];
        let auth_param = self.client_auth_param(tenant, auth, &url).await?;
        if matches!(auth, ClientAuth::Secret(_)) {
            form.push(("client_secret", auth_param.expose_secret()));
        } else {
            form.push(("client_assertion", auth_param.expose_secret()));
            form.push((
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
        }
        let response = self.client.post(url).form(&form).send().await;
        let response = response.map_err(|error| http_client::transport(Peer::Entra, error))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(SyncError::Redirected { peer: Peer::Entra, status: status.as_u16() });
        }
        let server_time = http_client::server_time(response.headers());
        let retry_after = http_client::retry_after(response.headers());
        let local_address = http_client::local_address(&response);
        if !status.is_success() {
            let body = http_client::read_refusal(response, Peer::Entra).await?;
            let mut error = read_error(status.as_u16(), &body, retry_after);
            if let SyncError::Entra { details, .. } = &mut error {
                details.scope.clone_from(&endpoints.scope);
                details.is_foreign_scope = endpoints.is_scope_foreign();
                details.other_scope.clone_from(&endpoints.other_scope);
                details.local_address = local_address;
            }
            if let (true, Some(server)) = (is_clock_skew(&error), server_time) {
                self.skew.store(server.timestamp() - unix_now(), Ordering::Relaxed);
            }
            return Err(error);
        }
        let body = http_client::read_text(response, Peer::Entra, REPLY_BYTES_MAX).await?;
        let (value, lifetime) = read_reply(&body)?;
        let check = claims::check(value.expose_secret(), tenant.id, endpoints.source)?;
        if check == TokenCheck::Unreadable {
            tracing::warn!(
                tenant.id = %tenant.id, tenant.name = tenant.name,
                "The token is not readable, so its tenant is not verified; using it anyway"
            );
        }
        let ends = Instant::now() + lifetime;
        Ok(Token {
            value,
            renew_at: ends - RENEW_EARLY.min(lifetime / 10),
            ends,
            check,
            refused: None,
        })
    }

    /// The secret, or the assertion for this request.
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

/// "Client assertion is not within its valid time range" and related codes.
fn is_clock_skew(error: &SyncError) -> bool {
    const CLOCK_SKEW_CODES: [u32; 3] = [700_024, 50_012, 500_133];
    matches!(error, SyncError::Entra { codes, .. } if codes.iter().any(|code| CLOCK_SKEW_CODES.contains(code)))
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().cast_signed()
}
