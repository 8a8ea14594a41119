//! Scripted replies of the two endpoints, and the log of their calls.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Entra's token endpoints.
    Token,
    /// The incidents API, list and single.
    Incidents,
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
    /// A status with the error body of the Defender APIs.
    pub fn defender(code: u16, error: &str) -> Self {
        Self::Status {
            code,
            body: defender_error(error, "Scripted by the simulator."),
            headers: Vec::new(),
        }
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
    /// The decoded query string; the path for a single incident; empty for the token endpoints.
    pub query: String,
    /// The status of the response; 0 until it is sent.
    pub status: u16,
}

/// `target` is the tracking id for Microsoft's support; constant here, so that logs can be compared.
const TARGET: &str = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a";

pub(super) fn defender_error(code: &str, message: &str) -> String {
    json!({"error": {"code": code, "message": message, "target": TARGET}}).to_string()
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
