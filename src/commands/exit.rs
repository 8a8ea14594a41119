//! The failures of commands and their exit statuses.

use crate::context::SetupError;
use crate::error::SyncError;

/// Why a command exits with a status other than 0.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A tenant failed, which the command has printed.
    #[error("a tenant failed")]
    Tenant,
    #[error("{0}")]
    NotHealthy(String),
    /// A customer was not onboarded, or the result could not be written.
    #[error("{0}")]
    NotDone(String),
    /// Usage, configuration or environment.
    #[error("{0}")]
    Configuration(String),
    /// The database is unreachable, refuses access or fails.
    #[error("{0}")]
    Database(String),
}

impl Failure {
    /// Part of the contract: listed in docs/reference/cli.md.
    pub fn status(&self) -> u8 {
        match self {
            Self::Tenant | Self::NotHealthy(_) | Self::NotDone(_) => 1,
            Self::Configuration(_) => 2,
            Self::Database(_) => 3,
        }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Self::Database(error.to_string())
    }
}

impl From<SyncError> for Failure {
    fn from(error: SyncError) -> Self {
        SetupError::from(error).into()
    }
}
