//! The managed identity service of an Azure machine, for user-assigned identities.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::TimeDelta;
use serde_json::json;

use super::Service;
use super::response::Answer;

/// `GET /metadata/identity/oauth2/token`.
pub(super) async fn token(
    State(service): State<Service>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let answer = answer(&service, &query, &headers);
    service.reply(answer, &headers)
}

fn answer(service: &Service, query: &HashMap<String, String>, headers: &HeaderMap) -> Answer {
    let refuse = |text: &str| {
        Answer::new(400, json!({"error": "invalid_request", "error_description": text}).to_string())
    };
    // Both reject requests that a server was tricked into sending.
    if headers.get("metadata").is_none_or(|value| value != "true")
        || headers.contains_key("x-forwarded-for")
    {
        return refuse("Required metadata header not specified");
    }
    let parameter = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    if parameter("api-version") < "2018-02-01" {
        return refuse("Invalid api-version");
    }
    let now = service.world.now();
    let Some(identity) = service.world.identity(parameter("client_id")) else {
        return refuse("Identity not found");
    };
    let ends = now + TimeDelta::hours(24);
    let body = json!({
        "access_token": identity.token(parameter("resource"), now, ends),
        "client_id": parameter("client_id"),
        "expires_in": "86400",
        "expires_on": ends.timestamp().to_string(),
        "not_before": now.timestamp().to_string(),
        "resource": parameter("resource"),
        "token_type": "Bearer",
    });
    Answer::new(200, body.to_string())
}
