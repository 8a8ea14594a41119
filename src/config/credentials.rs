//! The credentials of an application: the keys of `[app]`, `[app.next]` and of tenants.

use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use secrecy::SecretString;
use url::Url;

use super::database::is_loopback_host;
use super::secrets::{Purpose, SecretFiles};
use super::section::{Parsed, Report, Section, parse_guid};
use crate::entra::certificate::Algorithm;
use crate::entra::credential::{
    CertificateFiles, Credential, CredentialSettings, CredentialSource,
};
use crate::entra::managed_identity;

/// Each selects one kind of credential, as `managed_identity = true` does.
const KINDS: [&str; 3] = ["client_secret_file", "client_certificate_file", "federated_token_file"];
/// Keys that need another key.
const DETAILS: [(&str, &str); 5] = [
    ("client_private_key_file", "client_certificate_file"),
    ("client_assertion_algorithm", "client_certificate_file"),
    ("managed_identity_client_id", "managed_identity"),
    ("managed_identity_endpoint", "managed_identity"),
    ("client_secret_expires", "client_secret_file"),
];

/// The credential of `[app]` or of the tenant `owner`, and the next one. Without `secrets` no file is opened, because those
/// of a disabled tenant may be missing. While one of the two is usable, unusable files of the other are a warning only: during
/// a rotation the old files may be deleted before the new ones are configured, and a restart must succeed in between.
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
            report.warnings.push(format!("{}: {problem}; ignoring it", next_section.name_of(key)));
            [Parsed::Is(first), Parsed::Absent]
        }
        [first, next] => [first.into_parsed(section), next.into_parsed(&mut next_section)],
    };
    report.close(next_section);
    let [first, next] = both;
    (first, next)
}

/// The credential of a section.
enum CredentialSection {
    Absent,
    Is(Arc<Credential>),
    /// The files cannot be used: key and reason.
    Unusable(&'static str, String),
    /// The section is invalid, which has been reported.
    Wrong,
}

impl CredentialSection {
    /// Reports unusable files as an error.
    fn into_parsed(self, section: &mut Section) -> Parsed<Arc<Credential>> {
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
    let mut kinds: Vec<&str> = KINDS.into_iter().filter(|key| section.has(key)).collect();
    kinds.extend(is_identity.then_some("managed_identity"));
    let has_secret = section.has("client_secret") || kinds.contains(&"client_secret_file");
    for (detail, of) in DETAILS {
        let is_used = kinds.contains(&of) || of == "client_secret_file" && has_secret;
        if section.has(detail) && !is_used {
            section.error(
                detail,
                format!("has no effect without {of}; set it too, or remove this key"),
            );
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

    let others = kinds.iter().filter(|key| **key != "client_secret_file").count();
    if others + usize::from(has_secret) > 1 {
        let inline = if section.is_from_env("client_secret") { "client_secret, " } else { "" };
        let last = kinds.last().copied().unwrap_or("client_secret");
        let list = kinds.join(", ");
        let problem = format!(
            "more than one credential ({inline}{list}); keep one here. A second one belongs in next"
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
    let settings =
        CredentialSettings { owner: owner.map(str::to_owned), key: section.name_of(name), expires };
    if secrets.is_some_and(|secrets| secrets.purpose == Purpose::WithoutCredentials) {
        return CredentialSection::Is(Arc::new(Credential::unread(source, settings)));
    }
    match Credential::new(source, settings) {
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
        section.error("client_secret", "set together with client_secret_file; keep one of the two");
    }
    if section.has("client_secret") && !inline_from_env {
        let key = section.name_of("client_secret");
        report.warnings.push(format!(
            "{key}: a secret in the configuration; move it into a file and set client_secret_file"
        ));
    }
    let inline = section.parsed("client_secret", |text| match text.trim() {
        "" => Err("is empty; set client_secret_file".to_owned()),
        secret => Ok(CredentialSource::Secret(SecretString::from(secret))),
    });
    // A variable for one of the two keys overrides both keys of the file.
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

fn read_identity(section: &mut Section, is_enabled: bool) -> Parsed<CredentialSource> {
    let client_id = section.parsed("managed_identity_client_id", |id| {
        let cure = "set the client id of the user-assigned managed identity";
        parse_guid(id).map(|id| id.to_string()).ok_or(format!("not a GUID; {cure}"))
    });
    let endpoint = section.parsed("managed_identity_endpoint", |text| match Url::parse(text) {
        Ok(url) if url.scheme() == "http" && url.host_str().is_some_and(is_loopback_host) => {
            Ok(url)
        }
        _ => Err(format!(
            "must be an http:// URL on loopback, for tests; remove the key to use {}",
            managed_identity::ENDPOINT
        )),
    });
    if !is_enabled {
        return Parsed::Absent;
    }
    let default =
        || Url::parse(managed_identity::ENDPOINT).expect("the default endpoint is a valid URL");
    match (client_id, endpoint) {
        (Parsed::Is(client_id), Parsed::Is(endpoint)) => {
            Parsed::Is(CredentialSource::ManagedIdentity { client_id, endpoint })
        }
        (Parsed::Is(client_id), Parsed::Absent) => {
            Parsed::Is(CredentialSource::ManagedIdentity { client_id, endpoint: default() })
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

/// For a disabled tenant, whose files are not opened.
fn unread() -> CredentialSource {
    CredentialSource::Secret(SecretString::default())
}

/// The end of a day.
fn parse_date(text: &str) -> Result<DateTime<Utc>, String> {
    let date = text.trim().parse::<NaiveDate>();
    let date = date.map_err(|_| {
        "not a date; write it like 2027-01-31, as the app registration shows it".to_owned()
    })?;
    // The secret is valid until the end of its last day.
    let end = date.checked_add_days(Days::new(1)).ok_or("is too far away")?;
    Ok(end.and_time(NaiveTime::MIN).and_utc())
}
