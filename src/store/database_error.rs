//! What may be shown of a database error.

use sqlx::postgres::PgDatabaseError;

use crate::error::{ConnectionFault, SyncError};

/// Messages of the classes 22 and 23 quote the refused values, which are customer data, so only the constraint is named.
pub(crate) fn database_error(step: &'static str, error: &sqlx::Error) -> SyncError {
    if is_stale_plan(error) {
        return SyncError::StalePlan { step };
    }
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

/// Whether a column has changed its type since the statement was prepared: the driver would run it for ever on the same
/// connection. Postgres translates the message ("cached plan must not change result type"), but not the routine.
fn is_stale_plan(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let of_postgres = error.try_downcast_ref::<PgDatabaseError>();
    of_postgres.is_some_and(|error| {
        error.code() == "0A000" && error.routine() == Some("RevalidateCachedQuery")
    })
}
