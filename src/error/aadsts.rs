//! Entra's error codes and what they mean for us. Source: `MicrosoftDocs/entra-docs`, `reference-error-codes.md`,
//! which also says that codes are hints: the HTTP status and the `error` word decide where a code is unknown.

use super::{Actor, Verdict, Wait};

pub(super) fn verdict(status: u16, error: &str, codes: &[u32]) -> Verdict {
    codes.iter().find_map(|code| known(*code)).unwrap_or_else(|| unknown(status, error))
}

fn credential(say: &str) -> Verdict {
    Verdict { shared: true, ..Verdict::new("credential", Actor::Operator, Wait::UntilActed, say) }
}

fn operator(say: &str) -> Verdict {
    Verdict::new("tenant_config", Actor::Operator, Wait::UntilActed, say)
}

fn customer(class: &'static str, say: &str) -> Verdict {
    Verdict::new(class, Actor::CustomerAdmin, Wait::UntilActed, say)
}

fn known(code: u32) -> Option<Verdict> {
    Some(match code {
        7_000_215 | 70_002 => credential(
            "The client secret is wrong (often the secret's id was pasted instead of its value); put the right one into client_secret_file",
        ),
        7_000_222 => credential(
            "The client secret has expired; create a new one in the app registration and put it into client_secret_file",
        ),
        7_000_218 | 901_002 => Verdict::new(
            "bug",
            Actor::Us,
            Wait::UntilActed,
            "Entra misses a field of the token request; check token_version, else report it",
        ),
        700_025 => credential("The app registration allows public clients only; make it a confidential client"),
        700_027 | 700_030 => credential(
            "Entra does not know the certificate that signed the assertion; upload it to the app registration",
        ),
        700_024 | 50_012 | 50_013 | 500_133 => credential(
            "The assertion is outside its time of validity; check this machine's clock and the certificate's dates",
        ),
        700_016 | 700_011 => customer(
            "consent_missing",
            "The app is not known in the tenant; the customer's admin must open the consent link (incident-sync consent-url)",
        ),
        65_001 | 90_094 | 90_008 => customer(
            "consent_missing",
            "The customer's admin has not consented; send the consent link (incident-sync consent-url)",
        ),
        70_001 | 7_000_112 | 1_000_031 => customer(
            "app_disabled",
            "The app is disabled in the tenant; the customer's admin must enable it under enterprise applications",
        ),
        500_011 => customer(
            "not_licensed",
            "The tenant has no Microsoft 365 Defender service principal; the customer must open security.microsoft.com once, or cloud and scope are wrong",
        ),
        650_052 => customer("not_licensed", "The customer has not subscribed to the service"),
        650_057 | 50_001 | 70_011 | 28_002 | 700_022 | 700_023 => {
            operator("Entra does not accept the scope; check cloud, scope and token_version")
        }
        90_002 | 900_023 | 50_059 | 50_128 | 90_019 => {
            operator("Entra does not know the tenant; check its id and the cloud")
        }
        9_001_023 | 90_124 | 90_130 => operator("The tenant id must be the customer's own, not common or consumers"),
        50_194 => credential("The app registration is not multi-tenant; change its supported account types"),
        90_038 | 900_382 | 900_432 => operator("The tenant belongs to another national cloud; set cloud for it"),
        53_003 | 530_032 | 530_035 => customer(
            "conditional_access",
            "The tenant's security policy blocks the app; the customer's admin must exempt it",
        ),
        500_021 | 500_022 => operator("A tenant restriction on the network path blocks the token request"),
        90_055 => slow("Entra throttles the tenant", 60),
        50_196 => slow("Entra detected a loop of identical token requests", 300),
        50_033 | 90_006 | 90_012 | 90_024 | 90_025 | 90_033 | 90_090 | 90_091 => soon(),
        90_036 | 90_092 => Verdict::new(
            "upstream",
            Actor::Operator,
            Wait::UntilActed,
            "Entra failed for good; open a ticket with Microsoft and give the trace id",
        ),
        70_021 | 700_211 | 700_213 | 7_002_121 | 70_025 | 70_052 | 700_222 | 700_223 | 700_226 | 700_227 | 700_229
        | 700_236 | 700_238 => credential(
            "The federated credential does not match; check issuer, subject and audience in the app registration",
        ),
        _ => return None,
    })
}

fn soon() -> Verdict {
    Verdict::new("upstream", Actor::Nobody, Wait::Soon, "Entra is unwell; it is tried again")
}

fn slow(say: &str, seconds: u64) -> Verdict {
    Verdict::new("throttled", Actor::Nobody, Wait::AtLeast(std::time::Duration::from_secs(seconds)), say)
}

fn unknown(status: u16, error: &str) -> Verdict {
    match error {
        "temporarily_unavailable" | "server_error" => soon(),
        _ if status >= 500 || status == 408 => soon(),
        "invalid_client" => credential("Entra refuses the app's credential"),
        "unauthorized_client" | "consent_required" | "interaction_required" | "access_denied" => customer(
            "consent_missing",
            "The app may not sign in to the tenant; the customer's admin must open the consent link",
        ),
        _ => operator("Entra refuses the token request; look the AADSTS code up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_code_wins_over_the_word() {
        let secret = verdict(401, "invalid_client", &[7_000_222]);
        assert_eq!((secret.who, secret.wait, secret.shared), (Actor::Operator, Wait::UntilActed, true));
        let consent = verdict(400, "invalid_client", &[700_016]);
        assert_eq!((consent.who, consent.class, consent.shared), (Actor::CustomerAdmin, "consent_missing", false));
    }

    #[test]
    fn an_unknown_code_gets_a_safe_default() {
        assert_eq!(verdict(400, "invalid_request", &[1]).wait, Wait::UntilActed);
        assert_eq!(verdict(503, "invalid_request", &[]).wait, Wait::Soon);
        assert_eq!(verdict(400, "temporarily_unavailable", &[99]).wait, Wait::Soon);
        assert!(verdict(401, "invalid_client", &[]).shared);
    }
}
