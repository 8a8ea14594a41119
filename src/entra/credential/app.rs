//! The Entra application and the names of its credentials.

use std::sync::Arc;

use metrics::Label;

use super::Credential;

/// The multi-tenant Entra application.
#[derive(Debug)]
pub struct App {
    /// Application (client) id.
    pub client_id: String,
    pub credential: Arc<Credential>,
    /// Used when Entra refuses the first one.
    pub next: Option<Arc<Credential>>,
}

impl App {
    /// The credentials in their order, with their names in logs and metrics.
    pub fn credentials(&self) -> impl Iterator<Item = (CredentialId, &Arc<Credential>)> {
        let next = self.next.as_ref().map(|next| ("next", next));
        let named = std::iter::once(("first", &self.credential)).chain(next);
        named.map(|(name, credential)| (self.credential_id(name, credential), credential))
    }

    fn credential_id(&self, name: &'static str, credential: &Credential) -> CredentialId {
        CredentialId {
            client_id: self.client_id.clone(),
            name,
            owner: credential.settings.owner.clone(),
        }
    }
}

/// Identifies a credential across reloads, independent of the content of its files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId {
    pub client_id: String,
    /// `first` or `next`.
    pub name: &'static str,
    /// The tenant, if the credential is its own; `None` for that of `[app]`.
    pub owner: Option<String>,
}

impl CredentialId {
    /// Sets a gauge of this credential.
    pub fn set(&self, gauge: &'static str, value: f64) {
        let mut labels = vec![
            Label::new("client_id", self.client_id.clone()),
            Label::new("credential", self.name),
        ];
        labels.extend(self.owner.clone().map(|owner| Label::new("tenant", owner)));
        metrics::gauge!(gauge, labels).set(value);
    }
}

impl std::fmt::Display for CredentialId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client_id, name, owner } = self;
        match owner {
            None => write!(f, "{name} credential of app {client_id}"),
            Some(owner) => write!(f, "{name} credential of tenant {owner}, app {client_id}"),
        }
    }
}
