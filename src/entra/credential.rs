//! How the partner's application proves who it is: the fields that go into the token request.

use secrecy::{ExposeSecret, SecretString};

/// The partner's multi-tenant Entra application.
#[derive(Debug)]
pub struct App {
    /// Application (client) id.
    pub client_id: String,
    /// What proves that we are this application.
    pub credential: Credential,
}

/// A proof that Entra accepts from an application.
#[derive(Debug)]
pub enum Credential {
    /// A client secret.
    Secret(SecretString),
}

impl Credential {
    /// The form fields that this proof adds to a token request.
    pub(crate) fn form_fields(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Secret(secret) => vec![("client_secret", secret.expose_secret())],
        }
    }
}
