//! An incident's JSON as text, of whichever source: pages, bounds, and what Postgres can store.

pub mod growth;
pub mod page;
pub mod repeated;
pub mod storable;

/// serde's messages may quote the value; the position is enough to find it in the quarantined text.
pub(super) fn without_content(error: &serde_json::Error) -> String {
    format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column())
}
