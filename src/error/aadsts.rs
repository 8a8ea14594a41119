//! Entra's error codes and their meaning. Source: `MicrosoftDocs/entra-docs`, `reference-error-codes.md`,
//! according to which codes are hints: for an unknown code, the HTTP status and the `error` word decide.

use std::time::Duration;

use super::{Diagnosis, EntraDetails, ErrorClass, Owner, Retry};

/// The code decides, whatever the `error` word: Entra sends one code under several words.
pub(super) fn diagnosis(
    status: u16,
    error: &str,
    codes: &[u32],
    details: &EntraDetails,
) -> Diagnosis {
    if codes.contains(&UNKNOWN_RESOURCE) && details.other_scope.is_some() | details.is_foreign_scope
    {
        return wrong_scope(details);
    }
    let known = |code: &u32| KNOWN_CODES.iter().find(|known| known.codes.contains(code));
    match codes.iter().find_map(known) {
        Some(known) => known.diagnosis(details),
        None if is_temporary(status, error) => soon(),
        None => codes.first().map_or_else(
            || without_code(error, details),
            |code| unknown(&format!("AADSTS{code}"), error, details),
        ),
    }
}

/// `InvalidResourceServicePrincipalNotFound`.
const UNKNOWN_RESOURCE: u32 = 500_011;

/// Codes with one cause and one fix.
#[derive(Debug, Clone, Copy)]
pub struct KnownCode {
    /// The numbers after `AADSTS`.
    pub codes: &'static [u32],
    class: ErrorClass,
    owner: Owner,
    retry: Retry,
    shared: bool,
    /// With `{scope}` and `{address}` for facts of the request.
    advice: &'static str,
}

impl KnownCode {
    const fn new(
        class: ErrorClass,
        owner: Owner,
        codes: &'static [u32],
        advice: &'static str,
    ) -> Self {
        Self { codes, class, owner, retry: Retry::OnceFixed, shared: false, advice }
    }

    fn diagnosis(&self, details: &EntraDetails) -> Diagnosis {
        let Self { class, owner, retry, shared, advice, .. } = *self;
        let diagnosis = if advice.contains(['{', '}']) {
            let advice = advice.replace("{scope}", &shown_scope(details));
            let advice = advice.replace("{address}", &address(details));
            Diagnosis::new(class, owner, retry, advice)
        } else {
            Diagnosis::new(class, owner, retry, advice)
        };
        Diagnosis { shared, ..diagnosis }
    }
}

/// Affects every tenant of the app.
const fn credential(codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode {
        shared: true,
        ..KnownCode::new(ErrorClass::Credential, Owner::Operator, codes, advice)
    }
}

const fn operator(codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode::new(ErrorClass::TenantConfig, Owner::Operator, codes, advice)
}

const fn customer(class: ErrorClass, codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode::new(class, Owner::CustomerAdmin, codes, advice)
}

const fn bug(codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode::new(ErrorClass::Bug, Owner::Developers, codes, advice)
}

const fn slow(codes: &'static [u32], seconds: u64, advice: &'static str) -> KnownCode {
    let retry = Retry::After(Duration::from_secs(seconds));
    KnownCode { retry, ..KnownCode::new(ErrorClass::Throttled, Owner::Nobody, codes, advice) }
}

/// The known codes. `docs/reference/errors.md` lists them for operators.
pub const KNOWN_CODES: &[KnownCode] = &[
    credential(
        &[7_000_215, 70_002],
        "The client secret is wrong (often the secret's id was pasted instead of its value). Put the correct value into client_secret_file",
    ),
    credential(
        &[7_000_222],
        "The client secret has expired. Create a new one in the app registration and put it into client_secret_file",
    ),
    bug(
        &[7_000_218, 901_002],
        "Entra reports a missing field in the token request. Check token_version, otherwise report a bug",
    ),
    bug(
        &[50_034, 50_173, 70_008, 70_043, 700_082],
        "Entra answered as if a user or a refresh token had signed in; incident-sync uses neither. Check authority and the network path, otherwise report a bug",
    ),
    credential(
        &[700_025],
        "The app registration allows public clients only. Make it a confidential client",
    ),
    credential(
        &[700_027],
        "The certificate that signed the assertion is not registered in Entra, or it has expired. Upload a valid one to the app registration",
    ),
    credential(
        &[7_000_214, 7_000_277],
        "The certificate was revoked by its authority. Ask why, upload a new certificate to the app registration and put it into client_certificate_file",
    ),
    credential(
        &[1_000_502],
        "The certificate is outside its validity: it has expired or is not valid yet. Upload a valid one to the app registration, put it into client_certificate_file, and check this machine's clock",
    ),
    credential(
        &[700_030],
        "Entra does not accept the certificate's subject name. Use a certificate whose subject the app registration allows",
    ),
    credential(
        &[50_013],
        "Entra cannot verify the signature of the assertion. Check the certificate in the app registration, or the federated issuer and its published keys",
    ),
    credential(
        &[700_024, 50_012, 500_133],
        "The assertion is not valid at this time. Check this machine's clock and the dates of the certificate",
    ),
    customer(
        ErrorClass::ConsentMissing,
        // 7000229 comes with `invalid_client`, which otherwise means the app's own credential.
        &[700_016, 700_011, 7_000_229],
        "The app is not known in the tenant. The customer's admin must open the consent link (incident-sync consent-url)",
    ),
    customer(
        ErrorClass::ConsentMissing,
        &[65_001, 90_094, 90_008],
        "The customer's admin has not consented. Send the consent link (incident-sync consent-url)",
    ),
    customer(
        ErrorClass::ConsentMissing,
        &[65_004],
        "A user of the customer declined to consent. Ask the admin, and send the consent link again (incident-sync consent-url)",
    ),
    customer(
        ErrorClass::ConsentMissing,
        &[650_051],
        "Entra has not finished an earlier consent in this tenant. Wait a minute, then open the consent link again (incident-sync consent-url)",
    ),
    customer(
        ErrorClass::AppDisabled,
        &[70_001, 1_000_031],
        "The app is disabled in the tenant. The customer's admin must enable it under Enterprise applications",
    ),
    customer(
        ErrorClass::AppDisabled,
        &[7_000_112],
        "The app is disabled in this tenant. The customer's admin must enable it under Enterprise applications. If every customer shows this, your own app registration was disabled, by you or by Microsoft",
    ),
    customer(
        ErrorClass::AssignmentRequired,
        &[501_051, 50_105],
        "The tenant requires that apps are assigned to the API (\"Assignment required?\"). The customer's admin must assign the app to the API's enterprise application, or set \"Assignment required?\" to No in its properties",
    ),
    customer(
        ErrorClass::DirectoryBlocked,
        &[5_000_225],
        "Microsoft has blocked the directory because it was not used, and deletes it about 20 days later. The customer's Global Administrator can ask Microsoft to reactivate it. The stored data stays; if the customer has left, export it and purge the tenant (incident-sync tenant export, tenant purge)",
    ),
    customer(
        ErrorClass::DirectoryBlocked,
        &[5_000_224],
        "The directory is closed: the customer or Microsoft has deleted it. The customer's Global Administrator can ask Microsoft whether it can be restored. The stored data stays; if the customer has left, export it and purge the tenant (incident-sync tenant export, tenant purge)",
    ),
    customer(
        ErrorClass::NotLicensed,
        &[500_014],
        "The API is disabled in the tenant: a subscription has lapsed, or an administrator has disabled the API's service principal. The customer must renew the subscription, or enable it under Enterprise applications",
    ),
    customer(
        ErrorClass::NotLicensed,
        &[500_011],
        "The tenant has no Microsoft 365 Defender service principal. The customer must open security.microsoft.com once; if that does not help, check cloud and scope",
    ),
    customer(
        ErrorClass::NotLicensed,
        &[650_052, 65_005],
        "The app registration asks for the permission of a service that the customer has no licence of. Either remove that permission from the registration, or use a link for one API only (consent-url without --v1 and --source both); or the customer licenses the service",
    ),
    operator(
        &[650_053, 650_057, 50_001, 70_011, 1_002_012, 28_002, 700_022, 700_023],
        "Entra does not accept the scope{scope}. It must be the address of the API followed by /.default. Check scope, cloud and token_version",
    ),
    operator(
        &[90_002, 900_023, 50_059, 50_128, 90_019],
        "Entra has no tenant with this id. Check id and cloud. If the tenant was read before, its directory was deleted: the stored data stays; export it and purge the tenant (incident-sync tenant export, tenant purge)",
    ),
    operator(
        &[9_001_023, 90_124, 90_130],
        "The tenant id must be the customer's own, not common or consumers",
    ),
    credential(
        &[50_194],
        "The app registration is not multi-tenant. Change its supported account types",
    ),
    operator(
        &[90_038, 900_382, 900_432],
        "The tenant belongs to another national cloud. Set cloud for it",
    ),
    customer(
        ErrorClass::ConditionalAccess,
        &[53_003, 530_032, 530_035],
        "Conditional Access or security defaults of the tenant block the app, often because of the location and address that it connects from. The customer's admin must allow the app from this address, or exempt it from the policy. {address}",
    ),
    operator(
        &[500_021, 500_022],
        "A tenant restriction on your network blocks the token request. Ask the administrator of the proxy to exempt this machine",
    ),
    slow(&[90_055], 60, "Entra throttles the tenant; waiting"),
    slow(&[50_196], 300, "Entra detected a loop of identical token requests; waiting"),
    KnownCode {
        retry: Retry::Now,
        ..KnownCode::new(
            ErrorClass::Upstream,
            Owner::Nobody,
            &[50_033, 90_006, 90_012, 90_024, 90_025, 90_033, 90_090, 90_091],
            UNAVAILABLE,
        )
    },
    KnownCode::new(
        ErrorClass::Upstream,
        Owner::Operator,
        &[90_036, 90_092],
        "Entra reports a permanent failure. Open a Microsoft support ticket with the trace id",
    ),
    credential(
        &[
            70_021, 700_211, 700_213, 7_002_121, 70_025, 70_052, 700_222, 700_223, 700_226,
            700_227, 700_229, 700_236, 700_238,
        ],
        "The federated credential does not match. Check issuer, subject and audience in the app registration",
    ),
];

const UNAVAILABLE: &str = "Entra is temporarily unavailable; retrying";

fn soon() -> Diagnosis {
    Diagnosis::new(ErrorClass::Upstream, Owner::Nobody, Retry::Now, UNAVAILABLE)
}

fn is_temporary(status: u16, error: &str) -> bool {
    matches!(error, "temporarily_unavailable" | "server_error") || status >= 500 || status == 408
}

/// An answer without a code, such as the redirect of an admin who cancelled.
fn without_code(error: &str, details: &EntraDetails) -> Diagnosis {
    match error {
        "invalid_client" => credential(&[], "Entra refused the app's credential").diagnosis(details),
        "unauthorized_client" | "consent_required" | "access_denied" | "permission_denied" => {
            customer(
                ErrorClass::ConsentMissing,
                &[],
                "The app may not sign in to the tenant. The customer's admin must open the consent link (incident-sync consent-url)",
            )
            .diagnosis(details)
        }
        _ => unknown("an error", error, details),
    }
}

/// The next credential is tried if the word blames the current one.
fn unknown(what: &str, error: &str, details: &EntraDetails) -> Diagnosis {
    let sentence = match details.sentence.as_str() {
        "" => String::new(),
        sentence => format!(": \"{sentence}\""),
    };
    let advice = format!(
        "Entra refused the request with {what} that incident-sync does not know{sentence}. Look it up in Microsoft's list of AADSTS codes, and report it"
    );
    let diagnosis =
        Diagnosis::new(ErrorClass::UnknownEntraError, Owner::Operator, Retry::OnceFixed, advice);
    Diagnosis { shared: error == "invalid_client", ..diagnosis }
}

/// Entra knows no resource of this name, and the configuration may be the cause.
fn wrong_scope(details: &EntraDetails) -> Diagnosis {
    let scope = shown_scope(details);
    let advice = match &details.other_scope {
        Some(other) => format!(
            "Entra does not know the scope{scope} in this tenant. Set scope = \"{other}\": in the clouds of the US government either is in use, and incident-sync check tries both. If Entra knows neither, the customer must open the Defender portal once"
        ),
        None => format!(
            "Entra does not know the scope{scope} in this tenant. Remove scope, or set it to the address of the API followed by /.default"
        ),
    };
    Diagnosis::new(ErrorClass::TenantConfig, Owner::Operator, Retry::OnceFixed, advice)
}

fn shown_scope(details: &EntraDetails) -> String {
    if details.scope.is_empty() { String::new() } else { format!(" {}", details.scope) }
}

fn address(details: &EntraDetails) -> String {
    const GATEWAY: &str = "Behind a proxy or NAT, Entra sees the public address of that gateway";
    details.local_address.map_or_else(
        || GATEWAY.to_owned(),
        |address| format!("This machine connects from {address}. {GATEWAY}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 8] = [
        "invalid_grant",
        "invalid_request",
        "invalid_client",
        "invalid_scope",
        "unauthorized_client",
        "interaction_required",
        "consent_required",
        "",
    ];

    fn diagnosis(status: u16, error: &str, codes: &[u32]) -> Diagnosis {
        super::diagnosis(status, error, codes, &EntraDetails::default())
    }

    #[test]
    fn code_means_the_same_under_every_word() {
        for code in KNOWN_CODES.iter().flat_map(|known| known.codes) {
            let first = diagnosis(400, WORDS[0], &[*code]);
            for word in WORDS {
                assert_eq!(diagnosis(401, word, &[*code]), first, "{code} {word}");
            }
        }
    }

    #[test]
    fn unknown_code_is_operators_under_every_word() {
        let sentence = "This is new".to_owned();
        for word in WORDS {
            let details = EntraDetails { sentence: sentence.clone(), ..EntraDetails::default() };
            let unknown = super::diagnosis(400, word, &[4_242_424], &details);
            assert_eq!(
                (unknown.class, unknown.owner, unknown.retry),
                (ErrorClass::UnknownEntraError, Owner::Operator, Retry::OnceFixed),
                "{word}"
            );
            assert!(unknown.advice.contains("AADSTS4242424") && unknown.advice.contains(&sentence));
            assert_eq!(unknown.shared, word == "invalid_client", "the next credential is tried");
        }
    }

    #[test]
    fn unknown_resource_names_scope_where_it_may_be_wrong() {
        let details =
            EntraDetails { scope: "https://a/.default".to_owned(), ..EntraDetails::default() };
        let of =
            |details: &EntraDetails| super::diagnosis(400, "invalid_resource", &[500_011], details);
        assert_eq!(of(&details).class, ErrorClass::NotLicensed);
        let foreign = of(&EntraDetails { is_foreign_scope: true, ..details.clone() });
        assert_eq!((foreign.class, foreign.owner), (ErrorClass::TenantConfig, Owner::Operator));
        let government =
            of(&EntraDetails { other_scope: Some("https://b/.default".to_owned()), ..details });
        assert_eq!(government.owner, Owner::Operator);
        let (scope, portal) =
            (government.advice.find("scope = \"https://b/"), government.advice.find("portal"));
        assert!(scope.is_some() && scope < portal, "{}", government.advice);
    }

    #[test]
    fn known_code_wins_over_error_word() {
        let secret = diagnosis(401, "invalid_client", &[7_000_222]);
        assert_eq!(
            (secret.owner, secret.retry, secret.shared),
            (Owner::Operator, Retry::OnceFixed, true)
        );
        let consent = diagnosis(400, "invalid_client", &[700_016]);
        assert_eq!(
            (consent.owner, consent.class, consent.shared),
            (Owner::CustomerAdmin, ErrorClass::ConsentMissing, false)
        );
        assert!(
            !diagnosis(401, "invalid_client", &[7_000_229]).shared,
            "a fault of one tenant must not block the others"
        );
    }

    #[test]
    fn answer_without_code_is_judged_by_its_word() {
        assert_eq!(diagnosis(400, "invalid_request", &[1]).retry, Retry::OnceFixed);
        assert_eq!(diagnosis(503, "invalid_request", &[]).retry, Retry::Now);
        assert_eq!(diagnosis(400, "temporarily_unavailable", &[99]).retry, Retry::Now);
        assert!(diagnosis(401, "invalid_client", &[]).shared);
        assert_eq!(diagnosis(400, "access_denied", &[]).class, ErrorClass::ConsentMissing);
    }
}
