//! The one table that decides what a failure means.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use super::diagnosis::{DOUBT_PROBE, throttled};
use super::{
    BREAKER_PROBE, Diagnosis, ErrorClass, IDENTITY_PROBE, Owner, Peer, Retry, SyncError, aadsts,
    api,
};

/// What to do about an incident of which a part is missing because of our own limit.
pub const TOO_LARGE_ADVICE: &str = "The limit is incident-sync's own, not Microsoft's. Read the rest of this incident in the Defender portal, and split or resolve it there; it is read again every hour";

impl SyncError {
    /// The meaning of this failure. Nothing else decides it.
    #[expect(clippy::too_many_lines, reason = "one table, a row for each kind of failure")]
    pub fn diagnosis(&self) -> Diagnosis {
        use {ErrorClass as Class, Owner::*, Retry::*};
        let row = Diagnosis::new;
        match self {
            Self::Entra { status: 429, retry_after, .. } => throttled(Peer::Entra, *retry_after),
            Self::Entra { status, error, codes, details, .. } => {
                aadsts::diagnosis(*status, error, codes, details)
            }
            // The endpoint answers 404 and 410 while it or the identity is being set up.
            Self::ManagedIdentity { status: 404 | 410 | 429 | 500..=599, .. } => row(
                Class::Transport,
                Nobody,
                After(IDENTITY_PROBE),
                "The managed identity endpoint is unavailable or still starting; retrying in 1 minute",
            )
            .shared(),
            Self::Transport { peer: Peer::ManagedIdentity, .. }
            | Self::Timeout { peer: Peer::ManagedIdentity } => row(
                Class::Transport,
                Operator,
                After(IDENTITY_PROBE),
                "The managed identity endpoint does not answer. Only Azure machines have one: run incident-sync there, or configure another credential",
            )
            .shared(),
            Self::ManagedIdentity { .. } => row(
                Class::Credential,
                Operator,
                OnceFixed,
                "The managed identity endpoint has no such identity. Assign the identity to this machine and check managed_identity_client_id",
            )
            .shared(),
            Self::Assertion { .. } => row(
                Class::Bug,
                Developers,
                NextRun,
                "The client assertion could not be signed. Report a bug",
            ),
            Self::Proxy { wants_password: true, .. } => row(
                Class::Proxy,
                Operator,
                NextRun,
                "The proxy requires a user name and a password. Set the name in http_client.proxy and the password in http_client.proxy_password_file",
            ),
            Self::Proxy { .. } => row(
                Class::Proxy,
                Operator,
                NextRun,
                "The proxy refused the connection. Ask its administrator to allow the hosts of Entra and of the API",
            ),
            Self::EntraHold { left } => throttled(Peer::Entra, Some(*left)),
            Self::TokenReply { .. } | Self::ApiReply { .. } => row(
                Class::BadReply,
                Nobody,
                Now,
                "The answer does not come from Microsoft's service, but perhaps from a proxy. Check the network path if this persists",
            ),
            Self::ClockSkew { .. } => row(
                Class::BadReply,
                Operator,
                Now,
                "Nothing of the answer was stored. Correct the clock of the database server if it is wrong; otherwise check the network path, because the answer does not come from Microsoft's service",
            ),
            Self::WrongTenant { .. } => row(
                Class::Security,
                Operator,
                OnceFixed,
                "The token belongs to another tenant than the configured one; nothing was read. Check the tenant id and the authority",
            ),
            Self::Api { api, status, retry_after, code, token, names_licence, .. } => {
                let refusal = api::Refusal {
                    status: *status,
                    code,
                    token: *token,
                    names_licence: *names_licence,
                };
                api::diagnosis(*api, refusal, *retry_after)
            }
            Self::TokenRejected { request, .. } => Diagnosis::new(
                Class::Unauthorized,
                Operator,
                OnceFixed,
                format!(
                    "The API does not accept new tokens for {audience}, requested with the scope {scope}. Correct scope, cloud or base_url so that they name the same API; incident-sync check shows which scope works",
                    audience = request.audience,
                    scope = request.scope
                ),
            ),
            Self::BodyTooLarge { .. } => row(
                Class::TooLarge,
                Developers,
                NextRun,
                "A page is larger than the limit. Report a bug",
            ),
            Self::IncidentTooLarge { .. } => row(
                Class::TooLarge,
                Operator,
                NextRun,
                TOO_LARGE_ADVICE,
            ),
            Self::Redirected { .. } => row(
                Class::Security,
                Operator,
                OnceFixed,
                "Redirects are refused, because they would send the secret and the token along. Check authority, base_url and the network path",
            ),
            Self::Transport { .. } => {
                row(Class::Transport, Nobody, Now, "Network or service error; retrying")
            }
            // No retry within this run, which has occupied its slot long enough.
            Self::Timeout { .. } => row(
                Class::Transport,
                Nobody,
                NextRun,
                "The network or the service did not answer in time; retrying later",
            ),
            Self::ForeignNextLink { .. } | Self::ForeignIncident { .. } => row(
                Class::Security,
                Operator,
                OnceFixed,
                "The answer belongs to another host or tenant; nothing of it was stored. Check base_url and the network path",
            ),
            Self::SourceMismatch { api, .. } => Diagnosis::new(
                Class::SourceMismatch,
                Operator,
                OnceFixed,
                format!(
                    "The incidents of {} do not match the stored ones; nothing was written. Set source = \"{}\" for this tenant again, and report a bug with this message",
                    Peer::from(*api),
                    api.other().as_str()
                ),
            ),
            Self::UnstableListing { .. } | Self::EndlessListing { .. } | Self::PartialAlerts => row(
                Class::UnstableListing,
                Developers,
                NextRun,
                "The API's incident list cannot be read completely. Report a bug",
            ),
            Self::Database { sqlstate, .. } => database_diagnosis(sqlstate.as_deref()),
            Self::StalePlan { .. } => row(
                Class::Database,
                Nobody,
                Now,
                "The schema was changed. The statement is prepared again on a new connection",
            ),
            Self::Schema { .. } => row(
                Class::Schema,
                Operator,
                OnceFixed,
                "The database schema does not fit this version. Install the newest version and run incident-sync migrate",
            ),
            Self::Paused { wait } => Diagnosis::new(
                Class::Throttled,
                Nobody,
                After(*wait),
                format!("Throttled: the API asked for a pause; {} s are left", wait.as_secs()),
            ),
            Self::LostCommit => row(
                Class::Database,
                Nobody,
                NextRun,
                "Postgres lost recent commits (crash or failover); the next run re-reads them",
            ),
            Self::StateOutOfBounds { .. } => row(
                Class::BadState,
                Operator,
                NextRun,
                "The database contains a value that incident-sync cannot use; the tenant is not read. Correct the column in defender.sync_state, or purge the tenant and sync it again",
            ),
            Self::LeaseLost => row(
                Class::LeaseLost,
                Nobody,
                NextRun,
                "Another instance has taken over this tenant, or the lease has expired",
            ),
            Self::CredentialBreaker { code } => Diagnosis::new(
                Class::Credential,
                Operator,
                After(BREAKER_PROBE),
                format!(
                    "Entra refused the app's credential for several tenants ({code}). Renew it; a replaced file is read automatically"
                ),
            )
            .shared(),
            Self::ApiRetired { api } => api::retired(*api),
            Self::ApiInDoubt { .. } => row(
                Class::Upstream,
                Nobody,
                After(DOUBT_PROBE),
                "The API refuses a tenant that it served before. The next attempt shows whether this is so for one tenant or for all",
            ),
            Self::Stopped => row(
                Class::Stopped,
                Nobody,
                NextRun,
                "incident-sync was stopped; the next start continues here",
            ),
            Self::Panicked { .. } => row(
                Class::Bug,
                Developers,
                NextRun,
                "A defect of incident-sync. Report a bug and attach the log",
            ),
        }
    }
}

/// Source of the codes: PostgreSQL's manual, appendix A. The texts mention no retry, because commands show them too and
/// only the daemon retries.
fn database_diagnosis(sqlstate: Option<&str>) -> Diagnosis {
    use {ErrorClass as Class, Owner::*, Retry::*};
    let row = Diagnosis::new;
    let is_denied = sqlstate == Some("42501");
    match sqlstate.map(|code| code.get(..2).unwrap_or(code)) {
        Some("28" | "3D" | "3F") => row(
            Class::DatabaseRights,
            Operator,
            NextRun,
            "Postgres denied access. Check user, password, privileges and migrations",
        ),
        Some("42") if is_denied => row(
            Class::DatabaseRights,
            Operator,
            NextRun,
            "Postgres denied access. Check user, password, privileges and migrations",
        ),
        Some("53") => row(
            Class::DatabaseFull,
            Operator,
            NextRun,
            "Postgres is out of disk, memory or connections",
        ),
        // Data, constraints and limits: Postgres always refuses this content.
        Some("22" | "23" | "54") => {
            row(Class::DatabaseData, Developers, NextRun, "Postgres refused a value. Report a bug")
        }
        Some("25") if sqlstate == Some("25006") => row(
            Class::DatabaseReadOnly,
            Operator,
            NextRun,
            "Postgres is read-only, as after a failover. Point database.url to the primary",
        ),
        // 25P03 and 25P04: Postgres ended a transaction that took too long.
        Some("25") if sqlstate.is_some_and(|code| code.starts_with("25P0")) => {
            row(Class::Database, Nobody, Now, "Postgres is unavailable or slow")
        }
        Some("0A" | "25" | "42" | "XX") => row(
            Class::DatabaseStatement,
            Developers,
            NextRun,
            "Postgres cannot run this statement. Compare the schema with `incident-sync check`, and report a bug with this message and the version of Postgres",
        ),
        Some("40") => row(Class::DatabaseConflict, Nobody, Now, "Two transactions conflicted"),
        Some(_) | None => row(Class::Database, Nobody, Now, "Postgres is unavailable or slow"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::TokenCheck;
    use super::super::diagnosis::{LONGEST_THROTTLE, UNSPECIFIED_THROTTLE};
    use super::*;
    use crate::tenant::Source;

    fn api(status: u16, code: &str, retry_after: Option<u64>) -> Diagnosis {
        let retry_after = retry_after.map(Duration::from_secs);
        SyncError::Api {
            status,
            code: code.into(),
            target: String::new(),
            retry_after,
            api: Source::Defender,
            token: TokenCheck::Unreadable,
            names_licence: false,
        }
        .diagnosis()
    }

    #[test]
    fn requested_pause_is_obeyed_up_to_six_hours() {
        assert_eq!(
            api(429, "TooManyRequests", Some(17)).retry,
            Retry::After(Duration::from_secs(17))
        );
        assert_eq!(api(429, "", None).retry, Retry::After(UNSPECIFIED_THROTTLE));
        assert_eq!(api(429, "", Some(86_400)).retry, Retry::After(LONGEST_THROTTLE));
        assert_eq!(api(503, "", Some(5)).retry, Retry::After(Duration::from_secs(5)));
    }

    #[test]
    fn api_status_decides_owner_and_retry() {
        let table = [
            (400, "BadRequest", Owner::Developers, Retry::NextRun),
            (401, "Unauthorized", Owner::Nobody, Retry::WithNewToken),
            (403, "Forbidden", Owner::CustomerAdmin, Retry::WithNewToken),
            (403, "DisabledFeature", Owner::CustomerAdmin, Retry::OnceFixed),
            (403, "DisallowedOperation", Owner::Operator, Retry::OnceFixed),
            (404, "NotFound", Owner::Operator, Retry::OnceFixed),
            (500, "InternalServerError", Owner::Nobody, Retry::Now),
            (502, "", Owner::Nobody, Retry::Now),
            (418, "", Owner::Developers, Retry::NextRun),
        ];
        for (status, code, who, wait) in table {
            let diagnosis = api(status, code, None);
            assert_eq!((diagnosis.owner, diagnosis.retry), (who, wait), "{status} {code}");
        }
    }

    #[test]
    fn smaller_page_helps_only_for_failed_page() {
        let api = |status, seconds: Option<u64>| {
            SyncError::of_status(status, seconds.map(Duration::from_secs))
        };
        let large = |peer| SyncError::BodyTooLarge { peer, bytes_max: 1 };
        for fault in
            [api(500, None), api(503, None), api(504, None), api(408, None), large(Peer::Defender)]
        {
            assert!(fault.smaller_page_may_help(), "{fault}");
        }
        let timeout = SyncError::Timeout { peer: Peer::Defender };
        for other in [
            api(503, Some(5)),
            api(429, None),
            api(400, None),
            api(401, None),
            large(Peer::Entra),
            timeout,
        ] {
            assert!(!other.smaller_page_may_help(), "{other}");
        }
    }

    #[test]
    fn sqlstate_decides_class_owner_and_retry() {
        use ErrorClass::*;
        for (sqlstate, class, owner, retry) in [
            (Some("28P01"), DatabaseRights, Owner::Operator, Retry::NextRun),
            (Some("42501"), DatabaseRights, Owner::Operator, Retry::NextRun),
            (Some("3D000"), DatabaseRights, Owner::Operator, Retry::NextRun),
            (Some("0A000"), DatabaseStatement, Owner::Developers, Retry::NextRun),
            (Some("42703"), DatabaseStatement, Owner::Developers, Retry::NextRun),
            (Some("42P01"), DatabaseStatement, Owner::Developers, Retry::NextRun),
            (Some("25001"), DatabaseStatement, Owner::Developers, Retry::NextRun),
            (Some("XX000"), DatabaseStatement, Owner::Developers, Retry::NextRun),
            (Some("25P02"), Database, Owner::Nobody, Retry::Now),
            (Some("53100"), DatabaseFull, Owner::Operator, Retry::NextRun),
            (Some("22021"), DatabaseData, Owner::Developers, Retry::NextRun),
            (Some("23514"), DatabaseData, Owner::Developers, Retry::NextRun),
            (Some("54000"), DatabaseData, Owner::Developers, Retry::NextRun),
            (Some("25006"), DatabaseReadOnly, Owner::Operator, Retry::NextRun),
            (Some("25P03"), Database, Owner::Nobody, Retry::Now),
            (Some("40P01"), DatabaseConflict, Owner::Nobody, Retry::Now),
            (Some("57P01"), Database, Owner::Nobody, Retry::Now),
            (None, Database, Owner::Nobody, Retry::Now),
        ] {
            let diagnosis = database_diagnosis(sqlstate);
            let found = (diagnosis.class, diagnosis.owner, diagnosis.retry);
            assert_eq!(found, (class, owner, retry), "{sqlstate:?}");
        }
    }
}
