//! Entra's two consent pages, with an admin who has signed in and behaves as the tenant's [`Admin`].

use std::collections::HashMap;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use url::Url;
use uuid::Uuid;

use super::Service;
use super::fault::entra_error;
use super::response::Answer;
use super::source::Roles;

/// The redirect URIs of the registration.
const REGISTERED: [&str; 2] = ["https://portal.azure.com", "http://localhost/consent"];

/// The behaviour of a customer's admin at the consent page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Admin {
    /// Accepts.
    #[default]
    Accepts,
    /// Cancels.
    Declines,
    /// Is not a Global Administrator.
    HasNoRights,
}

type Parameters = HashMap<String, String>;

/// An error page without a redirect: AADSTS number and message.
type Refusal = (u32, &'static str);

/// `GET /{tenant}/v2.0/adminconsent`.
pub(super) async fn v2(
    State(service): State<Service>,
    Path(directory): Path<String>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    let is_default = parameters.get("scope").is_some_and(|scope| scope.ends_with("/.default"));
    let answer = if is_default {
        page(&service, &directory, "organizations", &parameters)
    } else {
        Err((70_011, "The provided value for the input parameter 'scope' isn't valid."))
    };
    service.reply(shown(&service, answer), &headers)
}

/// `GET /{tenant}/adminconsent`.
pub(super) async fn v1(
    State(service): State<Service>,
    Path(directory): Path<String>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    service.reply(shown(&service, page(&service, &directory, "common", &parameters)), &headers)
}

fn shown(service: &Service, answer: Result<Answer, Refusal>) -> Answer {
    answer.unwrap_or_else(|(code, text)| {
        Answer::new(400, entra_error("invalid_request", code, text, service.world.now()))
    })
}

/// The redirect of the admin's browser.
fn page(
    service: &Service,
    directory: &str,
    any: &str,
    parameters: &Parameters,
) -> Result<Answer, Refusal> {
    let of = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    if of("client_id") != service.client_id {
        return Err((700_016, "The application was not found."));
    }
    let mut back = registered(of("redirect_uri")).ok_or((
        50_011,
        "The redirect URI does not match the redirect URIs configured for the application.",
    ))?;
    let tenant = if directory == any {
        // The admin of the first tenant without a complete consent signs in.
        let asked = service.world.registered();
        let lacks = |id: &Uuid| {
            service.world.with(*id, |tenant| {
                tenant.spec.behaviour.consent_missing || tenant.consented.and(asked) != asked
            })
        };
        service.world.tenants().into_iter().find(lacks)
    } else {
        directory.parse().ok().filter(|id| service.world.has_tenant(*id))
    };
    let tenant = tenant.ok_or((90_002, "The tenant was not found."))?;
    let asked = service.world.registered();
    let admin = service.world.with(tenant, |tenant| {
        let behaviour = &mut tenant.spec.behaviour;
        if behaviour.admin == Admin::Accepts {
            let before = if behaviour.consent_missing { Roles::NONE } else { tenant.consented };
            tenant.consented = before.or(asked);
            behaviour.consent_missing = false;
        }
        behaviour.admin
    });
    let tenant = tenant.to_string();
    let mut answered = vec![("admin_consent", "True"), ("state", of("state"))];
    answered.extend(match admin {
        Admin::Accepts => [("tenant", tenant.as_str()), ("scope", of("scope"))],
        Admin::Declines => [
            ("error", "consent_required"),
            (
                "error_description",
                "AADSTS65004: User declined to consent to access the app. Trace ID: 0000aaaa",
            ),
        ],
        Admin::HasNoRights => [
            ("error", "access_denied"),
            (
                "error_description",
                "AADSTS90094: The grant requires admin permission. Trace ID: 0000aaaa",
            ),
        ],
    });
    back.query_pairs_mut().extend_pairs(answered);
    Ok(Answer {
        status: 302,
        body: Vec::new(),
        headers: vec![("Location".to_owned(), back.to_string())],
    })
}

/// Whether a redirect URI is registered: exact, except for the port of a loopback address.
fn registered(redirect_uri: &str) -> Option<Url> {
    let url = Url::parse(redirect_uri).ok()?;
    let mut portless = url.clone();
    let is_registered = if url.host_str() == Some("localhost") && portless.set_port(None).is_ok() {
        REGISTERED.contains(&portless.as_str())
    } else {
        REGISTERED.contains(&redirect_uri)
    };
    is_registered.then_some(url)
}
