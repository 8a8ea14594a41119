//! Roles that read all tenants, or some.

use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};
use uuid::Uuid;

use super::{DbRole, Store};
use crate::error::SyncError;

/// SQLSTATE of a missing privilege.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// SQLSTATE of a REVOKE of a membership that its holder granted to others.
const DEPENDENT_PRIVILEGES: &str = "2BP01";

/// A tenant that the database knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct KnownTenant {
    pub tenant_id: Uuid,
    /// Its name in the configuration.
    pub name: String,
}

/// What a reader may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReaderAccess {
    /// Every tenant, including future ones.
    All,
    Tenants(Vec<Uuid>),
}

/// Why a role cannot be made a reader.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// It could see more than it is granted.
    #[error("{role} cannot be such a reader: it is{through} {why}")]
    Refused {
        role: String,
        /// The other role that it is a member of, in words; otherwise empty.
        through: String,
        /// What makes that role see more.
        why: String,
    },
    /// Our user may not create or change roles.
    #[error(
        "the database's user may not create or change roles. Let a superuser run: {statements}; then repeat this command"
    )]
    MayNotChangeRoles { statements: String },
    /// It granted its old membership to other roles.
    #[error(
        "{role} granted its own membership to other roles, which would keep it. Let a superuser run: {statements}; then repeat this command"
    )]
    PassedOn {
        role: String,
        /// Statements that end these memberships.
        statements: String,
    },
    /// Our user is not the one that migrates.
    #[error(
        "the database's user may not write defender.reader_tenants. Run this command as the user that migrates"
    )]
    MayNotChangeTenants,
    #[error(transparent)]
    Database(#[from] SyncError),
}

impl Store {
    /// The tenants with one of these names or ids, including those that left the configuration.
    pub async fn find_tenants(&self, named: &[String]) -> Result<Vec<KnownTenant>, SyncError> {
        let find_tenants = include_str!("sql/find_tenants.sql");
        self.statement("looking up tenants", DbRole::Reader, find_tenants)
            .bind(named)
            .fetch_all()
            .await
    }

    /// Gives `role` this access and no other, whatever it had before. Returns whether the role is new.
    ///
    /// The same transaction then checks what the role may see, and rolls back if that differs.
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
        let check = async |connection: &mut PgConnection| {
            let refusal = refusal(connection, role, is_scoped, false).await?;
            let statements: Vec<String> =
                sqlx::query_scalar(include_str!("sql/reader_statements.sql"))
                    .bind(role)
                    .bind(group)
                    .bind(other_group)
                    .fetch_all(connection)
                    .await?;
            Ok((refusal, statements))
        };
        let (refusal_before, statements) =
            self.transact(step, DbRole::Login, check).await.map_err(not_the_owner)?;
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

/// The role that would let `role` see more, `role` itself or one that it is a member of, and why.
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
