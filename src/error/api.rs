//! What a refusal of an incidents API means: one row for each status and code.

use std::time::Duration;

use super::diagnosis::{API_PROBE, LONGEST_THROTTLE, throttled};
use super::{Diagnosis, ErrorClass, Owner, Peer, Retry, TokenCheck};
use crate::tenant::Source;

/// What the API answered, and what the token allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    pub(super) status: u16,
    pub(super) code: &'a str,
    pub(super) token: TokenCheck,
    /// Whether the message speaks of a licence or of provisioning.
    pub(super) names_licence: bool,
}

/// Source of the statuses and codes: `MicrosoftDocs/defender-docs`, `api-error-codes.md`; for Graph
/// `microsoft-graph-docs-contrib`, `security-error-codes.md`, and bodies seen in public.
pub(super) fn diagnosis(
    api: Source,
    refusal: Refusal<'_>,
    retry_after: Option<Duration>,
) -> Diagnosis {
    use {ErrorClass as Class, Owner::*, Retry::*};
    let Refusal { status, code, token, names_licence } = refusal;
    let row =
        |class, owner, retry, advice: &'static str| Diagnosis::new(class, owner, retry, advice);
    match status {
        206 => row(
            Class::Upstream,
            Nobody,
            Now,
            "A provider behind the API failed, so the page is incomplete and was not stored; retrying",
        ),
        429 => throttled(Peer::from(api), retry_after),
        401 if names_licence && token == TokenCheck::Valid => not_licensed(api),
        401 => row(
            Class::Unauthorized,
            Nobody,
            WithNewToken,
            "The API did not accept the token; retrying once with a new one",
        ),
        403 => forbidden(api, code, token),
        404 | 410 if api == Source::Graph => row(
            Class::TenantConfig,
            CustomerAdmin,
            OnceFixed,
            "Microsoft Graph has no incidents for this tenant. The customer must complete the setup of Microsoft Defender XDR; if this is so for every tenant, check cloud and base_url",
        ),
        404 | 410 => row(
            Class::TenantConfig,
            Operator,
            OnceFixed,
            "The API does not know this address. Check cloud and base_url",
        ),
        503 => match retry_after {
            Some(pause) => row(
                Class::Upstream,
                Nobody,
                After(pause.min(LONGEST_THROTTLE)),
                "The service is unavailable and asked for a pause; waiting",
            ),
            None => row(Class::Upstream, Nobody, Now, "The service is unavailable; retrying"),
        },
        408 | 500..=599 => row(Class::Upstream, Nobody, Now, "The service failed; retrying"),
        _ => row(
            Class::BadRequest,
            Developers,
            NextRun,
            "The API rejected the request as malformed. Report a bug",
        ),
    }
}

/// The API refuses every tenant: one problem of the operator, not one of each customer.
pub(super) fn retired(api: Source) -> Diagnosis {
    let advice = match api {
        Source::Defender => {
            "The Defender API seems to be retired. Move its tenants: incident-sync tenant move --all --to graph, see docs/operations/runbooks/defender-api-retired.md. If base_url, cloud or the network path was changed, correct that instead. One tenant is tried every 20 minutes; when it is served, all are read again"
        }
        Source::Graph => {
            "Microsoft Graph refuses the incidents of every tenant. Check base_url, cloud, the network path and Microsoft's service health. One tenant is tried every 20 minutes; when it is served, all are read again"
        }
    };
    Diagnosis::new(ErrorClass::ApiRetired, Owner::Operator, Retry::After(API_PROBE), advice)
        .shared()
}

/// A 403 means another thing by the token's roles: without the role it is about consent, with it about the tenant.
fn forbidden(api: Source, code: &str, token: TokenCheck) -> Diagnosis {
    use {ErrorClass as Class, Owner::*, Retry::*};
    let row =
        |class, owner, retry, advice: &'static str| Diagnosis::new(class, owner, retry, advice);
    let permission = api.permission();
    let resource = api.resource();
    match (code, token) {
        ("DisabledFeature", _) => row(
            Class::NotLicensed,
            CustomerAdmin,
            OnceFixed,
            "Microsoft 365 Defender is not enabled in the tenant. The customer must enable or license it",
        ),
        ("DisallowedOperation", _) => row(
            Class::Forbidden,
            Operator,
            OnceFixed,
            "Microsoft does not allow this operation in the tenant. Open a Microsoft support ticket with the tracking id",
        ),
        (_, TokenCheck::RoleMissing) => Diagnosis::new(
            Class::MissingRole,
            CustomerAdmin,
            WithNewToken,
            format!(
                "The token lacks the role {permission}. Add the permission to the app registration; then the customer's admin must consent again"
            ),
        ),
        // The code with which Microsoft names a missing permission.
        ("Authorization_RequestDenied", _) | (_, TokenCheck::Unreadable) => Diagnosis::new(
            Class::Forbidden,
            CustomerAdmin,
            WithNewToken,
            format!(
                "The token may not read incidents. The customer's admin must grant {permission} (application permission of {resource}) with the consent link"
            ),
        ),
        (_, TokenCheck::Valid) => not_licensed(api),
    }
}

/// The token has the role, so consent and permission are in order.
fn not_licensed(api: Source) -> Diagnosis {
    let api = Peer::from(api);
    let advice = format!(
        "The token may read incidents, but {api} denies them in this tenant. The customer must license Microsoft Defender XDR, or complete its setup by opening security.microsoft.com once"
    );
    Diagnosis::new(ErrorClass::NotLicensed, Owner::CustomerAdmin, Retry::OnceFixed, advice)
}
