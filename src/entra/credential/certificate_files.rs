//! The files of a certificate. PKCS#12 key stores are rejected with the command that converts them.

use nix::unistd::geteuid;

use crate::entra::certificate::{Algorithm, Certificate, is_pkcs12};
use crate::entra::secret_file::SecretFile;

/// The files of a certificate.
#[derive(Debug)]
pub struct CertificateFiles {
    /// PEM.
    pub certificate: SecretFile,
    /// The key, if it is in another file.
    pub key: Option<SecretFile>,
    pub algorithm: Algorithm,
}

impl CertificateFiles {
    /// Certificate and key; the key may be empty.
    pub(super) fn read(&self) -> Result<[Vec<u8>; 2], String> {
        // A certificate is not secret; a key is.
        let holds_key = |bytes: &[u8]| bytes.windows(11).any(|window| window == b"PRIVATE KEY");
        let certificate = self.certificate.bytes_where(holds_key)?;
        reject_pkcs12(&self.certificate, &certificate)?;
        let Some(file) = &self.key else { return Ok([certificate, Vec::new()]) };
        // A key store is rejected before its mode is checked, because it is not supported with any mode.
        let key = file.bytes_where(|bytes| !looks_like_pkcs12(file, bytes))?;
        reject_pkcs12(file, &key)
            .map_err(|problem| format!("client_private_key_file: {problem}"))?;
        Ok([certificate, key])
    }

    pub(super) fn certificate(&self, parts: &[Vec<u8>]) -> Result<Certificate, String> {
        let [certificate, key] = parts else { return Err("no certificate was read".to_owned()) };
        let key = self.key.as_ref().map_or(certificate, |_| key);
        let read = Certificate::from_pem(certificate, key, self.algorithm);
        read.map_err(|problem| format!("{}: {problem}", self.certificate.label()))
    }
}

/// Whether the content, or the name of a file without PEM, is that of a PKCS#12 key store.
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

/// Not supported, because the crates for PKCS#12 are pre-releases with ciphers of the 1990s. openssl converts a store once.
fn reject_pkcs12(file: &SecretFile, bytes: &[u8]) -> Result<(), String> {
    if !looks_like_pkcs12(file, bytes) {
        return Ok(());
    }
    // The file is systemd's copy; the source that LoadCredential= names has to be converted.
    let (store, owner, location) = match file.is_guarded {
        true => ("STORE.pfx".to_owned(), 0, " in LoadCredential="),
        false => (file.path.display().to_string(), geteuid().as_raw(), ""),
    };
    let from = quoted(&store);
    // A new name, because openssl overwrites an existing file.
    let to = quoted(&format!("{store}.pem"));
    Err(format!(
        "{} is a PKCS#12 key store, but only PEM is supported. Convert it to a file with certificate and key: \
         `install -m 600 -o {owner} /dev/null {to} && openssl pkcs12 -in {from} -nodes -out {to}` (if openssl reports an \
         unsupported algorithm, as for stores of Windows: `openssl pkcs12 -legacy ...`), and specify {to}{location} instead",
        file.label()
    ))
}

/// Quoted as one argument for a shell.
fn quoted(text: &str) -> String {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-+".contains(character);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
