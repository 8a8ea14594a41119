//! Roles that read: all tenants, or some.

use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use super::{Rights, Store};
use crate::error::SyncError;

/// What Postgres answers to somebody who may not do what he asks for.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

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
pub enum Sight {
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
    /// Our user is not the one that migrated.
    #[error("the database's user may not write defender.reader_tenants; run this command as the user that migrates")]
    MayNotChangeTenants,
    /// The database.
    #[error(transparent)]
    Database(#[from] SyncError),
}

impl Store {
    /// The tenants that have one of these names or ids, also those that left the configuration.
    pub async fn find_tenants(&self, named: &[String]) -> Result<Vec<KnownTenant>, SyncError> {
        let look = async |connection: &mut PgConnection| {
            sqlx::query_as(include_str!("sql/find_tenants.sql")).bind(named).fetch_all(connection).await
        };
        self.transact("looking up tenants", Rights::Reader, look).await
    }

    /// Makes `role` a reader with this sight and no other, whatever it saw before. Answers whether the role is new.
    pub async fn grant_reader(&self, role: &str, sight: &Sight) -> Result<bool, GrantError> {
        let step = "making a reader";
        let (group, other_group, tenants) = match sight {
            Sight::All => ("incident_sync_reader", "incident_sync_tenant_reader", &[][..]),
            Sight::Tenants(tenants) => ("incident_sync_tenant_reader", "incident_sync_reader", &tenants[..]),
        };
        let judge = async |connection: &mut PgConnection| {
            let refusal = sqlx::query_as::<_, (String, String)>(include_str!("sql/reader_refusal.sql"));
            let refusal = refusal.bind(role).bind(*sight != Sight::All).fetch_optional(&mut *connection).await?;
            let statements = sqlx::query_scalar::<_, String>(include_str!("sql/reader_statements.sql"));
            let statements = statements.bind(role).bind(group).bind(other_group).fetch_all(connection).await?;
            Ok((refusal, statements))
        };
        let (refusal, statements) = self.transact(step, Rights::Login, judge).await.map_err(not_the_owner)?;
        if let Some((held, why)) = refusal {
            let through = if held == role { String::new() } else { format!(" a member of {held},") };
            return Err(GrantError::Refused { role: role.to_owned(), through, why });
        }
        let change = async |connection: &mut PgConnection| {
            for statement in &statements {
                sqlx::query(AssertSqlSafe(statement.as_str())).execute(&mut *connection).await?;
            }
            let replace = sqlx::query(include_str!("sql/replace_reader_tenants.sql"));
            replace.bind(role).bind(tenants).execute(connection).await
        };
        match self.transact(step, Rights::Login, change).await {
            Ok(_) => Ok(statements.iter().any(|statement| statement.starts_with("CREATE ROLE"))),
            Err(error) if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) && !statements.is_empty() => {
                Err(GrantError::MayNotChangeRoles { statements: statements.join("; ") })
            }
            Err(error) => Err(not_the_owner(error)),
        }
    }
}

fn not_the_owner(error: SyncError) -> GrantError {
    if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) {
        GrantError::MayNotChangeTenants
    } else {
        GrantError::Database(error)
    }
}
