//! What the doctor reports: one finding for each check.

use serde::Serialize;

use crate::error::SyncError;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// Nothing to do.
    Ok,
    /// Works, but needs attention.
    Warning,
    /// Does not work.
    Failure,
    /// An earlier step failed.
    NotTried,
}

impl CheckResult {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
            Self::NotTried => "not tried",
        }
    }
}

/// The subject of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Files and their permissions.
    Configuration,
    /// The expiry of credentials.
    Credentials,
    /// The path to Microsoft.
    Network,
    Database,
    Tenants,
}

impl Group {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Network => "network",
            Self::Database => "database",
            Self::Tenants => "tenants",
        }
    }
}

/// A row of the result. Scripts rely on the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub group: Group,
    /// The name of the check; the same in every release.
    pub check: &'static str,
    /// The file, host, server or tenant.
    pub about: String,
    pub result: CheckResult,
    /// `None` if there is nothing to do.
    pub who_must_act: Option<&'static str>,
    /// The cause and what to do.
    pub advice: String,
    /// The error of the component that failed.
    pub error: Option<ErrorText>,
}

/// The text of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorText {
    pub text: String,
    /// Equal for equal causes: without variable parts such as seconds and trace ids.
    pub cause: String,
}

impl From<String> for ErrorText {
    fn from(text: String) -> Self {
        Self { cause: text.clone(), text }
    }
}

impl From<&SyncError> for ErrorText {
    fn from(error: &SyncError) -> Self {
        let class = error.diagnosis().class.as_str();
        let cause = match error {
            SyncError::Entra { codes, status, error, .. } => codes.first().map_or_else(
                || format!("{class} {status} {error}"),
                |code| format!("{class} AADSTS{code}"),
            ),
            SyncError::CredentialBreaker { code } => format!("{class} AADSTS{code}"),
            SyncError::Api { status, code, .. } => format!("{class} {status} {code}"),
            SyncError::Transport { what, .. } => format!("{class} {what}"),
            SyncError::Database { sqlstate, .. } => format!("{class} {sqlstate:?}"),
            _ => class.to_owned(),
        };
        Self { text: error.to_string(), cause }
    }
}

impl Serialize for ErrorText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Finding {
    /// Whether both report the same problem, of different hosts or tenants.
    pub fn is_same_problem(&self, other: &Self) -> bool {
        let is_same_check =
            (self.group, self.check, self.result) == (other.group, other.check, other.result);
        let is_same_cause = match (&self.error, &other.error) {
            (Some(ours), Some(theirs)) => ours.cause == theirs.cause,
            (None, None) => self.advice == other.advice,
            _ => false,
        };
        is_same_check && self.who_must_act == other.who_must_act && is_same_cause
    }
}
