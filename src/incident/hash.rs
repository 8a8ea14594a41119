//! Hashes that are stored: of an incident's text, and in place of the ids that an API does not give.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::incident::columns::{Columns, CommentColumns, EvidenceColumns, Value};

/// 128 bits of SHA-256: enough that no two texts of one tenant meet, and half the index.
pub type Hash = [u8; 16];

/// Columns that stay out: what changes while the entity stays the same, and what is added later.
const UNHASHED: [&str; 2] = ["verdict", "remediation_status"];

/// The hash of an incident's text as served.
pub fn content_hash(raw: &str) -> Hash {
    shorten(&Sha256::digest(raw.as_bytes()))
}

/// Stands in for a comment's id.
pub fn comment_hash(comment: &CommentColumns<'_>) -> Hash {
    let mut print = Fingerprint(Sha256::new());
    print.columns(comment);
    print.finish()
}

/// The key of an entity, `unknown` being its keys without a column. It is stored, so what goes in, its names and its order
/// must never change.
pub fn evidence_hash(
    evidence: &EvidenceColumns<'_>,
    unknown: &[(Cow<'_, str>, &RawValue)],
) -> Hash {
    let mut print = Fingerprint(Sha256::new());
    print.columns(evidence);
    let mut unknown: Vec<_> = unknown.iter().map(|(key, raw)| (key.as_ref(), raw.get())).collect();
    unknown.sort_unstable();
    for (key, json) in unknown {
        print.text(key, Some(json));
    }
    print.finish()
}

/// The key of an entity that its columns alone do not distinguish from others, with the text that does.
pub fn evidence_hash_with(evidence: &EvidenceColumns<'_>, name: &str, text: &str) -> Hash {
    let mut print = Fingerprint(Sha256::new());
    print.columns(evidence);
    print.text(name, Some(text));
    print.finish()
}

fn shorten(digest: &[u8]) -> Hash {
    std::array::from_fn(|at| digest[at])
}

/// Feeds what is present, each value with its name and length, so that no two contents read alike.
struct Fingerprint(Sha256);

impl Fingerprint {
    /// Texts, then numbers, then times: the order that stored hashes have. Lists stay out.
    fn columns<C: Columns>(&mut self, columns: &C) {
        let fed: Vec<(&str, Value<'_>)> = C::NAMES
            .iter()
            .copied()
            .zip(columns.values())
            .filter(|(name, _)| !UNHASHED.contains(name))
            .collect();
        for (name, value) in &fed {
            self.text(name, value.text());
        }
        for (name, value) in &fed {
            self.number(name, value.number());
        }
        for (name, value) in &fed {
            self.time(name, value.time());
        }
    }

    fn feed(&mut self, name: &str, value: &[u8]) {
        self.0.update(name.as_bytes());
        self.0.update(value.len().to_le_bytes());
        self.0.update(value);
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.feed(name, value.as_bytes());
        }
    }

    fn number(&mut self, name: &str, value: Option<i64>) {
        if let Some(value) = value {
            self.feed(name, &value.to_le_bytes());
        }
    }

    fn time(&mut self, name: &str, value: Option<DateTime<Utc>>) {
        self.number(name, value.map(|time| time.timestamp_micros()));
    }

    fn finish(self) -> Hash {
        shorten(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_hash_of_stored_rows_never_changes() {
        let columns = EvidenceColumns {
            entity_type: Some("Ip".into()),
            ip_address: Some("::1".into()),
            ..EvidenceColumns::default()
        };
        let hash = evidence_hash(&columns, &[]);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "edf11c61e3070c467b1117fb2b288dc3");
    }
}
