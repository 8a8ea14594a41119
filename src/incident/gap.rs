//! A part of the list that the API fails to serve.

use chrono::{DateTime, Utc};

use crate::error::SyncError;

/// A range of `lastUpdateTime` that the API could not serve, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First instant inside.
    pub from: DateTime<Utc>,
    /// First instant beyond.
    pub to: DateTime<Utc>,
    /// The failure that made the plan leave it out. Not optional, so that no gap can be dropped for want of a reason.
    pub reason: GapReason,
}

/// The failure behind a gap, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapReason {
    pub class: String,
    /// The error in a sentence, with the tracking id that Microsoft needs.
    pub message: String,
}

impl From<&SyncError> for GapReason {
    fn from(error: &SyncError) -> Self {
        Self { class: error.diagnosis().class.as_str().to_owned(), message: error.to_string() }
    }
}
