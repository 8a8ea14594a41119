//! Entra's two token endpoints, for the client credentials flow.

use std::collections::HashMap;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use super::Service;
use super::fault::{Endpoint, entra_error};
use super::response::Answer;
use super::source::Roles;
use super::world::Issued;

/// The parameters of a token request.
type Form = HashMap<String, String>;

/// `POST /{tenant}/oauth2/v2.0/token`.
pub(super) async fn v2(
    State(service): State<Service>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(&service, &tenant, &headers, &body, Version::V2).await
}

/// `POST /{tenant}/oauth2/token`.
pub(super) async fn v1(
    State(service): State<Service>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(&service, &tenant, &headers, &body, Version::V1).await
}

#[derive(Clone, Copy, PartialEq)]
enum Version {
    V1,
    V2,
}

/// An error without its time: HTTP status, `error`, AADSTS number, message.
type Refusal = (u16, &'static str, u32, String);

async fn answer(
    service: &Service,
    tenant: &str,
    headers: &HeaderMap,
    body: &[u8],
    version: Version,
) -> Response {
    let form: Form = form_urlencoded::parse(body).into_owned().collect();
    let tenant = match known_tenant(service, tenant) {
        Ok(tenant) => tenant,
        Err(refusal) => return service.reply(refuse(refusal, service.world.now()), headers),
    };
    service
        .serve(tenant, Endpoint::Token, String::new(), headers, || {
            let now = service.world.now();
            match requested_resource(service, tenant, &form, version) {
                Ok(resource) => issue(service, tenant, &resource, version, now),
                Err(refusal) => refuse(refusal, now),
            }
        })
        .await
}

fn refuse((status, error, aadsts, text): Refusal, now: DateTime<Utc>) -> Answer {
    Answer::new(status, entra_error(error, aadsts, &text, now))
}

fn known_tenant(service: &Service, tenant: &str) -> Result<Uuid, Refusal> {
    let id = tenant.parse().map_err(|_| {
        (
            400,
            "invalid_request",
            900_023,
            format!("Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external domain."),
        )
    })?;
    if service.world.has_tenant(id) {
        Ok(id)
    } else {
        Err((
            400,
            "invalid_request",
            90_002,
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."
            ),
        ))
    }
}

/// Checks the request and returns the audience of the token.
fn requested_resource(
    service: &Service,
    tenant: Uuid,
    form: &Form,
    version: Version,
) -> Result<String, Refusal> {
    let field = |name: &str| form.get(name).map(String::as_str);
    if field("grant_type") != Some("client_credentials") {
        return Err((
            400,
            "unsupported_grant_type",
            70_003,
            "The app requested an unsupported grant type.".to_owned(),
        ));
    }
    let resource = match version {
        Version::V1 => required(form, "resource")?.to_owned(),
        Version::V2 => {
            if field("resource").is_some() {
                return Err((
                    400,
                    "invalid_request",
                    901_002,
                    "The 'resource' request parameter isn't supported.".to_owned(),
                ));
            }
            let scope = required(form, "scope")?;
            let resource = scope.strip_suffix("/.default");
            resource.ok_or_else(|| (400, "invalid_scope", 70_011, format!("The provided value for the input parameter 'scope' isn't valid. The scope {scope} isn't valid.")))?.to_owned()
        }
    };
    let behaviour = service.world.with(tenant, |tenant| tenant.spec.behaviour);
    let client_id = required(form, "client_id")?;
    if behaviour.consent_missing || client_id != service.client_id {
        return Err((
            400,
            "unauthorized_client",
            700_016,
            format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant."
            ),
        ));
    }
    if !service.world.knows_resource(&resource) {
        return Err((
            400,
            "invalid_resource",
            500_011,
            format!(
                "The resource principal named {resource} was not found in the tenant named {tenant}."
            ),
        ));
    }
    let path = if version == Version::V1 { "oauth2/token" } else { "oauth2/v2.0/token" };
    check_credential(service, form, &format!("{}{tenant}/{path}", service.base))?;
    Ok(resource)
}

fn required<'a>(form: &'a Form, name: &str) -> Result<&'a str, Refusal> {
    form.get(name).map(String::as_str).ok_or_else(|| {
        (
            400,
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{name}'."),
        )
    })
}

/// Compares a secret, or verifies an assertion of an issuer that the app registration trusts.
fn check_credential(service: &Service, form: &Form, endpoint: &str) -> Result<(), Refusal> {
    if let Some(assertion) = form.get("client_assertion") {
        let kind = form.get("client_assertion_type").map(String::as_str);
        if kind != Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer") {
            return Err((
                400,
                "invalid_request",
                50_027,
                "The client_assertion_type is not supported.".to_owned(),
            ));
        }
        let checked = service.world.check_assertion(assertion, &service.client_id, endpoint);
        return checked.map_err(|(code, text)| (401, "invalid_client", code, text.to_owned()));
    }
    match form.get("client_secret") {
        Some(secret) if service.world.is_client_secret(secret) => Ok(()),
        Some(secret) if service.world.is_expired_secret(secret) => Err((401, "invalid_client", 7_000_222, "The provided client secret keys are expired.".to_owned())),
        Some(_) => Err((401, "invalid_client", 7_000_215, "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.".to_owned())),
        None => Err((401, "invalid_client", 7_000_218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.".to_owned())),
    }
}

fn issue(
    service: &Service,
    tenant: Uuid,
    resource: &str,
    version: Version,
    now: DateTime<Utc>,
) -> Answer {
    let (behaviour, lifetime, consented) = service.world.with(tenant, |tenant| {
        (tenant.spec.behaviour, tenant.spec.token_lifetime_s, tenant.consented)
    });
    let roles =
        if behaviour.no_roles { Roles::NONE } else { consented.and(Roles::of_resource(resource)) };
    let expires = now + TimeDelta::seconds(lifetime.cast_signed());
    let tid = behaviour.wrong_tid.unwrap_or(tenant);
    let mut claims = json!({
        "aud": resource,
        "iss": format!("https://sts.windows.net/{tid}/"),
        "tid": tid,
        "appid": service.client_id,
        "roles": roles.names(),
        "iat": now.timestamp(),
        "nbf": now.timestamp(),
        "exp": expires.timestamp(),
        "ver": "1.0",
        // Two tokens of the same second differ, as Entra's do.
        "uti": Uuid::new_v4(),
    });
    if roles == Roles::NONE
        && let Some(claims) = claims.as_object_mut()
    {
        claims.remove("roles");
    }
    let token =
        if behaviour.opaque_token { format!("opaque-{}", Uuid::new_v4()) } else { jwt(&claims) };
    let issued = Issued { tenant, expires, revoked: false, roles };
    service.world.remember(token.clone(), issued);
    let body = match version {
        Version::V1 => json!({
            "token_type": "Bearer",
            "expires_in": lifetime.to_string(),
            "ext_expires_in": lifetime.to_string(),
            "expires_on": expires.timestamp().to_string(),
            "not_before": now.timestamp().to_string(),
            "resource": resource,
            "access_token": token,
        }),
        Version::V2 => json!({
            "token_type": "Bearer",
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": token,
        }),
    };
    Answer::new(200, body.to_string())
}

fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"typ": "JWT", "alg": "RS256", "kid": "simulator"});
    format!("{}.{}.{}", part(&header), part(claims), URL_SAFE_NO_PAD.encode("no signature"))
}
