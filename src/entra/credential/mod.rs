//! The credentials of the Entra application. Files are read again for each token request, so that a replaced file needs no
//! restart. A file that hangs, as on an unreachable file server, delays no tenant.

mod app;
mod certificate_files;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard};
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use app::{App, CredentialId};
pub use certificate_files::CertificateFiles;
pub use source::{ClientAuth, CredentialSource, Fingerprint};

use crate::failpoint;

/// Settings of a credential, apart from its source.
#[derive(Debug, Default)]
pub struct CredentialSettings {
    /// The tenant, if the credential is its own.
    pub owner: Option<String>,
    /// The configuration key, for messages.
    pub key: String,
    /// The configured expiry of the client secret; Entra does not report it.
    pub expires: Option<DateTime<Utc>>,
}

/// A credential with its source and its last valid content.
#[derive(Debug)]
pub struct Credential {
    source: CredentialSource,
    settings: CredentialSettings,
    loaded: Mutex<LoadedCredential>,
    /// Held by the thread that reads the files, also after its caller timed out.
    reader: Arc<Semaphore>,
}

/// Files on a disk are read in less than a millisecond.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Threads that may hang while reading files, for all credentials. The runtime has 512 and needs some for DNS.
static READERS: Semaphore = Semaphore::const_new(64);

#[derive(Debug)]
struct LoadedCredential {
    auth: Arc<ClientAuth>,
    fingerprint: Fingerprint,
    /// Of the secret that the configured expiry belongs to.
    dated: Fingerprint,
    /// Why the files could not be used at the last attempt.
    problem: Option<String>,
    /// The last attempt timed out.
    hangs: bool,
}

impl Credential {
    /// Reads the source. The error names the file and the fix.
    pub fn new(source: CredentialSource, settings: CredentialSettings) -> Result<Self, String> {
        let (fingerprint, parts) = source.read()?;
        let loaded = LoadedCredential {
            auth: Arc::new(source.client_auth(parts)?),
            fingerprint,
            dated: fingerprint,
            problem: None,
            hangs: false,
        };
        Ok(Self {
            source,
            settings,
            loaded: Mutex::new(loaded),
            reader: Arc::new(Semaphore::new(1)),
        })
    }

    /// A credential whose files are read when it is needed, so that a command that does not need it works without them.
    pub fn unread(source: CredentialSource, settings: CredentialSettings) -> Self {
        let loaded = LoadedCredential {
            auth: Arc::new(ClientAuth::Secret(SecretString::default())),
            fingerprint: Fingerprint::default(),
            dated: Fingerprint::default(),
            problem: None,
            hangs: false,
        };
        let reader = Arc::new(Semaphore::new(1));
        Self { source, settings, loaded: Mutex::new(loaded), reader }
    }

    /// A client secret that is in no file.
    ///
    /// # Panics
    /// Never: nothing is read.
    pub fn secret(secret: SecretString) -> Self {
        Self::new(CredentialSource::Secret(secret), CredentialSettings::default())
            .expect("a secret in memory cannot fail to load")
    }

    /// The credential of the current files. If they cannot be used or hang, as while a key and its certificate are replaced one
    /// after the other, the previous one stays in use.
    pub async fn client_auth(
        self: &Arc<Self>,
        credential_id: &CredentialId,
    ) -> (Arc<ClientAuth>, Fingerprint) {
        if self.source.is_in_files() {
            self.refresh(credential_id).await;
        }
        let loaded = self.lock();
        (Arc::clone(&loaded.auth), loaded.fingerprint)
    }

    /// The credential as it was last read.
    #[cfg(test)]
    pub(crate) fn loaded(&self) -> Arc<ClientAuth> {
        Arc::clone(&self.lock().auth)
    }

    /// Why the files could not be used at the last attempt.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn lock(&self) -> MutexGuard<'_, LoadedCredential> {
        self.loaded.lock()
    }

    /// Reads the files in a thread. While that thread hangs, no second one is started and no caller waits.
    async fn refresh(self: &Arc<Self>, credential_id: &CredentialId) {
        if self.lock().hangs && self.reader.available_permits() == 0 {
            return;
        }
        let refreshed = tokio::time::timeout(READ_TIMEOUT, async {
            let reader = Arc::clone(&self.reader).acquire_owned().await;
            let thread = READERS.acquire().await;
            let credential = Arc::clone(self);
            let credential_id = credential_id.clone();
            let read = tokio::task::spawn_blocking(move || {
                Handle::current().block_on(failpoint::reach("credential.read"));
                credential.store(&credential_id, credential.read());
                drop(reader);
                drop(thread);
            });
            // A panic is logged, and the previous credential stays in use.
            let _ = read.await;
        });
        if refreshed.await.is_err() {
            self.lock().hangs = true;
            self.store(
                credential_id,
                Err("reading the file timed out. Check the disk or the file server".to_owned()),
            );
        }
    }

    /// The credential of the files, if they have changed. Holds no lock while it reads.
    fn read(&self) -> Result<Option<(ClientAuth, Fingerprint)>, String> {
        let before = self.lock().fingerprint;
        let (fingerprint, parts) = self.source.read()?;
        if fingerprint == before {
            return Ok(None);
        }
        self.source.client_auth(parts).map(|auth| Some((auth, fingerprint)))
    }

    /// Stores the result of a read and logs each change once.
    fn store(
        &self,
        credential_id: &CredentialId,
        read: Result<Option<(ClientAuth, Fingerprint)>, String>,
    ) {
        let mut loaded = self.lock();
        let CredentialId { client_id: app, name: credential, owner } = credential_id;
        let is_first = loaded.fingerprint == Fingerprint::default();
        match read {
            Ok(None) => (loaded.problem, loaded.hangs) = (None, false),
            Ok(Some((auth, fingerprint))) => {
                *loaded = LoadedCredential {
                    auth: Arc::new(auth),
                    fingerprint,
                    dated: if is_first { fingerprint } else { loaded.dated },
                    problem: None,
                    hangs: false,
                };
                if is_first {
                    return;
                }
                tracing::info!(
                    app,
                    credential,
                    tenant.name = owner,
                    kind = self.kind(),
                    "Credential files changed; using the new credential"
                );
            }
            Err(problem) => {
                let problem = format!("{}: {problem}", self.settings.key);
                if !is_first && loaded.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        owner = "operator",
                        app,
                        credential,
                        tenant.name = owner,
                        kind = self.kind(),
                        error = problem,
                        "Credential files cannot be used; keeping the previous credential"
                    );
                }
                loaded.problem = Some(problem);
            }
        }
    }

    /// The kind of credential, for people.
    pub fn kind(&self) -> &'static str {
        match self.source {
            CredentialSource::Secret(_) | CredentialSource::SecretFile(_) => "client secret",
            CredentialSource::Certificate(_) => "certificate",
            CredentialSource::FederatedFile(_) => "federated token",
            CredentialSource::ManagedIdentity { .. } => "managed identity",
        }
    }

    /// Whether the secret was replaced after its expiry was configured.
    pub fn is_expiry_outdated(&self) -> bool {
        let loaded = self.lock();
        self.settings.expires.is_some() && loaded.fingerprint != loaded.dated
    }

    /// Takes over the state of the credential that this one replaces after a reload: an unchanged configured expiry still belongs
    /// to the secret that it was configured for.
    pub fn inherit(&self, before: &Self) {
        if self.settings.expires == before.settings.expires {
            let dated = before.lock().dated;
            self.lock().dated = dated;
        }
    }

    /// When the current credential expires, if known.
    pub fn expires(&self) -> Option<DateTime<Utc>> {
        let is_outdated = self.is_expiry_outdated();
        match &*self.lock().auth {
            ClientAuth::Certificate(certificate) => Some(certificate.expires),
            ClientAuth::Secret(_) => self.settings.expires.filter(|_| !is_outdated),
            ClientAuth::Assertion(_) | ClientAuth::ManagedIdentity(_) => None,
        }
    }
}
