//! What a test can make the two endpoints do, and what they remember of their callers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

/// The two kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Entra's token endpoints.
    Token,
    /// The incidents API, list and single.
    Incidents,
}

/// What one request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptedReply {
    /// The normal answer.
    Pass,
    /// This status, body and headers. `Content-Type: application/json` unless a header says otherwise.
    Status {
        /// The HTTP status.
        code: u16,
        /// The body as it is.
        body: String,
        /// Name and value.
        headers: Vec<(String, String)>,
    },
    /// No answer until the client gives up or the simulator stops.
    Hang,
    /// The normal answer, but the connection breaks after so many bytes of its body.
    CutBody {
        /// How many bytes arrive.
        after_bytes: usize,
    },
    /// 200 with this body.
    Body(String),
    /// The normal answer, its body in small pieces with a pause before each.
    Drip {
        /// How many bytes a piece has.
        bytes: usize,
        /// The pause.
        every: Duration,
    },
    /// The normal answer, this much later.
    Delay(Duration),
    /// 401, and every token issued to the tenant so far is worth nothing from now on.
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

    /// A refusal of Entra's, such as `(401, "invalid_client", 7000222)`.
    pub fn entra(code: u16, error: &str, aadsts: u32) -> Self {
        Self::Status {
            code,
            body: entra_error(error, aadsts, "Scripted by the simulator.", DateTime::UNIX_EPOCH),
            headers: Vec::new(),
        }
    }
}

/// One request that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which endpoint.
    pub endpoint: Endpoint,
    /// When, by the simulator's clock.
    pub at: DateTime<Utc>,
    /// The decoded query string; for a single incident its path; empty for the token endpoints.
    pub query: String,
    /// The answer's status; 0 while there is none.
    pub status: u16,
}

/// `target` is the tracking id that Microsoft's support asks for; it is fixed here so that a log can be compared.
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
