//! Bodies within limits, and fields of JSON objects without decoding the rest.

use reqwest::Response;
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::transport;
use crate::error::{Peer, SyncError, shown};

/// Reads a body as text, at most `bytes_max` bytes after decompression. Invalid UTF-8 is replaced.
pub(crate) async fn read_text(
    response: Response,
    peer: Peer,
    bytes_max: usize,
) -> Result<String, SyncError> {
    let part = read_part(response, peer, bytes_max, || None).await?;
    if part.is_cut { Err(SyncError::BodyTooLarge { peer, bytes_max }) } else { Ok(part.text) }
}

/// A body, or its beginning.
pub(crate) struct Part {
    pub(crate) text: String,
    /// Whether it was longer than it may be.
    pub(crate) is_cut: bool,
}

/// Reads the beginning of a body. `more` is asked for a higher limit when the first one is reached.
pub(crate) async fn read_part(
    mut response: Response,
    peer: Peer,
    mut bytes_max: usize,
    mut more: impl FnMut() -> Option<usize>,
) -> Result<Part, SyncError> {
    let announced =
        response.content_length().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let mut body = Vec::with_capacity(announced.min(bytes_max));
    let mut is_cut = false;
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(peer, error))? {
        if body.len() + chunk.len() > bytes_max {
            bytes_max = more().unwrap_or(bytes_max);
        }
        is_cut = body.len() + chunk.len() > bytes_max;
        body.extend_from_slice(&chunk[..chunk.len().min(bytes_max - body.len())]);
        if is_cut {
            break;
        }
    }
    let text = match String::from_utf8(body) {
        Ok(text) => text,
        Err(error) if is_cut && error.utf8_error().error_len().is_none() => {
            let valid = error.utf8_error().valid_up_to();
            let mut body = error.into_bytes();
            body.truncate(valid);
            String::from_utf8_lossy(&body).into_owned()
        }
        Err(error) => repaired(error.as_bytes(), bytes_max)
            .ok_or(SyncError::BodyTooLarge { peer, bytes_max })?,
    };
    Ok(Part { text, is_cut })
}

/// The text with each invalid sequence replaced; `None` if that is more than `bytes_max`: U+FFFD is three times as long as the
/// byte that it replaces.
fn repaired(body: &[u8], bytes_max: usize) -> Option<String> {
    let replacement =
        |chunk: &std::str::Utf8Chunk<'_>| if chunk.invalid().is_empty() { "" } else { "\u{fffd}" };
    let length: usize =
        body.utf8_chunks().map(|chunk| chunk.valid().len() + replacement(&chunk).len()).sum();
    if length > bytes_max {
        return None;
    }
    let mut text = String::with_capacity(length);
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.push_str(replacement(&chunk));
    }
    Some(text)
}

/// Microsoft's errors have a few hundred bytes; the rest of a longer one is not read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Reads the beginning of an error's body. An incomplete body is accepted, because the status is known.
pub(crate) async fn read_refusal(mut response: Response, peer: Peer) -> Result<String, SyncError> {
    let mut body = Vec::new();
    while body.len() < REFUSAL_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                body.extend_from_slice(&chunk[..chunk.len().min(REFUSAL_BYTES_MAX - body.len())]);
            }
            Err(error) if error.is_timeout() => return Err(transport(peer, error)),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The value of this field of a JSON object, the last one if it is repeated. Other values are not decoded, and reading ends at
/// the first syntax error.
pub(crate) fn field<'a>(json: &'a str, name: &str) -> Option<&'a RawValue> {
    fields(json, name).pop()
}

/// Every value of this field of a JSON object.
pub(crate) fn fields<'a>(json: &'a str, name: &str) -> Vec<&'a RawValue> {
    struct Fields<'n, 'a>(&'n str, &'n mut Vec<&'a RawValue>);
    impl<'de> Visitor<'de> for Fields<'_, 'de> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<String>()? {
                if key == self.0 {
                    self.1.push(object.next_value()?);
                } else {
                    object.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }
    let mut found = Vec::new();
    // The fields before a syntax error are enough.
    let _ = serde_json::Deserializer::from_str(json).deserialize_map(Fields(name, &mut found));
    found
}

/// A text field of a JSON object, safe to show; empty if it is missing or not text.
pub(crate) fn word(json: &str, name: &str) -> String {
    let text = field(json, name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    shown(&text.unwrap_or_default())
}
