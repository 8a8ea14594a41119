//! The credentials of the Entra application. Files are read again for each token request, so that a replaced file needs no
//! restart. A file that hangs, as on an unreachable file server, delays no tenant.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::Label;
use nix::unistd::geteuid;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use url::Url;

use super::certificate::{Algorithm, Certificate, is_pkcs12};
use super::managed_identity::ManagedIdentity;
use crate::entra::secret_file::SecretFile;
use crate::failpoint;

/// The multi-tenant Entra application.
#[derive(Debug)]
pub struct App {
    /// Application (client) id.
    pub client_id: String,
    /// The first credential.
    pub credential: Arc<Credential>,
    /// Used when Entra refuses the first.
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
    /// The application.
    pub client_id: String,
    /// First or next.
    pub name: &'static str,
    /// The tenant that has a credential of its own; `None` for that of `[app]`.
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

/// Settings of a credential, apart from its source.
#[derive(Debug, Default)]
pub struct CredentialSettings {
    /// The tenant that has a credential of its own.
    pub owner: Option<String>,
    /// Its configuration key.
    pub key: String,
    /// The end of the client secret that is read first; Entra does not state it.
    pub expires: Option<DateTime<Utc>>,
}

/// Where a credential comes from.
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
        /// The address of the endpoint.
        endpoint: Url,
    },
}

/// The files of a certificate.
#[derive(Debug)]
pub struct CertificateFiles {
    /// PEM.
    pub certificate: SecretFile,
    /// The key, if it is in another file.
    pub key: Option<SecretFile>,
    /// How assertions are signed.
    pub algorithm: Algorithm,
}

/// How a token request authenticates the application.
#[derive(Debug)]
pub enum ClientAuth {
    /// A client secret.
    Secret(SecretString),
    /// A key that signs an assertion for each request.
    Certificate(Box<Certificate>),
    /// An assertion as it is.
    Assertion(SecretString),
    /// An assertion that has to be requested.
    ManagedIdentity(Box<ManagedIdentity>),
}

/// A hash of the source's content: equal fingerprints are the same credential.
pub type Fingerprint = [u8; 32];

/// A credential with its source and what was read last.
#[derive(Debug)]
pub struct Credential {
    source: CredentialSource,
    settings: CredentialSettings,
    loaded: Mutex<LoadedCredential>,
    /// Held by the thread that reads the files, also after the caller gave up waiting.
    reader: Arc<Semaphore>,
}

/// Files on a disk are read in less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
/// Threads that may hang in files at the same time, for all credentials. The runtime has 512, and needs some for DNS.
static READERS: Semaphore = Semaphore::const_new(64);

#[derive(Debug)]
struct LoadedCredential {
    auth: Arc<ClientAuth>,
    fingerprint: Fingerprint,
    /// Of the secret whose end the configuration states.
    dated: Fingerprint,
    /// Why the files could not be used when they were last read.
    problem: Option<String>,
    /// The last reading did not end in time.
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

    /// A client secret that is in no file.
    ///
    /// # Panics
    /// Never: nothing is read.
    pub fn secret(secret: SecretString) -> Self {
        Self::new(CredentialSource::Secret(secret), CredentialSettings::default())
            .expect("a secret in memory needs no reading")
    }

    /// The credential of the current files. If they cannot be used or hang, as while a key and its certificate are replaced one
    /// after the other, the previous one stays in use.
    pub async fn client_auth(
        self: &Arc<Self>,
        credential_id: &CredentialId,
    ) -> (Arc<ClientAuth>, Fingerprint) {
        if self.source.is_in_files() {
            self.look(credential_id).await;
        }
        let loaded = self.lock();
        (Arc::clone(&loaded.auth), loaded.fingerprint)
    }

    /// The credential as it was last read.
    #[cfg(test)]
    pub(crate) fn loaded(&self) -> Arc<ClientAuth> {
        Arc::clone(&self.lock().auth)
    }

    /// Why its files could not be used when they were last read.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn lock(&self) -> MutexGuard<'_, LoadedCredential> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files in a thread of their own. While it hangs, no second thread is started and no caller waits.
    async fn look(self: &Arc<Self>, credential_id: &CredentialId) {
        if self.lock().hangs && self.reader.available_permits() == 0 {
            return;
        }
        let looked = tokio::time::timeout(PATIENCE, async {
            let mine = Arc::clone(&self.reader).acquire_owned().await;
            let thread = READERS.acquire().await;
            let (credential, credential_id) = (Arc::clone(self), credential_id.clone());
            let read = tokio::task::spawn_blocking(move || {
                Handle::current().block_on(failpoint::reach("credential.read"));
                credential.note(&credential_id, credential.read());
                drop((mine, thread));
            });
            // A panic is in the log, and the previous credential stays in use.
            drop(read.await);
        });
        if looked.await.is_err() {
            self.lock().hangs = true;
            self.note(
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

    /// Stores what was read, and logs each change once.
    fn note(
        &self,
        credential_id: &CredentialId,
        read: Result<Option<(ClientAuth, Fingerprint)>, String>,
    ) {
        let mut loaded = self.lock();
        let CredentialId { client_id: app, name: credential, owner } = credential_id;
        match read {
            Ok(None) => (loaded.problem, loaded.hangs) = (None, false),
            Ok(Some((auth, fingerprint))) => {
                *loaded = LoadedCredential {
                    auth: Arc::new(auth),
                    fingerprint,
                    problem: None,
                    hangs: false,
                    ..*loaded
                };
                tracing::info!(
                    app,
                    credential,
                    tenant.name = owner,
                    kind = self.kind(),
                    "credential files changed; using the new credential"
                );
            }
            Err(problem) => {
                let problem = format!("{}: {problem}", self.settings.key);
                if loaded.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        owner = "operator",
                        app,
                        credential,
                        tenant.name = owner,
                        kind = self.kind(),
                        error = problem,
                        "credential files cannot be used; keeping the previous credential"
                    );
                    loaded.problem = Some(problem);
                }
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

    /// Whether the configured end is that of a secret that was replaced since.
    pub fn is_expiry_outdated(&self) -> bool {
        let loaded = self.lock();
        self.settings.expires.is_some() && loaded.fingerprint != loaded.dated
    }

    /// Replaces another one after a reload. An unchanged configured end still is that of the secret that it was configured for.
    pub fn follow(&self, before: &Self) {
        if self.settings.expires == before.settings.expires {
            let dated = before.lock().dated;
            self.lock().dated = dated;
        }
    }

    /// When the current credential ends, if that is known.
    pub fn expires(&self) -> Option<DateTime<Utc>> {
        let is_another = self.is_expiry_outdated();
        match &*self.lock().auth {
            ClientAuth::Certificate(certificate) => Some(certificate.expires),
            ClientAuth::Secret(_) => self.settings.expires.filter(|_| !is_another),
            ClientAuth::Assertion(_) | ClientAuth::ManagedIdentity(_) => None,
        }
    }
}

impl CredentialSource {
    fn is_in_files(&self) -> bool {
        match self {
            Self::SecretFile(_) | Self::Certificate(_) | Self::FederatedFile(_) => true,
            Self::Secret(_) | Self::ManagedIdentity { .. } => false,
        }
    }

    /// The contents of the files, and the fingerprint of all of them.
    fn read(&self) -> Result<(Fingerprint, Vec<Vec<u8>>), String> {
        let parts = match self {
            Self::Secret(secret) => vec![secret.expose_secret().as_bytes().to_vec()],
            Self::SecretFile(file) => vec![file.line()?.expose_secret().as_bytes().to_vec()],
            // Kubernetes makes it readable for a group, and it ends soon.
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

    fn client_auth(&self, parts: Vec<Vec<u8>>) -> Result<ClientAuth, String> {
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

impl CertificateFiles {
    /// Certificate and key; the key may be empty.
    fn read(&self) -> Result<[Vec<u8>; 2], String> {
        // A certificate is not secret; a key is.
        let holds_key = |bytes: &[u8]| bytes.windows(11).any(|window| window == b"PRIVATE KEY");
        let certificate = self.certificate.bytes_where(holds_key)?;
        refuse_pkcs12(&self.certificate, &certificate)?;
        let Some(file) = &self.key else { return Ok([certificate, Vec::new()]) };
        // A key store is refused before its mode is checked: it is not used with any mode.
        let key = file.bytes_where(|bytes| !looks_like_pkcs12(file, bytes))?;
        refuse_pkcs12(file, &key)
            .map_err(|problem| format!("client_private_key_file: {problem}"))?;
        Ok([certificate, key])
    }

    fn certificate(&self, parts: &[Vec<u8>]) -> Result<Certificate, String> {
        let [certificate, key] = parts else { return Err("no certificate was read".to_owned()) };
        let key = self.key.as_ref().map_or(certificate, |_| key);
        let read = Certificate::from_pem(certificate, key, self.algorithm);
        read.map_err(|problem| format!("{}: {problem}", self.certificate.label()))
    }
}

/// By its content, or by its name if the content is not PEM.
fn looks_like_pkcs12(file: &SecretFile, bytes: &[u8]) -> bool {
    let is_named_so = || {
        let extension = file.path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| {
            ["p12", "pfx"].iter().any(|name| extension.eq_ignore_ascii_case(name))
        })
    };
    let is_pem = || bytes.windows(10).any(|window| window == b"-----BEGIN");
    is_pkcs12(bytes) || is_named_so() && !is_pem()
}

/// The crates that read PKCS#12 are pre-releases with ciphers of the 1990s; openssl converts a store once.
fn refuse_pkcs12(file: &SecretFile, bytes: &[u8]) -> Result<(), String> {
    if !looks_like_pkcs12(file, bytes) {
        return Ok(());
    }
    // The file is systemd's copy; the source that LoadCredential= names has to be converted.
    let (from, owner, place) = match file.is_guarded {
        true => ("STORE.pfx".to_owned(), 0, " in LoadCredential="),
        false => (file.path.display().to_string(), geteuid().as_raw(), ""),
    };
    // A new name: openssl overwrites an existing file.
    let (from, to) = (quoted(&from), quoted(&format!("{from}.pem")));
    Err(format!(
        "{} is a PKCS#12 key store, but only PEM is supported. Convert it to a file with certificate and key: \
         `install -m 600 -o {owner} /dev/null {to} && openssl pkcs12 -in {from} -nodes -out {to}` (if openssl reports an \
         unsupported algorithm, as for stores of Windows: `openssl pkcs12 -legacy ...`), and specify {to}{place} instead",
        file.label()
    ))
}

/// Quoted as one word for a shell.
fn quoted(text: &str) -> String {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-+".contains(character);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn pkcs12_refusal_prints_commands_that_convert_it() {
        let folder = tempfile::Builder::new().prefix("it's ").tempdir().unwrap();
        for (store, option) in [("modern", "pkcs12"), ("legacy", "pkcs12 -legacy")] {
            let path = folder.path().join(format!("{store}.pem"));
            fs::copy(
                format!("{}/tests/data/credentials/{store}.p12", env!("CARGO_MANIFEST_DIR")),
                &path,
            )
            .unwrap();
            let read = |path: PathBuf| {
                let certificate = SecretFile { path, bare: None, is_guarded: false };
                let files =
                    CertificateFiles { certificate, key: None, algorithm: Algorithm::Ps256 };
                Credential::new(CredentialSource::Certificate(files), CredentialSettings::default())
            };
            let problem = read(path.clone()).unwrap_err();
            assert!(problem.starts_with(&path.display().to_string()), "{problem}");
            let command = problem.split('`').nth(1).unwrap().replace("pkcs12", option);
            let command = format!("{command} -passin pass:canary5f2d77c0-p12");
            let ran = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert!(ran.status.success(), "{command}: {ran:?}");
            let converted = read(folder.path().join(format!("{store}.pem.pem"))).unwrap();
            assert_eq!(converted.expires().unwrap().format("%Y").to_string(), "2126");
        }
    }

    #[test]
    fn pkcs12_is_refused_as_certificate_and_as_key() {
        let data =
            |name: &str| format!("{}/tests/data/credentials/{name}", env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let garbled = folder.path().join("garbled.PFX");
        fs::write(&garbled, "MIIJaQIBAzCC").unwrap();
        let named_pkcs12 = folder.path().join("client.p12");
        fs::write(
            &named_pkcs12,
            [data("first.crt.pem"), data("first.key.pem")]
                .map(|name| fs::read(name).unwrap())
                .concat(),
        )
        .unwrap();
        let file =
            |path: &Path, is_guarded| SecretFile { path: path.to_owned(), bare: None, is_guarded };
        let problem = |certificate: SecretFile, key: Option<SecretFile>| {
            let files = CertificateFiles { certificate, key, algorithm: Algorithm::Ps256 };
            CredentialSource::Certificate(files).read().err()
        };
        let refusal = problem(file(&garbled, false), None).unwrap();
        assert!(refusal.contains("garbled.PFX is a PKCS#12 key store"), "{refusal}");
        let key = Some(file(Path::new(&data("legacy.p12")), false));
        let refusal = problem(file(Path::new(&data("first.crt.pem")), false), key).unwrap();
        assert!(
            refusal.starts_with("client_private_key_file: ") && refusal.contains("-nodes"),
            "{refusal}"
        );
        let refusal = problem(file(Path::new(&data("modern.p12")), true), None).unwrap();
        assert!(
            refusal.contains("-in STORE.pfx")
                && refusal.contains("specify STORE.pfx.pem in LoadCredential="),
            "{refusal}"
        );
        assert_eq!(problem(file(&named_pkcs12, true), None), None, "PEM is read under any name");
    }

    #[tokio::test]
    async fn replaced_secret_has_no_known_expiry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let write = |secret: &str| fs::write(&path, secret).unwrap();
        let read = |day: i64| {
            let file = SecretFile { path: path.clone(), bare: None, is_guarded: true };
            let expires = DateTime::from_timestamp(day * 86_400, 0);
            Arc::new(
                Credential::new(
                    CredentialSource::SecretFile(file),
                    CredentialSettings { expires, ..CredentialSettings::default() },
                )
                .unwrap(),
            )
        };
        let credential_id = CredentialId { client_id: String::new(), name: "first", owner: None };
        write("one");
        let first = read(1);
        assert!(first.expires().is_some() && !first.is_expiry_outdated());
        write("two");
        first.client_auth(&credential_id).await;
        assert!(first.expires().is_none() && first.is_expiry_outdated());
        let reloaded = read(1);
        reloaded.follow(&first);
        reloaded.follow(&reloaded);
        assert_eq!(reloaded.expires(), None, "the day is still that of the first secret");
        let redated = read(2);
        redated.follow(&reloaded);
        assert!(redated.expires().is_some() && !redated.is_expiry_outdated());
    }
}
