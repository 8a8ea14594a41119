//! Scripted replies of the endpoints, and the log of their calls.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::source::Source;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Entra's token endpoints.
    Token,
    /// Defender's incidents API, list and single.
    Incidents,
    /// Graph's incidents: list, single, and the alerts of one.
    GraphIncidents,
    /// Graph's list of all alerts, and a single one.
    GraphAlerts,
}

impl Endpoint {
    /// The API of this endpoint; `None` for Entra.
    pub fn source(self) -> Option<Source> {
        match self {
            Self::Token => None,
            Self::Incidents => Some(Source::Defender),
            Self::GraphIncidents | Self::GraphAlerts => Some(Source::Graph),
        }
    }
}

/// The reply to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptedReply {
    /// The normal response.
    Pass,
    /// This status, body and headers. `Content-Type: application/json` unless the headers contain another one.
    Status { code: u16, body: String, headers: Vec<(String, String)> },
    /// No response until the client disconnects or the simulator stops.
    Hang,
    /// The normal response, but the connection breaks within its body.
    CutBody {
        /// The number of bytes that arrive.
        after_bytes: usize,
    },
    /// 200 with this body.
    Body(String),
    /// The normal response, with the body in pieces and a pause before each.
    Drip {
        /// Bytes of a piece.
        bytes: usize,
        every: Duration,
    },
    /// The normal response after a delay.
    Delay(Duration),
    /// 401, which also revokes every token issued to the tenant so far.
    ExpireToken,
}

impl ScriptedReply {
    /// An answer of a recorded case: `status`, `headers`, and `body` as JSON or `body_text`.
    ///
    /// # Panics
    /// If the case has no status.
    pub fn recorded(answer: &Value) -> Self {
        let status = answer["status"].as_u64().and_then(|status| status.try_into().ok());
        let headers = answer["headers"].as_object().into_iter().flatten();
        let text = answer["body_text"].as_str().map(str::to_owned);
        Self::Status {
            code: status.expect("a recorded answer has a status"),
            body: text.unwrap_or_else(|| answer["body"].to_string()),
            headers: headers
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
        }
    }

    /// A status with the error body of the Defender APIs.
    pub fn defender(code: u16, error: &str) -> Self {
        Self::Status {
            code,
            body: defender_error(error, "Scripted by the simulator."),
            headers: Vec::new(),
        }
    }

    /// A status with the error body of Graph.
    pub fn graph(code: u16, error: &str) -> Self {
        let body = graph_error(error, "Scripted by the simulator.", None);
        Self::Status { code, body, headers: Vec::new() }
    }

    /// 429 with `Retry-After`.
    pub fn throttled(seconds: u64) -> Self {
        Self::Status {
            code: 429,
            body: defender_error("TooManyRequests", "Scripted by the simulator."),
            headers: vec![("Retry-After".to_owned(), seconds.to_string())],
        }
    }

    /// An error of Entra, such as `(401, "invalid_client", 7000222)`.
    pub fn entra(code: u16, error: &str, aadsts: u32) -> Self {
        Self::Status {
            code,
            body: entra_error(error, aadsts, "Scripted by the simulator.", DateTime::UNIX_EPOCH),
            headers: Vec::new(),
        }
    }
}

/// A received request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub endpoint: Endpoint,
    /// By the simulator's clock.
    pub at: DateTime<Utc>,
    /// The decoded query string; for a single incident or alert the path first; empty for the token endpoints.
    pub query: String,
    /// The status of the response; 0 until it is sent.
    pub status: u16,
}

/// `target` is the tracking id for Microsoft's support; constant here, so that logs can be compared.
const TARGET: &str = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a";

pub(super) fn defender_error(code: &str, message: &str) -> String {
    json!({"error": {"code": code, "message": message, "target": TARGET}}).to_string()
}

/// What Graph calls a request that did not name itself, in its headers and errors.
pub(super) const REQUEST_ID: &str = "65fe78a8-cade-409c-9e18-61374c132118";

pub(super) fn graph_error(code: &str, message: &str, client_request_id: Option<&str>) -> String {
    let inner = json!({
        "date": "2025-01-11T19:43:26",
        "request-id": REQUEST_ID,
        "client-request-id": client_request_id.unwrap_or(REQUEST_ID),
    });
    let mut error = json!({"code": code, "message": message, "innerError": inner});
    if code.is_empty() {
        error["details"] = json!([]);
    }
    json!({"error": error}).to_string()
}

pub(super) fn entra_error(error: &str, aadsts: u32, text: &str, now: DateTime<Utc>) -> String {
    let timestamp = now.format("%Y-%m-%d %H:%M:%SZ").to_string();
    let (trace, correlation) =
        ("0000aaaa-11bb-cccc-dd33-eeeeee333333", "aaaa0000-bb11-2222-33cc-444444dddddd");
    json!({
        "error": error,
        "error_description": format!(
            "AADSTS{aadsts}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}"
        ),
        "error_codes": [aadsts],
        "timestamp": timestamp,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": format!("https://login.microsoftonline.com/error?code={aadsts}"),
    })
    .to_string()
}
