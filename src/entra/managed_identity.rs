//! A user-assigned managed identity, whose token is the app's client assertion. Source: `MicrosoftDocs/entra-docs`,
//! `workload-identity-federation-config-app-trust-managed-identity.md`.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::sync::Mutex;
use url::Url;

use super::token_reply::{REPLY_BYTES_MAX, read_reply};
use crate::error::{Peer, SyncError};
use crate::http_client;

/// The address of the endpoint on every Azure machine; it is reachable from that machine only.
pub const ENDPOINT: &str = "http://169.254.169.254";
/// An assertion is renewed this long before it ends.
const RENEW_EARLY: Duration = Duration::from_secs(300);

/// The identity and its current assertion, which lasts for many token requests.
#[derive(Debug)]
pub struct ManagedIdentity {
    client_id: String,
    endpoint: Url,
    cached: Mutex<CachedAssertion>,
}

#[derive(Debug, Default)]
struct CachedAssertion {
    /// For an audience, until a time.
    assertion: Option<(&'static str, SecretString, Instant)>,
    failure: Option<(Instant, SyncError)>,
}

impl ManagedIdentity {
    /// Sends no request yet.
    pub fn new(client_id: String, endpoint: Url) -> Self {
        Self { client_id, endpoint, cached: Mutex::default() }
    }

    /// The assertion for the cloud of this login host.
    pub async fn assertion(&self, authority: &Url) -> Result<SecretString, SyncError> {
        let audience = audience(authority);
        let asked = Instant::now();
        let mut cached = self.cached.lock().await;
        if let Some((of, token, until)) = &cached.assertion
            && *of == audience
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        // Callers that waited for the lock share the failure: each attempt may take until its deadline.
        if let Some((_, error)) = cached.failure.as_ref().filter(|(failed, _)| *failed >= asked) {
            return Err(error.clone());
        }
        match self.request(audience).await {
            Ok((token, lifetime)) => {
                let until = Instant::now() + lifetime.saturating_sub(RENEW_EARLY);
                *cached = CachedAssertion {
                    assertion: Some((audience, token.clone(), until)),
                    failure: None,
                };
                Ok(token)
            }
            Err(error) => {
                cached.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Drops an assertion that Entra refused.
    pub async fn forget(&self) {
        self.cached.lock().await.assertion = None;
    }

    async fn request(&self, audience: &str) -> Result<(SecretString, Duration), SyncError> {
        let mut url = self.endpoint.clone();
        url.set_path("metadata/identity/oauth2/token");
        url.query_pairs_mut()
            .append_pair("api-version", "2023-11-15")
            .append_pair("resource", audience)
            .append_pair("client_id", &self.client_id);
        // Not through a proxy, which would request the identity of its own machine.
        let sent = http_client::client().get(url).header("Metadata", "true").send().await;
        let response =
            sent.map_err(|error| http_client::transport(Peer::ManagedIdentity, error))?;
        let status = response.status().as_u16();
        if status != 200 {
            let body = http_client::read_refusal(response, Peer::ManagedIdentity).await?;
            return Err(SyncError::ManagedIdentity {
                status,
                what: http_client::word(&body, "error"),
            });
        }
        read_reply(&http_client::read_text(response, Peer::ManagedIdentity, REPLY_BYTES_MAX).await?)
    }
}

/// Each cloud accepts assertions for its own audience only.
fn audience(authority: &Url) -> &'static str {
    match authority.host_str() {
        Some("login.microsoftonline.us") => "api://AzureADTokenExchangeUSGov",
        _ => "api://AzureADTokenExchange",
    }
}
