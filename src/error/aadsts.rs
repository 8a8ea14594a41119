//! Entra's error codes and their meaning. Source: `MicrosoftDocs/entra-docs`, `reference-error-codes.md`,
//! according to which codes are hints: for an unknown code, the HTTP status and the `error` word decide.

use std::time::Duration;

use super::{Diagnosis, ErrorClass, Owner, Retry};

pub(super) fn diagnosis(status: u16, error: &str, codes: &[u32]) -> Diagnosis {
    let known = |code: &u32| KNOWN_CODES.iter().find(|known| known.codes.contains(code));
    codes.iter().find_map(known).map_or_else(|| unknown(status, error), KnownCode::diagnosis)
}

/// Codes with one cause and one fix.
#[derive(Debug, Clone, Copy)]
pub struct KnownCode {
    /// The numbers after `AADSTS`.
    pub codes: &'static [u32],
    class: ErrorClass,
    owner: Owner,
    retry: Retry,
    shared: bool,
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

    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            shared: self.shared,
            ..Diagnosis::new(self.class, self.owner, self.retry, self.advice)
        }
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
        ErrorClass::NotLicensed,
        &[500_011],
        "The tenant has no Microsoft 365 Defender service principal. The customer must open security.microsoft.com once; if that does not help, check cloud and scope",
    ),
    customer(
        ErrorClass::NotLicensed,
        &[650_052],
        "The customer has no subscription to the service",
    ),
    operator(
        &[650_057, 50_001, 70_011, 28_002, 700_022, 700_023],
        "Entra does not accept the scope. Check cloud, scope and token_version",
    ),
    operator(
        &[90_002, 900_023, 50_059, 50_128, 90_019],
        "Entra has no tenant with this id. Check id and cloud",
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
        "The tenant's security policy blocks the app. The customer's admin must exempt it",
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

fn unknown(status: u16, error: &str) -> Diagnosis {
    match error {
        "temporarily_unavailable" | "server_error" => soon(),
        _ if status >= 500 || status == 408 => soon(),
        "invalid_client" => credential(&[], "Entra refused the app's credential").diagnosis(),
        "unauthorized_client" | "consent_required" | "interaction_required" | "access_denied" | "permission_denied" => {
            customer(
                ErrorClass::ConsentMissing,
                &[],
                "The app may not sign in to the tenant. The customer's admin must open the consent link (incident-sync consent-url)",
            )
            .diagnosis()
        }
        _ => operator(&[], "Entra refused the token request. Look up the AADSTS code").diagnosis(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn unknown_code_falls_back_to_error_word() {
        assert_eq!(diagnosis(400, "invalid_request", &[1]).retry, Retry::OnceFixed);
        assert_eq!(diagnosis(503, "invalid_request", &[]).retry, Retry::Now);
        assert_eq!(diagnosis(400, "temporarily_unavailable", &[99]).retry, Retry::Now);
        assert!(diagnosis(401, "invalid_client", &[]).shared);
    }
}
