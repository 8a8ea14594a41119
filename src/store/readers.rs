//! Roles that read: all tenants, or some.

use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};
use uuid::Uuid;

use super::{DbRole, Store};
use crate::error::SyncError;

/// What Postgres answers to somebody who may not do what he asks for.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// What it answers to the end of a membership that its holder has granted to others.
const DEPENDENT_PRIVILEGES: &str = "2BP01";

/// A tenant that the database knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct KnownTenant {
    /// Its id.
    #[serde(rename = "id")]
    pub tenant_id: Uuid,
    /// Its name in the configuration.
    pub name: String,
}

/// What a reader is to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReaderAccess {
    /// Every tenant, also those to come.
    All,
    /// These and no others.
    Tenants(Vec<Uuid>),
}

/// Why a role does not become a reader.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// It could see more than it is given.
    #[error("{role} cannot be such a reader: it is{through} {why}")]
    Refused {
        /// The role.
        role: String,
        /// Which other role it is a member of, in words; else empty.
        through: String,
        /// What that role can do.
        why: String,
    },
    /// Our user may not make or change roles.
    #[error(
        "the database's user may not make or change roles; let a superuser run: {statements}; then repeat this command"
    )]
    MayNotChangeRoles {
        /// What is missing.
        statements: String,
    },
    /// It had the right to grant its old membership, and used it.
    #[error(
        "{role} granted its own membership to other roles, which would keep it; let a superuser run: {statements}; then repeat this command"
    )]
    PassedOn {
        /// The role.
        role: String,
        /// What ends these memberships.
        statements: String,
    },
    /// Our user is not the one that migrated.
    #[error(
        "the database's user may not write defender.reader_tenants; run this command as the user that migrates"
    )]
    MayNotChangeTenants,
    /// The database.
    #[error(transparent)]
    Database(#[from] SyncError),
}

impl Store {
    /// The tenants that have one of these names or ids, also those that left the configuration.
    pub async fn find_tenants(&self, named: &[String]) -> Result<Vec<KnownTenant>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            sqlx::query_as(include_str!("sql/find_tenants.sql"))
                .bind(named)
                .fetch_all(connection)
                .await
        };
        self.transact("looking up tenants", DbRole::Reader, look).await
    }

    /// Makes `role` a reader with this sight and no other, whatever it saw before. Answers whether the role is new.
    ///
    /// After the change Postgres is asked in the same transaction what the role may see; if that is not the sight, all of it
    /// is rolled back.
    pub async fn grant_reader(
        &self,
        role: &str,
        access: &ReaderAccess,
    ) -> Result<bool, GrantError> {
        let step = "making a reader";
        let is_scoped = *access != ReaderAccess::All;
        let (group, other_group, tenants) = match access {
            ReaderAccess::All => ("incident_sync_reader", "incident_sync_tenant_reader", &[][..]),
            ReaderAccess::Tenants(tenants) => {
                ("incident_sync_tenant_reader", "incident_sync_reader", &tenants[..])
            }
        };
        let refused = |(held, why): (String, String)| {
            let through =
                if held == role { String::new() } else { format!(" a member of {held},") };
            GrantError::Refused { role: role.to_owned(), through, why }
        };
        let judge = async |connection: &mut PgConnection| {
            let refusal = refusal(connection, role, is_scoped, false).await?;
            let statements =
                sqlx::query_scalar::<_, String>(include_str!("sql/reader_statements.sql"));
            let statements =
                statements.bind(role).bind(group).bind(other_group).fetch_all(connection).await?;
            Ok((refusal, statements))
        };
        let (refusal_before, statements) =
            self.transact(step, DbRole::Login, judge).await.map_err(not_the_owner)?;
        if let Some(reason) = refusal_before {
            return Err(refused(reason));
        }
        let change = async |connection: &mut PgConnection| {
            let mut attempt = connection.begin().await?;
            for statement in &statements {
                sqlx::query(AssertSqlSafe(statement.as_str())).execute(&mut *attempt).await?;
            }
            let replace = sqlx::query(include_str!("sql/replace_reader_tenants.sql"));
            replace.bind(role).bind(tenants).execute(&mut *attempt).await?;
            let reason = refusal(&mut attempt, role, is_scoped, true).await?;
            if reason.is_some() {
                attempt.rollback().await?;
            } else {
                attempt.commit().await?;
            }
            Ok(reason)
        };
        match self.transact(step, DbRole::Login, change).await {
            Ok(None) => Ok(statements.iter().any(|statement| statement.starts_with("CREATE ROLE"))),
            Ok(Some(reason)) => Err(refused(reason)),
            Err(error)
                if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) && !statements.is_empty() =>
            {
                Err(GrantError::MayNotChangeRoles { statements: statements.join("; ") })
            }
            Err(error) if error.sqlstate() == Some(DEPENDENT_PRIVILEGES) => {
                Err(GrantError::PassedOn {
                    role: role.to_owned(),
                    statements: revokes(&statements).collect::<Vec<_>>().join("; "),
                })
            }
            Err(error) => Err(not_the_owner(error)),
        }
    }
}

/// What the role is that it may not be, and why; its own name stands for the role itself.
async fn refusal(
    connection: &mut PgConnection,
    role: &str,
    is_scoped: bool,
    is_changed: bool,
) -> Result<Option<(String, String)>, sqlx::Error> {
    let query = sqlx::query_as(include_str!("sql/reader_refusal.sql"));
    query.bind(role).bind(is_scoped).bind(is_changed).fetch_optional(connection).await
}

fn revokes(statements: &[String]) -> impl Iterator<Item = String> {
    let revokes = statements.iter().filter(|statement| statement.starts_with("REVOKE"));
    revokes.map(|statement| format!("{statement} CASCADE"))
}

fn not_the_owner(error: SyncError) -> GrantError {
    if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) {
        GrantError::MayNotChangeTenants
    } else {
        GrantError::Database(error)
    }
}
