//! Rows with a value that cannot be decoded: each affects its own tenant only.

use sqlx::postgres::PgRow;
use sqlx::{Column, FromRow, Row, TypeInfo, ValueRef};
use uuid::Uuid;

use super::{DbRole, Store};
use crate::error::SyncError;

/// Microseconds from Postgres's epoch, the beginning of 2000, to the first and the last moment of the years with four
/// digits: the bounds of `migrations/0001_tables.sql`. sqlx panics on times beyond chrono's range, such as infinity.
const EARLIEST_US: i64 = -63_082_281_600_000_000;
const LATEST_US: i64 = 252_455_615_999_999_999;

impl Store {
    /// Those of these tenants whose state has values out of bounds, with the columns.
    pub async fn out_of_bounds(
        &self,
        tenants: &[Uuid],
    ) -> Result<Vec<(Uuid, Vec<String>)>, SyncError> {
        let out_of_bounds = include_str!("sql/out_of_bounds.sql");
        self.statement("looking for states out of bounds", DbRole::Dispatcher, out_of_bounds)
            .bind(tenants)
            .fetch_all()
            .await
    }
}

/// Decodes one row; the error is the name of the column that cannot be decoded.
pub(super) fn decode<T: for<'r> FromRow<'r, PgRow>>(row: &PgRow) -> Result<T, String> {
    for column in row.columns() {
        if column.type_info().name() == "TIMESTAMPTZ" && !is_bounded(row, column.ordinal()) {
            return Err(column.name().to_owned());
        }
    }
    T::from_row(row).map_err(|error| match error {
        sqlx::Error::ColumnDecode { index, .. } => index.trim_matches('"').to_owned(),
        _ => "a column".to_owned(),
    })
}

/// Whether a time is NULL, or one that every client can show.
fn is_bounded(row: &PgRow, ordinal: usize) -> bool {
    let Ok(value) = row.try_get_raw(ordinal) else { return false };
    let bytes = value.as_bytes().ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    value.is_null()
        || bytes.is_some_and(|bytes| (EARLIEST_US..=LATEST_US).contains(&i64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    #[test]
    fn bounds_are_the_years_of_four_digits() {
        let epoch: DateTime<Utc> = "2000-01-01T00:00:00Z".parse().unwrap();
        let from_epoch = |time: &str| {
            (time.parse::<DateTime<Utc>>().unwrap() - epoch).num_microseconds().unwrap()
        };
        assert_eq!(from_epoch("0001-01-01T00:00:00Z"), EARLIEST_US);
        assert_eq!(from_epoch("9999-12-31T23:59:59.999999Z"), LATEST_US);
    }
}
