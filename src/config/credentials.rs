//! The keys that say how an application proves who it is, in `[app]`, `[app.next]` and in tenants.

use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use secrecy::SecretString;
use url::Url;

use super::database::is_loopback_host;
use super::secrets::SecretFiles;
use super::section::{Parsed, Report, Section, parse_guid};
use crate::entra::certificate::Algorithm;
use crate::entra::credential::{
    CertificateFiles, Credential, CredentialSettings, CredentialSource,
};
use crate::entra::managed_identity;

/// Each names one kind of credential, as `managed_identity = true` does.
const KINDS: [&str; 3] = ["client_secret_file", "client_certificate_file", "federated_token_file"];
/// What says more of a kind, with the kind that it needs.
const DETAILS: [(&str, &str); 5] = [
    ("client_private_key_file", "client_certificate_file"),
    ("client_assertion_algorithm", "client_certificate_file"),
    ("managed_identity_client_id", "managed_identity"),
    ("managed_identity_endpoint", "managed_identity"),
    ("client_secret_expires", "client_secret_file"),
];

/// The credential of `[app]`, or of its owner, and the one that follows it. Without `secrets` no file is opened: those of a
/// disabled tenant may be gone. While one of the two works, files of the other that cannot be used are a warning only: the old
/// ones are deleted before somebody moves `next` into their place, and a restart must not end the service for that.
pub(super) fn read_both(
    section: &mut Section,
    secrets: Option<&SecretFiles>,
    owner: Option<&str>,
    report: &mut Report,
) -> (Parsed<Arc<Credential>>, Parsed<Arc<Credential>>) {
    let mut next_section = section.table("next");
    let both =
        [read(section, secrets, owner, report), read(&mut next_section, secrets, owner, report)];
    let both = match both {
        [CredentialSection::Unusable(key, problem), CredentialSection::Is(next)] => {
            report
                .warnings
                .push(format!("{}: {problem}; next is used alone", section.name_of(key)));
            [Parsed::Is(next), Parsed::Absent]
        }
        [CredentialSection::Is(first), CredentialSection::Unusable(key, problem)] => {
            report
                .warnings
                .push(format!("{}: {problem}; it is left out", next_section.name_of(key)));
            [Parsed::Is(first), Parsed::Absent]
        }
        [first, next] => [first.told(section), next.told(&mut next_section)],
    };
    report.close(next_section);
    let [first, next] = both;
    (first, next)
}

/// What a section says of a credential.
enum CredentialSection {
    Absent,
    Is(Arc<Credential>),
    /// Its files cannot be used: the key, and why.
    Unusable(&'static str, String),
    /// The section itself is wrong, which was told.
    Wrong,
}

impl CredentialSection {
    fn told(self, section: &mut Section) -> Parsed<Arc<Credential>> {
        match self {
            Self::Absent => Parsed::Absent,
            Self::Is(credential) => Parsed::Is(credential),
            Self::Wrong => Parsed::Wrong,
            Self::Unusable(key, problem) => {
                section.error(key, problem);
                Parsed::Wrong
            }
        }
    }
}

fn read(
    section: &mut Section,
    secrets: Option<&SecretFiles>,
    owner: Option<&str>,
    report: &mut Report,
) -> CredentialSection {
    let is_identity = section.flag("managed_identity", false);
    let mut given: Vec<&str> = KINDS.into_iter().filter(|key| section.has(key)).collect();
    given.extend(is_identity.then_some("managed_identity"));
    let has_secret = section.has("client_secret") || given.contains(&"client_secret_file");
    for (detail, of) in DETAILS {
        let is_there = given.contains(&of) || of == "client_secret_file" && has_secret;
        if section.has(detail) && !is_there {
            section
                .error(detail, format!("has no effect without {of}; set that too or remove this"));
        }
    }
    let expires = section.parsed("client_secret_expires", parse_date).ok();
    let secret = read_secret(section, secrets, report);
    let certificate = read_certificate(section, secrets);
    let federated = section.parsed("federated_token_file", |name| {
        Ok(secrets
            .map_or_else(unread, |secrets| CredentialSource::FederatedFile(secrets.file(name))))
    });
    let identity = read_identity(section, is_identity);

    let others = given.iter().filter(|key| **key != "client_secret_file").count();
    if others + usize::from(has_secret) > 1 {
        let inline = if section.is_from_env("client_secret") { "client_secret, " } else { "" };
        let last = given.last().copied().unwrap_or("client_secret");
        let kinds = given.join(", ");
        let problem = format!(
            "more than one credential ({inline}{kinds}); keep one here, a second one may stand in next"
        );
        section.error(last, problem);
        return CredentialSection::Wrong;
    }
    let source = secret.or(certificate).or(federated).or(identity);
    let source = match source {
        Parsed::Is(source) => source,
        Parsed::Absent => return CredentialSection::Absent,
        Parsed::Wrong => return CredentialSection::Wrong,
    };
    let name = match &source {
        CredentialSource::Secret(_) | CredentialSource::SecretFile(_) => "client_secret_file",
        CredentialSource::Certificate(_) => "client_certificate_file",
        CredentialSource::FederatedFile(_) => "federated_token_file",
        CredentialSource::ManagedIdentity { .. } => "managed_identity",
    };
    match Credential::new(
        source,
        CredentialSettings { owner: owner.map(str::to_owned), key: section.name_of(name), expires },
    ) {
        Ok(credential) => CredentialSection::Is(Arc::new(credential)),
        Err(problem) => CredentialSection::Unusable(name, problem),
    }
}

fn read_secret(
    section: &mut Section,
    secrets: Option<&SecretFiles>,
    report: &mut Report,
) -> Parsed<CredentialSource> {
    let both = section.has("client_secret") && section.has("client_secret_file");
    let inline_from_env = section.is_from_env("client_secret");
    let file_from_env = section.is_from_env("client_secret_file");
    if both && inline_from_env == file_from_env {
        section.error("client_secret", "set beside client_secret_file; keep one of the two");
    }
    if section.has("client_secret") && !inline_from_env {
        let place = section.name_of("client_secret");
        report.warnings.push(format!(
            "{place}: a secret in the configuration; move it into client_secret_file"
        ));
    }
    let inline = section.parsed("client_secret", |text| match text.trim() {
        "" => Err("is empty; set the client secret, better in client_secret_file".to_owned()),
        secret => Ok(CredentialSource::Secret(SecretString::from(secret))),
    });
    // The environment overrides the file, whichever of the two keys it sets.
    if both && inline_from_env && !file_from_env {
        section.text("client_secret_file");
        return inline;
    }
    let file = section.parsed("client_secret_file", |name| {
        Ok(secrets.map_or_else(unread, |secrets| CredentialSource::SecretFile(secrets.file(name))))
    });
    file.or(inline)
}

fn read_certificate(
    section: &mut Section,
    secrets: Option<&SecretFiles>,
) -> Parsed<CredentialSource> {
    let key = section.text("client_private_key_file");
    let algorithm = section.parsed("client_assertion_algorithm", |name| match name {
        "PS256" => Ok(Algorithm::Ps256),
        "RS256" => Ok(Algorithm::Rs256),
        _ => Err("unknown algorithm; valid: \"PS256\", \"RS256\"".to_owned()),
    });
    section.parsed("client_certificate_file", |name| {
        let Some(secrets) = secrets else { return Ok(unread()) };
        Ok(CredentialSource::Certificate(CertificateFiles {
            certificate: secrets.file(name),
            key: key.map(|name| secrets.file(&name)),
            algorithm: algorithm.ok().unwrap_or(Algorithm::Ps256),
        }))
    })
}

fn read_identity(section: &mut Section, is_on: bool) -> Parsed<CredentialSource> {
    let client_id = section.parsed("managed_identity_client_id", |id| {
        let cure = "set the client id of the user-assigned managed identity";
        parse_guid(id).map(|id| id.to_string()).ok_or(format!("not a GUID; {cure}"))
    });
    let endpoint = section.parsed("managed_identity_endpoint", |text| match Url::parse(text) {
        Ok(url) if url.scheme() == "http" && url.host_str().is_some_and(is_loopback_host) => {
            Ok(url)
        }
        _ => Err(format!(
            "is for tests on loopback; remove it, and {} is asked",
            managed_identity::ENDPOINT
        )),
    });
    if !is_on {
        return Parsed::Absent;
    }
    let fixed =
        || Url::parse(managed_identity::ENDPOINT).expect("the address of the service is a URL");
    match (client_id, endpoint) {
        (Parsed::Is(client_id), Parsed::Is(endpoint)) => {
            Parsed::Is(CredentialSource::ManagedIdentity { client_id, endpoint })
        }
        (Parsed::Is(client_id), Parsed::Absent) => {
            Parsed::Is(CredentialSource::ManagedIdentity { client_id, endpoint: fixed() })
        }
        (Parsed::Absent, _) => {
            section.error(
                "managed_identity_client_id",
                "missing; set the client id of the user-assigned managed identity, the only kind that Entra accepts here",
            );
            Parsed::Wrong
        }
        _ => Parsed::Wrong,
    }
}

/// Of a disabled tenant: nothing is opened.
fn unread() -> CredentialSource {
    CredentialSource::Secret(SecretString::default())
}

/// The end of that day.
fn parse_date(text: &str) -> Result<DateTime<Utc>, String> {
    let date = text.trim().parse::<NaiveDate>();
    let date = date.map_err(|_| {
        "not a date; write it like 2027-01-31, as the app registration shows it".to_owned()
    })?;
    // It works until the last day is over.
    let end = date.checked_add_days(Days::new(1)).ok_or("is too far away")?;
    Ok(end.and_time(NaiveTime::MIN).and_utc())
}
