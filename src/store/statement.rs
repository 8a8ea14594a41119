//! One statement in a transaction of its own: the shape of most methods of the store.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Encode, FromRow, PgConnection, Postgres, Type};

use super::Store;
use super::database_error::database_error;
use super::transaction::DbRole;
use crate::error::SyncError;

/// A statement with its parameters.
pub(super) struct Statement<'s> {
    store: &'s Store,
    step: &'static str,
    role: DbRole,
    query: Query<'static, Postgres, PgArguments>,
}

impl Store {
    /// A statement with the rights of `role`. `step` names it in errors.
    pub(super) fn statement(
        &self,
        step: &'static str,
        role: DbRole,
        sql: &'static str,
    ) -> Statement<'_> {
        Statement { store: self, step, role, query: sqlx::query(sql) }
    }
}

impl Statement<'_> {
    pub(super) fn bind<'t, T: Encode<'t, Postgres> + Type<Postgres>>(self, value: T) -> Self {
        Self { query: self.query.bind(value), ..self }
    }

    pub(super) async fn execute(self) -> Result<(), SyncError> {
        let execute = async |connection: &mut PgConnection| self.query.execute(connection).await;
        Box::pin(self.store.transact(self.step, self.role, execute)).await.map(drop)
    }

    /// The rows, for callers that decode one by one.
    pub(super) async fn fetch_rows(self) -> Result<Vec<PgRow>, SyncError> {
        let fetch = async |connection: &mut PgConnection| self.query.fetch_all(connection).await;
        // Boxed, or every caller's future would contain that of the transaction.
        Box::pin(self.store.transact(self.step, self.role, fetch)).await
    }

    pub(super) async fn fetch_all<T: for<'r> FromRow<'r, PgRow>>(
        self,
    ) -> Result<Vec<T>, SyncError> {
        let step = self.step;
        let rows = self.fetch_rows().await?;
        let decoded: Result<Vec<T>, sqlx::Error> = rows.iter().map(T::from_row).collect();
        decoded.map_err(|error| database_error(step, &error))
    }

    pub(super) async fn fetch_optional<T: for<'r> FromRow<'r, PgRow>>(
        self,
    ) -> Result<Option<T>, SyncError> {
        Ok(self.fetch_all().await?.into_iter().next())
    }

    /// The first row; an error if there is none.
    pub(super) async fn fetch_one<T: for<'r> FromRow<'r, PgRow>>(self) -> Result<T, SyncError> {
        let step = self.step;
        let row = self.fetch_optional().await?;
        row.ok_or_else(|| database_error(step, &sqlx::Error::RowNotFound))
    }

    /// The only column of each row.
    pub(super) async fn fetch_scalars<T>(self) -> Result<Vec<T>, SyncError>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        let rows: Vec<(T,)> = self.fetch_all().await?;
        Ok(rows.into_iter().map(|(value,)| value).collect())
    }

    /// The only column of the first row.
    pub(super) async fn fetch_optional_scalar<T>(self) -> Result<Option<T>, SyncError>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        let row: Option<(T,)> = self.fetch_optional().await?;
        Ok(row.map(|(value,)| value))
    }

    /// The only column of the first row; an error if there is none.
    pub(super) async fn fetch_scalar<T>(self) -> Result<T, SyncError>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        let row: (T,) = self.fetch_one().await?;
        Ok(row.0)
    }
}
