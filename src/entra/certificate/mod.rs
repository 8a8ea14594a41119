//! A certificate with its private key, and client assertions signed with it. Source: `MicrosoftDocs/entra-docs`,
//! `certificate-credentials.md`; `x5t` with RS256 is the form of its earlier edition, which is still in use.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use uuid::Uuid;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Short, because each request has its own assertion, which is used immediately.
const LIFETIME_SECONDS: i64 = 600;
/// Entra rejects an assertion whose validity begins after Entra's current time.
const SKEW_ALLOWED_SECONDS: i64 = 300;

/// The signature of an assertion and its reference to the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA with PSS padding; the certificate's SHA-256 thumbprint in `x5t#S256`.
    Ps256,
    /// RSA with PKCS#1 padding; the SHA-1 thumbprint in `x5t`.
    Rs256,
}

/// A certificate and its private key.
pub struct Certificate {
    key: KeyPair,
    der: CertificateDer<'static>,
    algorithm: Algorithm,
    /// The end of the validity.
    pub expires: DateTime<Utc>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.thumbprint())
    }
}

impl Certificate {
    /// Parses PEM: the certificate, optionally followed by its chain, and its key, in one text or in two.
    pub fn from_pem(certificates: &[u8], key: &[u8], algorithm: Algorithm) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(
            |_| "the certificate is not PEM. It should begin with -----BEGIN CERTIFICATE-----",
        )?;
        let text = String::from_utf8_lossy(key);
        if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(
                "the private key is encrypted. Store it without a password, with mode 0600".into(),
            );
        }
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Ok(PrivateKeyDer::Pkcs8(key)) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Pkcs1(key)) => KeyPair::from_der(key.secret_pkcs1_der()),
            Ok(_) => return Err(NOT_RSA.into()),
            Err(_) => {
                return Err("there is no private key in PEM. Append it to the certificate or set \
                            client_private_key_file"
                    .into());
            }
        };
        Self::of(chain, key.map_err(|_| NOT_RSA)?, algorithm)
    }

    fn of(
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        algorithm: Algorithm,
    ) -> Result<Self, String> {
        if chain.is_empty() {
            return Err(
                "there is no certificate in PEM. It should begin with -----BEGIN CERTIFICATE-----"
                    .into(),
            );
        }
        for der in chain {
            let (_, parsed) =
                X509Certificate::from_der(&der).map_err(|_| "the certificate cannot be read")?;
            if *parsed.public_key().subject_public_key.data != *key.public().as_ref() {
                continue;
            }
            let end = parsed.validity().not_after.timestamp();
            let expires = DateTime::from_timestamp(end, 0)
                .ok_or("the expiry of the certificate cannot be read")?;
            return Ok(Self { key, der, algorithm, expires });
        }
        Err("the private key does not belong to the certificate. Use certificate and key of the same pair"
            .into())
    }

    /// The certificate's SHA-1 thumbprint in hexadecimal, as the app registration lists it.
    pub fn thumbprint(&self) -> String {
        sha1(&self.der).iter().map(|byte| format!("{byte:02X}")).collect()
    }

    /// Signs an assertion for this application and token endpoint. `now` is in seconds since 1970.
    pub fn assertion(
        &self,
        client_id: &str,
        endpoint: &str,
        now: i64,
    ) -> Result<String, &'static str> {
        let header = match self.algorithm {
            Algorithm::Ps256 => {
                let digest = ring::digest::digest(&ring::digest::SHA256, &self.der);
                json!({"alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(digest)})
            }
            Algorithm::Rs256 => {
                json!({"alg": "RS256", "typ": "JWT", "x5t": URL_SAFE_NO_PAD.encode(sha1(&self.der))})
            }
        };
        let claims = json!({
            "aud": endpoint,
            "iss": client_id,
            "sub": client_id,
            "jti": Uuid::new_v4(),
            "iat": now,
            "nbf": now - SKEW_ALLOWED_SECONDS,
            "exp": now + LIFETIME_SECONDS,
        });
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let padding: &dyn ring::signature::RsaEncoding = match self.algorithm {
            Algorithm::Ps256 => &RSA_PSS_SHA256,
            Algorithm::Rs256 => &RSA_PKCS1_SHA256,
        };
        let result =
            self.key.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature);
        result.map_err(|_| "the assertion could not be signed")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

const NOT_RSA: &str =
    "the private key is not an RSA key of 2048 to 4096 bits, the only kind that Entra accepts";

/// Whether this is a PKCS#12 key store (`.pfx`, `.p12`), in DER or BER: a sequence that begins with version 3 (RFC 7292, section 4).
pub fn is_pkcs12(bytes: &[u8]) -> bool {
    let [0x30, length, rest @ ..] = bytes else { return false };
    // The long form states the number of length bytes; 0x80, the indefinite form of BER, has none.
    let length_bytes = if length & 0x80 == 0 { 0 } else { usize::from(length & 0x7f) };
    rest.get(length_bytes..).is_some_and(|content| content.starts_with(&[0x02, 0x01, 0x03, 0x30]))
}

fn sha1(der: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref().to_vec()
}

#[cfg(test)]
mod tests;
