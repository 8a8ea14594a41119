//! Entra's error codes and what they mean for us. Source: `MicrosoftDocs/entra-docs`, `reference-error-codes.md`,
//! which also says that codes are hints: the HTTP status and the `error` word decide where a code is unknown.

use std::time::Duration;

use super::{Diagnosis, Owner, Retry};

pub(super) fn diagnosis(status: u16, error: &str, codes: &[u32]) -> Diagnosis {
    let known = |code: &u32| KNOWN_CODES.iter().find(|known| known.codes.contains(code));
    codes.iter().find_map(known).map_or_else(|| unknown(status, error), KnownCode::diagnosis)
}

/// Codes with one cause and one remedy.
#[derive(Debug, Clone, Copy)]
pub struct KnownCode {
    /// The numbers behind `AADSTS`.
    pub codes: &'static [u32],
    class: &'static str,
    owner: Owner,
    retry: Retry,
    shared: bool,
    advice: &'static str,
}

impl KnownCode {
    const fn new(
        class: &'static str,
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

/// Every tenant of the app fails alike.
const fn credential(codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode { shared: true, ..KnownCode::new("credential", Owner::Operator, codes, advice) }
}

const fn operator(codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode::new("tenant_config", Owner::Operator, codes, advice)
}

const fn customer(class: &'static str, codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode::new(class, Owner::CustomerAdmin, codes, advice)
}

const fn bug(codes: &'static [u32], advice: &'static str) -> KnownCode {
    KnownCode::new("bug", Owner::Developers, codes, advice)
}

const fn slow(codes: &'static [u32], seconds: u64, advice: &'static str) -> KnownCode {
    let retry = Retry::After(Duration::from_secs(seconds));
    KnownCode { retry, ..KnownCode::new("throttled", Owner::Nobody, codes, advice) }
}

/// The codes that we know. `docs/reference/errors.md` lists them for operators.
pub const KNOWN_CODES: &[KnownCode] = &[
    credential(
        &[7_000_215, 70_002],
        "The client secret is wrong (often the secret's id was pasted instead of its value); put the right one into client_secret_file",
    ),
    credential(
        &[7_000_222],
        "The client secret has expired; create a new one in the app registration and put it into client_secret_file",
    ),
    bug(
        &[7_000_218, 901_002],
        "Entra misses a field of the token request; check token_version, else report it",
    ),
    bug(
        &[50_034, 50_173, 70_008, 70_043, 700_082],
        "Entra answers as if a person or a refresh token had signed in, and incident-sync uses neither; check authority and the network path, else report it",
    ),
    credential(
        &[700_025],
        "The app registration allows public clients only; make it a confidential client",
    ),
    credential(
        &[700_027],
        "Entra does not know the certificate that signed the assertion, or it has expired; upload a valid one to the app registration",
    ),
    credential(
        &[700_030],
        "Entra does not accept the certificate's subject name; use a certificate whose subject the app registration allows",
    ),
    credential(
        &[50_013],
        "Entra cannot verify the assertion's signature by a key that it knows; check the certificate in the app registration, or the federated issuer and its published keys",
    ),
    credential(
        &[700_024, 50_012, 500_133],
        "The assertion is outside its time of validity; check this machine's clock and the certificate's dates",
    ),
    customer(
        "consent_missing",
        // 7000229 comes with `invalid_client`, which else would be the app's own credential.
        &[700_016, 700_011, 7_000_229],
        "The app is not known in the tenant; the customer's admin must open the consent link (incident-sync consent-url)",
    ),
    customer(
        "consent_missing",
        &[65_001, 90_094, 90_008],
        "The customer's admin has not consented; send the consent link (incident-sync consent-url)",
    ),
    customer(
        "consent_missing",
        &[65_004],
        "Somebody at the customer declined to consent; ask the admin, and send the consent link again (incident-sync consent-url)",
    ),
    customer(
        "consent_missing",
        &[650_051],
        "Entra has not finished an earlier consent in this tenant; wait a minute, then open the consent link again (incident-sync consent-url)",
    ),
    customer(
        "app_disabled",
        &[70_001, 1_000_031],
        "The app is disabled in the tenant; the customer's admin must enable it under enterprise applications",
    ),
    customer(
        "app_disabled",
        &[7_000_112],
        "The app is disabled: in this tenant, where the customer's admin must enable it under enterprise applications; or, if every customer shows this, your own registration by you or by Microsoft",
    ),
    customer(
        "not_licensed",
        &[500_011],
        "The tenant has no Microsoft 365 Defender service principal; the customer must open security.microsoft.com once, or cloud and scope are wrong",
    ),
    customer("not_licensed", &[650_052], "The customer has not subscribed to the service"),
    operator(
        &[650_057, 50_001, 70_011, 28_002, 700_022, 700_023],
        "Entra does not accept the scope; check cloud, scope and token_version",
    ),
    operator(
        &[90_002, 900_023, 50_059, 50_128, 90_019],
        "Entra does not know the tenant; check its id and the cloud",
    ),
    operator(
        &[9_001_023, 90_124, 90_130],
        "The tenant id must be the customer's own, not common or consumers",
    ),
    credential(
        &[50_194],
        "The app registration is not multi-tenant; change its supported account types",
    ),
    operator(
        &[90_038, 900_382, 900_432],
        "The tenant belongs to another national cloud; set cloud for it",
    ),
    customer(
        "conditional_access",
        &[53_003, 530_032, 530_035],
        "The tenant's security policy blocks the app; the customer's admin must exempt it",
    ),
    operator(
        &[500_021, 500_022],
        "A tenant restriction on the network path blocks the token request",
    ),
    slow(&[90_055], 60, "Entra throttles the tenant"),
    slow(&[50_196], 300, "Entra detected a loop of identical token requests"),
    KnownCode {
        retry: Retry::Now,
        ..KnownCode::new(
            "upstream",
            Owner::Nobody,
            &[50_033, 90_006, 90_012, 90_024, 90_025, 90_033, 90_090, 90_091],
            UNAVAILABLE,
        )
    },
    KnownCode::new(
        "upstream",
        Owner::Operator,
        &[90_036, 90_092],
        "Entra failed for good; open a ticket with Microsoft and give the trace id",
    ),
    credential(
        &[
            70_021, 700_211, 700_213, 7_002_121, 70_025, 70_052, 700_222, 700_223, 700_226,
            700_227, 700_229, 700_236, 700_238,
        ],
        "The federated credential does not match; check issuer, subject and audience in the app registration",
    ),
];

const UNAVAILABLE: &str = "Entra is unwell; it is tried again";

fn soon() -> Diagnosis {
    Diagnosis::new("upstream", Owner::Nobody, Retry::Now, UNAVAILABLE)
}

fn unknown(status: u16, error: &str) -> Diagnosis {
    match error {
        "temporarily_unavailable" | "server_error" => soon(),
        _ if status >= 500 || status == 408 => soon(),
        "invalid_client" => credential(&[], "Entra refuses the app's credential").diagnosis(),
        "unauthorized_client" | "consent_required" | "interaction_required" | "access_denied" | "permission_denied" => {
            customer(
                "consent_missing",
                &[],
                "The app may not sign in to the tenant; the customer's admin must open the consent link",
            )
            .diagnosis()
        }
        _ => operator(&[], "Entra refuses the token request; look the AADSTS code up").diagnosis(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_code_wins_over_the_word() {
        let secret = diagnosis(401, "invalid_client", &[7_000_222]);
        assert_eq!(
            (secret.owner, secret.retry, secret.shared),
            (Owner::Operator, Retry::OnceFixed, true)
        );
        let consent = diagnosis(400, "invalid_client", &[700_016]);
        assert_eq!(
            (consent.owner, consent.class, consent.shared),
            (Owner::CustomerAdmin, "consent_missing", false)
        );
        assert!(
            !diagnosis(401, "invalid_client", &[7_000_229]).shared,
            "one tenant's lack must not hold up the others"
        );
    }

    #[test]
    fn an_unknown_code_gets_a_safe_default() {
        assert_eq!(diagnosis(400, "invalid_request", &[1]).retry, Retry::OnceFixed);
        assert_eq!(diagnosis(503, "invalid_request", &[]).retry, Retry::Now);
        assert_eq!(diagnosis(400, "temporarily_unavailable", &[99]).retry, Retry::Now);
        assert!(diagnosis(401, "invalid_client", &[]).shared);
    }
}
