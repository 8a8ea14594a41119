//! Verification of client assertions: signature, thumbprint, audience, times, and that each is used once.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
};
use serde_json::{Value, json};
use uuid::Uuid;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The accepted difference between the clocks of client and service.
const SKEW_SECONDS: i64 = 300;
/// The audience of a federated assertion.
pub(super) const EXCHANGE: &str = "api://AzureADTokenExchange";

/// The reason of a rejection: AADSTS number and message.
pub(super) type RejectReason = (u32, &'static str);

/// A certificate that was uploaded to the app registration.
#[derive(Debug)]
pub(super) struct Registered {
    der: Vec<u8>,
    public_key: Vec<u8>,
    ends: i64,
    /// The code that every assertion by it is refused with.
    refused_with: Option<u32>,
}

impl Registered {
    /// From DER.
    pub(super) fn new(der: &[u8]) -> Self {
        let (_, parsed) =
            X509Certificate::from_der(der).expect("a test registers a certificate that parses");
        let public_key = parsed.public_key().subject_public_key.data.to_vec();
        let ends = parsed.validity().not_after.timestamp();
        Self { der: der.to_vec(), public_key, ends, refused_with: None }
    }

    pub(super) fn is(&self, der: &[u8]) -> bool {
        self.der == der
    }

    pub(super) fn refuse(&mut self, code: u32) {
        self.refused_with = Some(code);
    }
}

/// An issuer of assertions that a federated credential of the app registration trusts: Kubernetes, or the managed identity
/// service.
pub struct Issuer {
    key: EcdsaKeyPair,
    issuer: String,
    subject: String,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issuer({}, {})", self.issuer, self.subject)
    }
}

impl Issuer {
    /// Generates a key.
    pub(super) fn new(issuer: &str, subject: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key can be made");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random)
            .expect("the key was just made");
        Self { key, issuer: issuer.to_owned(), subject: subject.to_owned() }
    }

    /// An assertion for this audience that ends at `ends`.
    pub fn token(&self, audience: &str, now: DateTime<Utc>, ends: DateTime<Utc>) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "ES256", "typ": "JWT"});
        let claims = json!({
            "iss": self.issuer, "sub": self.subject, "aud": audience, "jti": Uuid::new_v4(),
            "iat": now.timestamp(), "nbf": now.timestamp(), "exp": ends.timestamp(),
        });
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature =
            self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("ECDSA signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn signed(&self, jwt: &Jwt<'_>) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        jwt.header["alg"] == "ES256" && key.verify(jwt.signed.as_bytes(), &jwt.signature).is_ok()
    }
}

/// The three parts of a token.
pub(super) struct Jwt<'a> {
    signed: &'a str,
    header: Value,
    claims: Value,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let part = |text: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { signed, header: part(header)?, claims: part(claims)?, signature })
    }

    /// Whether the application itself is named as the issuer.
    pub(super) fn is_own(&self) -> bool {
        self.header.get("x5t#S256").is_some() || self.header.get("x5t").is_some()
    }

    fn claim(&self, name: &str) -> &str {
        self.claims[name].as_str().unwrap_or_default()
    }

    fn check_times(&self, now: i64) -> Result<(), RejectReason> {
        let time = |name: &str| self.claims[name].as_i64();
        match (time("nbf"), time("exp")) {
            (Some(begins), Some(ends))
                if begins <= now + SKEW_SECONDS && ends > now - SKEW_SECONDS && begins < ends =>
            {
                Ok(())
            }
            _ => Err((700_024, "Client assertion is not within its valid time range.")),
        }
    }
}

/// Verifies an assertion signed by the application. Returns its `jti`, which must not be used again.
pub(super) fn by_certificate(
    jwt: &Jwt<'_>,
    certificates: &[Registered],
    client_id: &str,
    endpoint: &str,
    now: i64,
) -> Result<String, RejectReason> {
    let (algorithm, thumbprint): (&dyn ring::signature::VerificationAlgorithm, _) =
        match jwt.header["alg"].as_str() {
            Some("PS256") => (&RSA_PSS_2048_8192_SHA256, ("x5t#S256", &SHA256)),
            Some("RS256") => (&RSA_PKCS1_2048_8192_SHA256, ("x5t", &SHA1_FOR_LEGACY_USE_ONLY)),
            _ => {
                return Err((
                    50_027,
                    "JWT token is invalid or malformed: the algorithm is not supported.",
                ));
            }
        };
    let (name, hash) = thumbprint;
    let is_named = |certificate: &&Registered| {
        jwt.header[name] == URL_SAFE_NO_PAD.encode(digest(hash, &certificate.der))
    };
    let unknown = (
        700_027,
        "Client assertion failed signature validation: the key was not found by its thumbprint.",
    );
    let certificate = certificates.iter().find(is_named).ok_or(unknown)?;
    let key = UnparsedPublicKey::new(algorithm, &certificate.public_key);
    let failed = |_| (700_027, "Client assertion failed signature validation.");
    key.verify(jwt.signed.as_bytes(), &jwt.signature).map_err(failed)?;
    if let Some(code) = certificate.refused_with {
        return Err((code, "The certificate is refused."));
    }
    jwt.check_times(now)?;
    if certificate.ends <= now {
        return Err((
            700_024,
            "Client assertion is not within its valid time range: the certificate has expired.",
        ));
    }
    if jwt.claim("aud") != endpoint {
        return Err((700_023, "Client assertion audience claim does not match the endpoint."));
    }
    if jwt.claim("iss") != client_id || jwt.claim("sub") != client_id {
        return Err((
            700_021,
            "Client assertion application identifier doesn't match 'client_id' parameter.",
        ));
    }
    if jwt.claim("jti").is_empty() {
        Err((50_027, "The assertion has no jti."))
    } else {
        Ok(jwt.claim("jti").to_owned())
    }
}

/// Verifies an assertion of an issuer that the app registration trusts.
pub(super) fn by_issuer(
    jwt: &Jwt<'_>,
    issuers: &[std::sync::Arc<Issuer>],
    now: i64,
) -> Result<(), RejectReason> {
    let issuer = issuers.iter().find(|each| each.issuer == jwt.claim("iss"));
    let issuer = issuer.ok_or((
        700_211,
        "No matching federated identity record found for presented assertion issuer.",
    ))?;
    if !issuer.signed(jwt) {
        return Err((700_027, "Client assertion failed signature validation."));
    }
    jwt.check_times(now)?;
    if issuer.subject != jwt.claim("sub") {
        return Err((
            700_213,
            "No matching federated identity record found for presented assertion subject.",
        ));
    }
    if jwt.claim("aud") != EXCHANGE {
        return Err((
            7_002_121,
            "No matching federated identity record found for presented assertion audience.",
        ));
    }
    Ok(())
}
