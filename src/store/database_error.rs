//! What may be shown of a database error.

use crate::error::{ConnectionFault, SyncError};

/// Messages of the classes 22 and 23 quote the refused values, which are customer data, so only the constraint is named.
pub(crate) fn database_error(step: &'static str, error: &sqlx::Error) -> SyncError {
    let (sqlstate, what) = match error {
        sqlx::Error::Database(error) => {
            let code = error.code().map(|code| code.into_owned());
            let quotes_values = code
                .as_deref()
                .is_some_and(|code| code.starts_with("22") || code.starts_with("23"));
            let what = if quotes_values {
                format!("value refused, constraint {}", error.constraint().unwrap_or("unnamed"))
            } else {
                error.message().to_owned()
            };
            (code, what)
        }
        sqlx::Error::Io(error) => (None, format!("connection: {}", error.kind())),
        sqlx::Error::Tls(_) => {
            (None, "the TLS handshake failed; check sslmode and sslrootcert".to_owned())
        }
        sqlx::Error::PoolTimedOut => (None, "no connection became free in time".to_owned()),
        sqlx::Error::PoolClosed => (None, "the pool is closed".to_owned()),
        sqlx::Error::ColumnDecode { index, .. } => {
            (None, format!("column {index} has an unexpected type"))
        }
        _ => (None, "unexpected answer".to_owned()),
    };
    SyncError::Database { step, sqlstate, what, fault: ConnectionFault::of_tls(error) }
}
