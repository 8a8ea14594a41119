//! Failures as facts ([`SyncError`]), and what they mean ([`Diagnosis`]).
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use thiserror::Error;

use crate::tenant::Source;

pub mod aadsts;
mod api;
mod class;
mod connection;
mod diagnosis;
mod table;
mod text;

pub use class::{ErrorClass, UnknownClass};
pub use connection::ConnectionFault;
pub(crate) use connection::causes;
pub use diagnosis::{API_PROBE, BREAKER_PROBE, Diagnosis, IDENTITY_PROBE, Owner, Retry};
pub use table::TOO_LARGE_ADVICE;
pub(crate) use text::{codes_in, first_sentence, is_invisible, panic_message, shown, visible};

/// The service at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The token endpoint of Microsoft Entra.
    Entra,
    Defender,
    Graph,
    /// The managed identity service of the machine.
    ManagedIdentity,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Entra => "Entra's token endpoint",
            Self::Defender => "the Defender API",
            Self::Graph => "Microsoft Graph",
            Self::ManagedIdentity => "the managed identity endpoint of this machine",
        })
    }
}

impl From<Source> for Peer {
    fn from(source: Source) -> Self {
        match source {
            Source::Defender => Self::Defender,
            Source::Graph => Self::Graph,
        }
    }
}

/// What the claims of a token show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCheck {
    /// It is for the configured tenant and may read incidents.
    Valid,
    /// It is for the configured tenant, but has none of the roles that read incidents.
    RoleMissing,
    /// It cannot be read: Microsoft may make tokens opaque. The API decides.
    Unreadable,
}

/// What explains a refusal of Entra beside its code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntraDetails {
    /// For Microsoft's support.
    pub trace_id: String,
    /// The first sentence of its description, without ids.
    pub sentence: String,
    /// The requested scope; empty for the redirect of a consent.
    pub scope: String,
    /// Whether the configuration names a scope that is not that of the API.
    pub is_foreign_scope: bool,
    /// The scope that may be the right one instead.
    pub other_scope: Option<String>,
    /// The address that this machine sent the request from, unless it went through a proxy.
    pub local_address: Option<IpAddr>,
}

/// What a token was requested for, and what it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    pub scope: String,
    /// The token's claim `aud`, or what the token is instead.
    pub audience: String,
}

/// Facts about a failure, free of secrets and customer data. [`SyncError::diagnosis`] determines their meaning.
#[derive(Debug, Error, Clone)]
pub enum SyncError {
    /// Entra answered with an error.
    #[error("Entra answered {status} {error} AADSTS{code} (trace id {trace_id})", code = codes.first().copied().unwrap_or(0), trace_id = details.trace_id)]
    Entra {
        status: u16,
        /// The OAuth `error` word.
        error: String,
        /// AADSTS numbers.
        codes: Vec<u32>,
        /// From the `Retry-After` header.
        retry_after: Option<Duration>,
        details: Box<EntraDetails>,
    },
    /// The managed identity endpoint of this machine refused an assertion.
    #[error("the managed identity endpoint of this machine answered {status} {what}")]
    ManagedIdentity {
        status: u16,
        /// Its `error` word.
        what: String,
    },
    /// An assertion could not be created.
    #[error("{what}")]
    Assertion { what: &'static str },
    /// The proxy opened no tunnel.
    #[error("the proxy refused to connect to {peer}{}", if *wants_password { ": it requires a user name and a password (407)" } else { "" })]
    Proxy {
        peer: Peer,
        /// Whether it answered 407.
        wants_password: bool,
    },
    /// Entra reported success without a usable token.
    #[error("Entra's answer contains no token: {what}")]
    TokenReply { what: &'static str },
    /// The token is for another directory than the requested one.
    #[error("the token is for tenant {token_tid}, not for the configured tenant")]
    WrongTenant {
        /// The token's `tid`.
        token_tid: String,
    },
    /// The incidents API answered with an error.
    #[error("{} answered {status} {code} (tracking id {target}){}", Peer::from(*api), missing_role(*api, *status, *token))]
    Api {
        api: Source,
        status: u16,
        /// The API's error word, empty if the body contains none.
        code: String,
        /// Tracking id for Microsoft's support.
        target: String,
        /// From the `Retry-After` header.
        retry_after: Option<Duration>,
        /// The token's claims, which decide what a 403 means.
        token: TokenCheck,
        /// Whether the message speaks of a licence or of provisioning.
        names_licence: bool,
    },
    /// The incidents API answered 401 to a token that was new.
    #[error("{} answered 401 {code} to a new token for {} (tracking id {target})", Peer::from(*api), request.audience)]
    TokenRejected {
        api: Source,
        /// The API's error word.
        code: String,
        /// Tracking id for Microsoft's support.
        target: String,
        request: Box<TokenRequest>,
    },
    /// The incidents API reported success without a page of incidents.
    #[error("the answer of {} is not a page of incidents: {what}", Peer::from(*api))]
    ApiReply { api: Source, what: String },
    /// A response whose `Date` cannot be correct.
    #[error(
        "the API's answer is dated {server}, but the database's clock shows {database}",
        server = server.format(MOMENT), database = database.format(MOMENT)
    )]
    ClockSkew {
        /// The API's clock.
        server: DateTime<Utc>,
        /// The database's clock at that moment.
        database: DateTime<Utc>,
    },
    /// A body exceeded the limit after decompression.
    #[error("{peer} sent a body larger than {bytes_max} bytes")]
    BodyTooLarge { peer: Peer, bytes_max: usize },
    /// One incident alone exceeds the limit.
    #[error(
        "incident {incident_id} is larger than the {} MiB that incident-sync takes in one answer; its own fields and its first alerts are stored",
        bytes_max / 1024 / 1024
    )]
    IncidentTooLarge { incident_id: i64, bytes_max: usize },
    /// A redirect, which is never followed.
    #[error("{peer} redirected with status {status}; redirects are refused")]
    Redirected { peer: Peer, status: u16 },
    /// No response, or an incomplete one.
    #[error("no complete answer from {peer}: {what}")]
    Transport {
        peer: Peer,
        /// The cause, without the URL.
        what: String,
        /// The fault of the connection, if its type is known.
        fault: Option<ConnectionFault>,
    },
    #[error("{peer} did not answer within the deadline")]
    Timeout { peer: Peer },
    /// A next link to a host other than the configured one.
    #[error("the API's next link points to {origin}, which is not the configured API host")]
    ForeignNextLink {
        /// Scheme, host and port of the link.
        origin: String,
    },
    /// A page with an incident of another tenant.
    #[error("incident {incident_id} names tenant {uri_tid} in its incidentUri")]
    ForeignIncident { incident_id: i64, uri_tid: String },
    /// The API that a tenant is to be moved to names its incidents or alerts differently from what is stored.
    #[error("the move to {} was refused: {what}{}", Peer::from(*api), of_incident(*incident_id))]
    SourceMismatch {
        /// The new source.
        api: Source,
        /// The incident that differs, if it is one.
        incident_id: Option<i64>,
        /// What differs.
        what: &'static str,
    },
    /// A list that changes its order with each request, even within one instant.
    #[error(
        "the incident list changes its order between requests, even within the window {window}"
    )]
    UnstableListing {
        /// The window that could not be read completely.
        window: String,
    },
    /// A list with more and more pages.
    #[error("the incident list of the window {window} does not end")]
    EndlessListing {
        /// The window that could not be read completely.
        window: String,
    },
    /// A page of Graph whose expanded incidents have more alerts than it shows.
    #[error("the incident list shows only a part of the alerts of an incident")]
    PartialAlerts,
    /// Postgres refused a statement, or the connection failed.
    #[error("database: {step}{code}: {what}", code = in_brackets(sqlstate.as_deref()))]
    Database {
        /// The operation that failed.
        step: &'static str,
        /// The server's code, if the error comes from the server.
        sqlstate: Option<String>,
        /// The error without row data.
        what: String,
        /// The fault of the connection, if its type is known.
        fault: Option<ConnectionFault>,
    },
    /// A column has another type than when the statement was prepared. Its connection is dropped.
    #[error("database: {step}: a column has changed its type since the statement was prepared")]
    StalePlan {
        /// The operation that failed.
        step: &'static str,
    },
    /// The database's schema does not match this binary.
    #[error("database schema: {what}")]
    Schema { what: String },
    /// The service requested a pause, in an earlier run or one of another instance.
    #[error("not tried: the API asked for a pause that lasts another {} s", wait.as_secs())]
    Paused {
        /// Its remaining time.
        wait: Duration,
    },
    /// A page that this run committed is missing.
    #[error("the database lost a page that this run had committed (crash or failover)")]
    LostCommit,
    /// A row of the database contains a value that no release of incident-sync writes.
    #[error("the tenant's state contains a value out of bounds: {columns}")]
    StateOutOfBounds { columns: String },
    /// The lease has expired or is held by another instance.
    #[error("the lease of this tenant expired or was taken over by another instance")]
    LeaseLost,
    /// The app's credential was refused for other tenants.
    #[error("not tried: the app's credential was refused for other tenants ({code})")]
    CredentialBreaker {
        /// The AADSTS code that opened the breaker.
        code: u32,
    },
    /// The API refuses every tenant that it served before.
    #[error("{} refuses every tenant that it served before", Peer::from(*api))]
    ApiRetired { api: Source },
    /// The API refuses a tenant that it served before, and no other tenant was read since.
    #[error("{} answered {status}, and no other tenant was read since", Peer::from(*api))]
    ApiInDoubt {
        api: Source,
        /// HTTP status.
        status: u16,
    },
    /// Entra requested a pause of the app, in response to a token request for another tenant.
    #[error("not tried: Entra throttles the app")]
    EntraHold {
        /// Its remaining time.
        left: Duration,
    },
    /// The process is shutting down.
    #[error("stopped")]
    Stopped,
    #[error("a task of incident-sync panicked: {what}")]
    Panicked { what: String },
}

/// The format of times in errors.
const MOMENT: &str = "%Y-%m-%d %H:%M:%S UTC";

fn missing_role(api: Source, status: u16, token: TokenCheck) -> String {
    if status == 403 && token == TokenCheck::RoleMissing {
        return format!("; the token's roles lack {}", api.permission());
    }
    String::new()
}

fn of_incident(incident_id: Option<i64>) -> String {
    incident_id.map_or_else(String::new, |id| format!(" (incident {id})"))
}

fn in_brackets(sqlstate: Option<&str>) -> String {
    sqlstate.map_or_else(String::new, |code| format!(" (SQLSTATE {code})"))
}

#[cfg(test)]
impl SyncError {
    /// An answer of the Defender API whose body names no reason.
    pub(crate) fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        Self::Api {
            api: Source::Defender,
            status,
            code: String::new(),
            target: String::new(),
            retry_after,
            token: TokenCheck::Unreadable,
            names_licence: false,
        }
    }
}

impl SyncError {
    /// Whether a smaller page may succeed: the API failed without requesting a pause, or the page was too large.
    pub fn smaller_page_may_help(&self) -> bool {
        let has_failed = matches!(self, Self::Api { status: 206 | 408 | 500..=599, .. })
            && self.diagnosis().retry == Retry::Now;
        has_failed
            || matches!(
                self,
                Self::PartialAlerts | Self::BodyTooLarge { peer: Peer::Defender | Peer::Graph, .. }
            )
    }

    /// Whether every tenant gets this answer when the API has ended. A missing role and a feature that is not enabled are
    /// matters of one customer.
    pub fn may_mean_retirement(&self) -> bool {
        if let Self::Api { status: 403, code, token, .. } = self {
            return code != "DisabledFeature" && *token != TokenCheck::RoleMissing;
        }
        matches!(self, Self::Api { status: 404 | 410, .. })
    }

    /// Adds the row to an error of the database.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        if let Self::Database { step, sqlstate, what, fault } = self {
            return Self::Database { step, sqlstate, what: format!("{what}, {place}"), fault };
        }
        self
    }

    /// The SQLSTATE, if the error comes from Postgres.
    pub fn sqlstate(&self) -> Option<&str> {
        if let Self::Database { sqlstate, .. } = self { sqlstate.as_deref() } else { None }
    }

    /// Whether Postgres always refuses this content.
    pub fn is_value_refused(&self) -> bool {
        self.diagnosis().class == ErrorClass::DatabaseData
    }

    /// Whether the failure may end without any action.
    pub fn is_transient(&self) -> bool {
        matches!(self.diagnosis().retry, Retry::Now | Retry::After(_) | Retry::NextRun)
    }

    /// The AADSTS code of a failure that all tenants of the app share; for the managed identity endpoint its status, 0 if
    /// it does not answer.
    pub fn shared_credential_code(&self) -> Option<u32> {
        if let Self::Entra { codes, .. } = self
            && self.diagnosis().shared
        {
            return Some(codes.first().copied().unwrap_or(0));
        }
        if let Self::ManagedIdentity { status, .. } = self {
            return Some(u32::from(*status));
        }
        self.is_identity_endpoint_absent().then_some(0)
    }

    fn is_identity_endpoint_absent(&self) -> bool {
        matches!(
            self,
            Self::Transport { peer: Peer::ManagedIdentity, .. }
                | Self::Timeout { peer: Peer::ManagedIdentity }
        )
    }

    /// Whether another credential of the same app may succeed.
    pub fn is_credential_error(&self) -> bool {
        matches!(self, Self::CredentialBreaker { .. }) || self.shared_credential_code().is_some()
    }
}
