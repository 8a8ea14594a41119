//! How the partner's application proves who it is. What comes from files is read again for each token request, so that
//! a replaced file needs no restart, and one that hangs, as on a file server that is away, holds nobody up.

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

/// The partner's multi-tenant Entra application.
#[derive(Debug)]
pub struct App {
    /// Application (client) id.
    pub client_id: String,
    /// What proves that we are this application.
    pub credential: Arc<Credential>,
    /// What is tried at once when Entra refuses the first.
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

/// Which credential it is: the same one over reloads, whatever its files hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId {
    /// The application.
    pub client_id: String,
    /// First or next.
    pub name: &'static str,
    /// The tenant that has it for itself; none where it is that of `[app]`.
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

/// What the configuration says of a credential besides the proof.
#[derive(Debug, Default)]
pub struct CredentialSettings {
    /// The tenant that has it for itself.
    pub owner: Option<String>,
    /// Where the configuration names it.
    pub key: String,
    /// When the client secret that is read first ends: Entra does not tell.
    pub expires: Option<DateTime<Utc>>,
}

/// Where a proof comes from.
#[derive(Debug)]
pub enum CredentialSource {
    /// A client secret from the environment or the configuration.
    Secret(SecretString),
    /// A client secret in a file.
    SecretFile(SecretFile),
    /// A certificate and its private key.
    Certificate(CertificateFiles),
    /// An assertion that somebody else signs and renews, such as Kubernetes.
    FederatedFile(SecretFile),
    /// An assertion that this machine's managed identity service signs.
    ManagedIdentity {
        /// The user-assigned identity.
        client_id: String,
        /// The service's address.
        endpoint: Url,
    },
}

/// The files of a certificate.
#[derive(Debug)]
pub struct CertificateFiles {
    /// PEM.
    pub certificate: SecretFile,
    /// The key, where it does not stand in the same file.
    pub key: Option<SecretFile>,
    /// How assertions are signed.
    pub algorithm: Algorithm,
}

/// What proves to Entra that we are the application.
#[derive(Debug)]
pub enum ClientAuth {
    /// A client secret.
    Secret(SecretString),
    /// A key that signs an assertion for each request.
    Certificate(Box<Certificate>),
    /// An assertion as it is.
    Assertion(SecretString),
    /// An assertion that has to be asked for.
    ManagedIdentity(Box<ManagedIdentity>),
}

/// Two proofs with the same fingerprint are the same proof.
pub type Fingerprint = [u8; 32];

/// A proof that Entra accepts from an application, and what is known of it.
#[derive(Debug)]
pub struct Credential {
    source: CredentialSource,
    settings: CredentialSettings,
    loaded: Mutex<LoadedCredential>,
    /// Held by the thread that reads the files, also when nobody waits for it any more.
    reader: Arc<Semaphore>,
}

/// Files on a disk are read in less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
/// Threads that may hang in files at a time, over all credentials. The runtime has 512, and looks up names by them too.
static READERS: Semaphore = Semaphore::const_new(64);

#[derive(Debug)]
struct LoadedCredential {
    auth: Arc<ClientAuth>,
    fingerprint: Fingerprint,
    /// Of the proof whose end the configuration tells.
    dated: Fingerprint,
    /// Why the files could not be taken over when they were last read.
    problem: Option<String>,
    /// They were last waited for in vain.
    hangs: bool,
}

impl Credential {
    /// Reads the proof. Fails with the file and the cure.
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
            .expect("a secret at hand needs no reading")
    }

    /// The proof as its files have it now. Files that cannot be used, as while a key and its certificate are replaced
    /// one after the other, leave the one before; so do files that hang.
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

    /// The proof as it was last read.
    #[cfg(test)]
    pub(crate) fn loaded(&self) -> Arc<ClientAuth> {
        Arc::clone(&self.lock().auth)
    }

    /// Why its files cannot be used, as they were last read.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn lock(&self) -> MutexGuard<'_, LoadedCredential> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the files over by a thread of their own. While that one hangs there is no other, and nobody waits again.
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
            // What makes it panic is in the log, and the proof before goes on.
            drop(read.await);
        });
        if looked.await.is_err() {
            self.lock().hangs = true;
            self.note(
                credential_id,
                Err("the file does not answer, as on a file server that is away".to_owned()),
            );
        }
    }

    /// What is new in the files. Nothing is locked meanwhile.
    fn read(&self) -> Result<Option<(ClientAuth, Fingerprint)>, String> {
        let before = self.lock().fingerprint;
        let (fingerprint, parts) = self.source.read()?;
        if fingerprint == before {
            return Ok(None);
        }
        self.source.client_auth(parts).map(|auth| Some((auth, fingerprint)))
    }

    /// Takes over what was read, and tells once what is new.
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
                    "the credential's files have changed and were read again"
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
                        "the credential's files cannot be used; what was read before goes on"
                    );
                    loaded.problem = Some(problem);
                }
            }
        }
    }

    /// What kind of credential it is, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self.source {
            CredentialSource::Secret(_) | CredentialSource::SecretFile(_) => "client secret",
            CredentialSource::Certificate(_) => "certificate",
            CredentialSource::FederatedFile(_) => "federated token",
            CredentialSource::ManagedIdentity { .. } => "managed identity",
        }
    }

    /// Whether the configuration says when a secret ends that was replaced since.
    pub fn is_expiry_outdated(&self) -> bool {
        let loaded = self.lock();
        self.settings.expires.is_some() && loaded.fingerprint != loaded.dated
    }

    /// Takes the place of another one after a reload. An end that the configuration told before already is that of the secret
    /// which it was about then.
    pub fn follow(&self, before: &Self) {
        if self.settings.expires == before.settings.expires {
            let dated = before.lock().dated;
            self.lock().dated = dated;
        }
    }

    /// When what is held of it ends, as far as that can be known.
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
            // Kubernetes gives it to a group, and it ends soon.
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
                    .map_err(|_| format!("{} is not a text", file.label()))?;
                ClientAuth::Secret(SecretString::from(secret))
            }
            Self::FederatedFile(file) => {
                let token = text(parts.into_iter().next()).unwrap_or_default();
                if token.split('.').count() != 3 || token.contains(char::is_whitespace) {
                    return Err(format!("{} holds no token of three parts (JWT)", file.label()));
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
        // A certificate is no secret; a key is.
        let holds_key = |bytes: &[u8]| bytes.windows(11).any(|window| window == b"PRIVATE KEY");
        let certificate = self.certificate.bytes_where(holds_key)?;
        refuse_pkcs12(&self.certificate, &certificate)?;
        let Some(file) = &self.key else { return Ok([certificate, Vec::new()]) };
        // A key store is named as one before its mode is judged: the file is not used, whatever its mode.
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

/// By its content, or by its name where the content is nothing that is read here.
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

/// The crates that read PKCS#12 are pre-releases with ciphers of the nineties; openssl converts it once.
fn refuse_pkcs12(file: &SecretFile, bytes: &[u8]) -> Result<(), String> {
    if !looks_like_pkcs12(file, bytes) {
        return Ok(());
    }
    // systemd shows a copy; what LoadCredential= names has to be converted.
    let (from, owner, place) = match file.is_guarded {
        true => ("STORE.pfx".to_owned(), 0, " in LoadCredential="),
        false => (file.path.display().to_string(), geteuid().as_raw(), ""),
    };
    // A name of its own: openssl overwrites what is there.
    let (from, to) = (quoted(&from), quoted(&format!("{from}.pem")));
    Err(format!(
        "{} is a PKCS#12 key store; only PEM is read. Convert it to a file with certificate and key: \
         `install -m 600 -o {owner} /dev/null {to} && openssl pkcs12 -in {from} -nodes -out {to}` (if openssl reports an \
         unsupported algorithm, as for stores of Windows: `openssl pkcs12 -legacy ...`), and name {to}{place} instead",
        file.label()
    ))
}

/// As one word for a shell.
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
    fn pkcs12_is_refused_wherever_it_stands() {
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
                && refusal.contains("name STORE.pfx.pem in LoadCredential="),
            "{refusal}"
        );
        assert_eq!(problem(file(&named_pkcs12, true), None), None, "PEM is read under any name");
    }

    #[tokio::test]
    async fn the_end_of_a_secret_is_forgotten_with_it_until_the_configuration_tells_another() {
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
