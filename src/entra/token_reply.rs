//! Parses the responses of a token endpoint into a token or into facts about the error.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{EntraDetails, SyncError, codes_in, first_sentence};
use crate::http_client;

/// A token response has a few kilobytes.
pub(super) const REPLY_BYTES_MAX: usize = 64 * 1024;
/// The range of accepted lifetimes in seconds; others are clamped.
pub(super) const LIFETIME: std::ops::RangeInclusive<u64> = 60..=86_400;
/// The lifetime if the response states none.
const LIFETIME_DEFAULT: u64 = 300;

/// Token and lifetime. v1 sends numbers as strings, v2 as numbers.
pub(super) fn read_reply(body: &str) -> Result<(SecretString, Duration), SyncError> {
    #[derive(Deserialize)]
    struct Reply {
        access_token: Option<SecretString>,
        expires_in: Option<Value>,
    }
    let reply: Reply = serde_json::from_str(body)
        .map_err(|_| SyncError::TokenReply { what: "it is not the JSON of a token response" })?;
    let token = reply.access_token.filter(|token| !token.expose_secret().is_empty());
    let token = token.ok_or(SyncError::TokenReply { what: "access_token is missing" })?;
    // A line break would end the header of the token.
    if !token.expose_secret().bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(SyncError::TokenReply { what: "access_token contains invalid characters" });
    }
    let seconds = match reply.expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, then it is clamped"
    )]
    let seconds = seconds.map_or(LIFETIME_DEFAULT, |seconds: f64| {
        (seconds as u64).clamp(*LIFETIME.start(), *LIFETIME.end())
    });
    Ok((token, Duration::from_secs(seconds)))
}

/// Source: `MicrosoftDocs/entra-docs`, `reference-error-codes.md`. Of the description, which is free text, the first sentence is
/// kept without ids; `claims`, which names policies of the customer, is not read.
pub(super) fn read_error(status: u16, body: &str, retry_after: Option<Duration>) -> SyncError {
    let is_json = serde_json::from_str::<IgnoredAny>(body).is_ok();
    if !is_json && status < 500 && status != 429 {
        return SyncError::TokenReply { what: "it is an error that is not JSON" };
    }
    // Field by field: a malformed one must not hide the others.
    let word = |key: &str| http_client::word(body, key);
    let codes = http_client::field(body, "error_codes").map_or("[]", RawValue::get);
    let codes: Vec<&RawValue> = serde_json::from_str(codes).unwrap_or_default();
    let mut codes: Vec<u32> =
        codes.into_iter().filter_map(|code| code.get().parse().ok()).collect();
    let description = http_client::field(body, "error_description")
        .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
        .unwrap_or_default();
    if codes.is_empty() {
        codes = codes_in(&description);
    }
    let details = EntraDetails {
        trace_id: word("trace_id"),
        sentence: first_sentence(&description),
        ..EntraDetails::default()
    };
    SyncError::Entra {
        status,
        error: word("error"),
        codes,
        retry_after,
        details: Box::new(details),
    }
}
