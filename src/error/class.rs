//! The kinds of failure: stored in the database, counted in metrics, shown in the log and in JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The kind of a failure. Its word is part of the contract and does not change with the text of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "docs/errors.md lists the errors of each class")]
pub enum ErrorClass {
    ApiRetired,
    AppDisabled,
    AssignmentRequired,
    BadReply,
    BadRequest,
    BadState,
    Bug,
    ConditionalAccess,
    ConsentMissing,
    Credential,
    Database,
    DatabaseConflict,
    DatabaseData,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseRights,
    DatabaseStatement,
    DirectoryBlocked,
    Forbidden,
    LeaseLost,
    MissingRole,
    NotLicensed,
    /// A person has paused the tenant. Not the class of an error: only the database and `status` show it.
    Parked,
    Proxy,
    Schema,
    Security,
    SourceMismatch,
    Stopped,
    TenantConfig,
    Throttled,
    TooLarge,
    Transport,
    Unauthorized,
    UnknownEntraError,
    UnstableListing,
    Upstream,
}

impl ErrorClass {
    pub const ALL: [Self; 36] = [
        Self::ApiRetired,
        Self::AppDisabled,
        Self::AssignmentRequired,
        Self::BadReply,
        Self::BadRequest,
        Self::BadState,
        Self::Bug,
        Self::ConditionalAccess,
        Self::ConsentMissing,
        Self::Credential,
        Self::Database,
        Self::DatabaseConflict,
        Self::DatabaseData,
        Self::DatabaseFull,
        Self::DatabaseReadOnly,
        Self::DatabaseRights,
        Self::DatabaseStatement,
        Self::DirectoryBlocked,
        Self::Forbidden,
        Self::LeaseLost,
        Self::MissingRole,
        Self::NotLicensed,
        Self::Parked,
        Self::Proxy,
        Self::Schema,
        Self::Security,
        Self::SourceMismatch,
        Self::Stopped,
        Self::TenantConfig,
        Self::Throttled,
        Self::TooLarge,
        Self::Transport,
        Self::Unauthorized,
        Self::UnknownEntraError,
        Self::UnstableListing,
        Self::Upstream,
    ];

    /// The word in the database, in the log, in metrics and in `--json`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiRetired => "api_retired",
            Self::AppDisabled => "app_disabled",
            Self::AssignmentRequired => "assignment_required",
            Self::BadReply => "bad_reply",
            Self::BadRequest => "bad_request",
            Self::BadState => "bad_state",
            Self::Bug => "bug",
            Self::ConditionalAccess => "conditional_access",
            Self::ConsentMissing => "consent_missing",
            Self::Credential => "credential",
            Self::Database => "database",
            Self::DatabaseConflict => "database_conflict",
            Self::DatabaseData => "database_data",
            Self::DatabaseFull => "database_full",
            Self::DatabaseReadOnly => "database_read_only",
            Self::DatabaseRights => "database_rights",
            Self::DatabaseStatement => "database_statement",
            Self::DirectoryBlocked => "directory_blocked",
            Self::Forbidden => "forbidden",
            Self::LeaseLost => "lease_lost",
            Self::MissingRole => "missing_role",
            Self::NotLicensed => "not_licensed",
            Self::Parked => "parked",
            Self::Proxy => "proxy",
            Self::Schema => "schema",
            Self::Security => "security",
            Self::SourceMismatch => "source_mismatch",
            Self::Stopped => "stopped",
            Self::TenantConfig => "tenant_config",
            Self::Throttled => "throttled",
            Self::TooLarge => "too_large",
            Self::Transport => "transport",
            Self::Unauthorized => "unauthorized",
            Self::UnknownEntraError => "unknown_entra_error",
            Self::UnstableListing => "unstable_listing",
            Self::Upstream => "upstream",
        }
    }

    /// Whether the database itself fails, which affects the runs of all tenants. A value that it refuses
    /// ([`Self::DatabaseData`]) affects one tenant only.
    pub const fn is_database(self) -> bool {
        self.is_database_outage() || matches!(self, Self::DatabaseRights)
    }

    /// Whether the database is down, full or read-only: waiting may help, other than with wrong credentials.
    pub const fn is_database_outage(self) -> bool {
        matches!(
            self,
            Self::Database | Self::DatabaseConflict | Self::DatabaseFull | Self::DatabaseReadOnly
        )
    }

    /// Whether a recent consent may end it: Entra needs minutes to apply a consent everywhere.
    pub const fn awaits_consent(self) -> bool {
        matches!(self, Self::ConsentMissing | Self::MissingRole | Self::Forbidden)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A word that is not a class, such as one that a newer version has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown error class")]
pub struct UnknownClass;

impl FromStr for ErrorClass {
    type Err = UnknownClass;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.as_str() == word).ok_or(UnknownClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_words_parse_back_to_their_class() {
        for class in ErrorClass::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
        assert_eq!("database_".parse::<ErrorClass>(), Err(UnknownClass));
    }
}
