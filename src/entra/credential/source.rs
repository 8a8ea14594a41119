//! The source of a credential, and the authentication that it gives a token request.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use super::certificate_files::CertificateFiles;
use crate::entra::certificate::Certificate;
use crate::entra::managed_identity::ManagedIdentity;
use crate::entra::secret_file::SecretFile;

#[derive(Debug)]
pub enum CredentialSource {
    /// A client secret from the environment or the configuration.
    Secret(SecretString),
    /// A client secret in a file.
    SecretFile(SecretFile),
    /// A certificate and its private key.
    Certificate(CertificateFiles),
    /// An assertion that another system signs and renews, such as Kubernetes.
    FederatedFile(SecretFile),
    /// An assertion from the managed identity endpoint of this machine.
    ManagedIdentity {
        /// The user-assigned identity.
        client_id: String,
        endpoint: Url,
    },
}
/// How a token request authenticates the application.
#[derive(Debug)]
pub enum ClientAuth {
    Secret(SecretString),
    /// A key that signs an assertion for each request.
    Certificate(Box<Certificate>),
    /// A ready assertion.
    Assertion(SecretString),
    /// An assertion that has to be requested.
    ManagedIdentity(Box<ManagedIdentity>),
}

/// A hash of the source's content: equal fingerprints are the same credential.
pub type Fingerprint = [u8; 32];

impl CredentialSource {
    pub(super) fn is_in_files(&self) -> bool {
        match self {
            Self::SecretFile(_) | Self::Certificate(_) | Self::FederatedFile(_) => true,
            Self::Secret(_) | Self::ManagedIdentity { .. } => false,
        }
    }

    /// The content of each file, and a fingerprint of all of them.
    pub(super) fn read(&self) -> Result<(Fingerprint, Vec<Vec<u8>>), String> {
        let parts = match self {
            Self::Secret(secret) => vec![secret.expose_secret().as_bytes().to_vec()],
            Self::SecretFile(file) => vec![file.line()?.expose_secret().as_bytes().to_vec()],
            // Not restricted to its owner: Kubernetes makes it readable for a group, and it expires soon.
            Self::FederatedFile(file) => vec![file.open_bytes()?],
            Self::Certificate(files) => files.read()?.into(),
            Self::ManagedIdentity { client_id, .. } => vec![client_id.as_bytes().to_vec()],
        };
        let mut hash = Sha256::new();
        for part in &parts {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        Ok((hash.finalize().into(), parts))
    }

    pub(super) fn client_auth(&self, parts: Vec<Vec<u8>>) -> Result<ClientAuth, String> {
        let text = |part: Option<Vec<u8>>| {
            String::from_utf8(part.unwrap_or_default()).map(|text| text.trim().to_owned())
        };
        Ok(match self {
            Self::Secret(secret) => ClientAuth::Secret(secret.clone()),
            Self::SecretFile(file) => {
                let secret = text(parts.into_iter().next())
                    .map_err(|_| format!("{} is not text", file.label()))?;
                ClientAuth::Secret(SecretString::from(secret))
            }
            Self::FederatedFile(file) => {
                let token = text(parts.into_iter().next()).unwrap_or_default();
                if token.split('.').count() != 3 || token.contains(char::is_whitespace) {
                    return Err(format!(
                        "{} does not contain a token (JWT, three parts)",
                        file.label()
                    ));
                }
                ClientAuth::Assertion(SecretString::from(token))
            }
            Self::Certificate(files) => {
                ClientAuth::Certificate(Box::new(files.certificate(&parts)?))
            }
            Self::ManagedIdentity { client_id, endpoint } => ClientAuth::ManagedIdentity(Box::new(
                ManagedIdentity::new(client_id.clone(), endpoint.clone()),
            )),
        })
    }
}
