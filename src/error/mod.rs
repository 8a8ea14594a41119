//! What can go wrong, as facts, and the one table that says who must act and whether waiting helps.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{DateTime, Utc};
use thiserror::Error;

pub mod aadsts;

/// The party at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The token endpoint.
    Entra,
    /// The incidents API.
    Defender,
    /// The managed identity service of the machine.
    ManagedIdentity,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Entra => "Entra's token endpoint",
            Self::Defender => "the Defender API",
            Self::ManagedIdentity => {
                "the managed identity service of this machine (is it an Azure machine?)"
            }
        })
    }
}

/// Facts about a failure. Rooms fill them in; only [`SyncError::diagnosis`] judges them.
#[derive(Debug, Error, Clone)]
pub enum SyncError {
    /// Entra answered with an error.
    #[error("Entra answered {status} {error} AADSTS{code} (trace {trace_id})", code = codes.first().copied().unwrap_or(0))]
    Entra {
        /// HTTP status.
        status: u16,
        /// The OAuth `error` word.
        error: String,
        /// AADSTS numbers.
        codes: Vec<u32>,
        /// For Microsoft's support.
        trace_id: String,
        /// From the `Retry-After` header.
        retry_after: Option<Duration>,
    },
    /// The managed identity service of this machine gave no assertion.
    #[error("the managed identity service of this machine answered {status} {what}")]
    ManagedIdentity {
        /// HTTP status.
        status: u16,
        /// Its `error` word.
        what: String,
    },
    /// An assertion could not be made.
    #[error("{what}")]
    Assertion {
        /// What went wrong.
        what: &'static str,
    },
    /// The proxy on the way refused.
    #[error("the proxy on the way to {peer} refused: {what}")]
    Proxy {
        /// Who should have been reached.
        peer: Peer,
        /// What it said.
        what: String,
        /// It wants a name and a password.
        wants_password: bool,
    },
    /// Entra answered success with something that holds no token.
    #[error("Entra's answer holds no token: {what}")]
    TokenReply {
        /// What was wrong with it.
        what: &'static str,
    },
    /// The token is for another directory than the one that was asked.
    #[error("the token is for tenant {token_tid}, not for the configured tenant")]
    WrongTenant {
        /// The token's `tid`.
        token_tid: String,
    },
    /// The Defender API answered with an error.
    #[error("the Defender API answered {status} {code} (tracking id {target}){hint}")]
    Api {
        /// HTTP status.
        status: u16,
        /// The API's error word, empty when the body held none.
        code: String,
        /// Tracking id for Microsoft's support.
        target: String,
        /// From the `Retry-After` header.
        retry_after: Option<Duration>,
        /// What we know besides, such as a role that the token lacks.
        hint: String,
    },
    /// The Defender API answered success with something that is no page of incidents.
    #[error("the Defender API's answer is no page of incidents: {what}")]
    ApiReply {
        /// What was wrong with it.
        what: String,
    },
    /// An answer whose `Date` cannot be right.
    #[error(
        "the Defender API's answer has the Date {server}, and the database's clock shows {database}",
        server = server.format(MOMENT), database = database.format(MOMENT)
    )]
    ClockSkew {
        /// The API's clock.
        server: DateTime<Utc>,
        /// The database's clock at that moment.
        database: DateTime<Utc>,
    },
    /// A body passed the limit after inflation.
    #[error("{peer} sent a body of more than {bytes_max} bytes")]
    BodyTooLarge {
        /// Who sent it.
        peer: Peer,
        /// The limit.
        bytes_max: usize,
    },
    /// A redirect, which is never followed.
    #[error("{peer} redirected with status {status}; redirects are refused")]
    Redirected {
        /// Who redirected.
        peer: Peer,
        /// HTTP status.
        status: u16,
    },
    /// No answer, or half of one.
    #[error("no complete answer from {peer}: {what}")]
    Transport {
        /// Who was asked.
        peer: Peer,
        /// What happened, without the URL.
        what: String,
    },
    /// No answer in time.
    #[error("{peer} did not answer within the deadline")]
    Timeout {
        /// Who was asked.
        peer: Peer,
    },
    /// A next link that leaves the configured host.
    #[error("the API's next link points to {origin}, which is not the configured API host")]
    ForeignNextLink {
        /// Scheme, host and port of the link.
        origin: String,
    },
    /// A page with an incident of another tenant.
    #[error("incident {incident_id} names tenant {uri_tid} in its incidentUri")]
    ForeignIncident {
        /// The incident.
        incident_id: i64,
        /// The tenant it names.
        uri_tid: String,
    },
    /// A list that changes its order at each request, even within one instant.
    #[error("the listing is in no stable order even within the window {window}")]
    UnstableListing {
        /// The window that could not be drained.
        window: String,
    },
    /// A list that goes on and on.
    #[error("the listing of the window {window} does not end")]
    EndlessListing {
        /// The window that could not be drained.
        window: String,
    },
    /// Postgres refused or went away.
    #[error("database: {step}{code}: {what}", code = in_brackets(sqlstate.as_deref()))]
    Database {
        /// What we were doing.
        step: &'static str,
        /// The server's code, if it was the server that spoke.
        sqlstate: Option<String>,
        /// The error without row data.
        what: String,
    },
    /// The database's schema is not the one that this binary knows.
    #[error("database schema: {what}")]
    Schema {
        /// What does not fit.
        what: String,
    },
    /// The service asked for a pause in an earlier run, or in another instance's.
    #[error("not tried: the Defender API asked for a pause that lasts {} s more", wait.as_secs())]
    Paused {
        /// The rest of it.
        wait: Duration,
    },
    /// What this run wrote before is not there any more.
    #[error(
        "the database has lost the page that this run wrote before, as in a crash or a failover"
    )]
    LostCommit,
    /// A row of the database holds what no release of ours writes.
    #[error("the tenant's state holds a value out of bounds: {columns}")]
    StateOutOfBounds {
        /// The columns.
        columns: String,
    },
    /// Another instance works on this tenant.
    #[error("the lease of this tenant was lost to another instance or has expired")]
    LeaseLost,
    /// The app's credential was refused for other tenants already.
    #[error("not tried: the app's credential was refused for other tenants ({code})")]
    CredentialBreaker {
        /// The AADSTS code that opened the breaker.
        code: u32,
    },
    /// Entra asked the app for a pause, at the request for another tenant.
    #[error("not tried: Entra throttles the app")]
    EntraHold {
        /// What is left of it.
        left: Duration,
    },
    /// We are shutting down.
    #[error("stopped")]
    Stopped,
    /// A task of ours panicked.
    #[error("a task of incident-sync panicked: {what}")]
    Panicked {
        /// The panic's message.
        what: String,
    },
}

/// How errors show a time.
const MOMENT: &str = "%Y-%m-%d %H:%M:%S UTC";

fn in_brackets(sqlstate: Option<&str>) -> String {
    sqlstate.map_or_else(String::new, |code| format!(" (SQLSTATE {code})"))
}

/// The person who can end a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The developers of incident-sync.
    Developers,
    /// The partner's operator.
    Operator,
    /// Somebody with rights in the customer's tenant.
    CustomerAdmin,
    /// Nobody: it passes by itself.
    Nobody,
}

impl Owner {
    /// The word used in the database, in metrics and in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Developers => "developers",
            Self::Operator => "operator",
            Self::CustomerAdmin => "customer_admin",
            Self::Nobody => "nobody",
        }
    }
}

/// Whether and when trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Soon, with back-off.
    Now,
    /// Not before this long.
    After(Duration),
    /// With a new token, once.
    WithNewToken,
    /// Not in this run; the next one may succeed.
    NextRun,
    /// Not until somebody acts; a probe now and then notices that it was done.
    OnceFixed,
}

/// What another party said, so that it can be shown in a line of the log and stored by Postgres: short, without characters that
/// are not seen.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).take(80).collect()
}

/// A text without characters that are not seen, such as a path for the terminal.
pub(crate) fn visible(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).collect()
}

/// Control characters, and those that break lines, reverse the order of what follows, or show nothing: Unicode's categories Cc,
/// Cf, Zl and Zp.
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_control()
        || FORMAT.iter().any(|range| range.contains(&c))
        || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The category Cf. Source: Unicode 17, `DerivedGeneralCategory.txt`.
const FORMAT: [RangeInclusive<char>; 21] = [
    '\u{ad}'..='\u{ad}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{2064}',
    '\u{2066}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0001}'..='\u{e0001}',
    '\u{e0020}'..='\u{e007f}',
];

/// The words of a panic up to what they quote: that may be a customer's text, as where one is cut within a letter.
pub(crate) fn panic_message(text: &str) -> &str {
    text.split(['`', '"', '\'']).next().unwrap_or_default().trim_end()
}

/// The judgement on a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// For metrics, `sync_state.error_class` and filters; never changes with the text.
    pub class: &'static str,
    /// Who must act.
    pub owner: Owner,
    /// Whether waiting helps.
    pub retry: Retry,
    /// One sentence for the operator.
    pub advice: String,
    /// True when every tenant of the same app will fail alike.
    pub shared: bool,
}

impl Diagnosis {
    fn new(class: &'static str, owner: Owner, retry: Retry, advice: impl Into<String>) -> Self {
        Self { class, owner, retry, advice: advice.into(), shared: false }
    }
}

/// A 429 without a `Retry-After` waits at least this long; the quota is counted by the minute.
const UNSPECIFIED_THROTTLE: Duration = Duration::from_secs(60);
/// An announced wait is cut to this, after which one probe tells more.
const LONGEST_THROTTLE: Duration = Duration::from_secs(6 * 3600);

fn throttled(peer: Peer, retry_after: Option<Duration>) -> Diagnosis {
    let wait = retry_after.unwrap_or(UNSPECIFIED_THROTTLE).min(LONGEST_THROTTLE);
    let say = format!("{peer} asked for a pause of {} s; it is obeyed", wait.as_secs());
    Diagnosis::new("throttled", Owner::Nobody, Retry::After(wait), say)
}

impl SyncError {
    /// The one place where a failure is judged.
    #[expect(clippy::too_many_lines, reason = "one table, a row for each kind of failure")]
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Entra { status: 429, retry_after, .. } => throttled(Peer::Entra, *retry_after),
            Self::Entra { status, error, codes, .. } => aadsts::diagnosis(*status, error, codes),
            // 404 and 410 come while the service or the identity is being set up.
            Self::ManagedIdentity { status: 404 | 410 | 429 | 500..=599, .. } => Diagnosis {
                shared: true,
                ..Diagnosis::new(
                    "transport",
                    Owner::Nobody,
                    Retry::After(IDENTITY_PROBE),
                    "The managed identity service of this machine is unwell, or not ready yet; it is tried again in a minute",
                )
            },
            Self::Transport { peer: Peer::ManagedIdentity, .. }
            | Self::Timeout { peer: Peer::ManagedIdentity } => Diagnosis {
                shared: true,
                ..Diagnosis::new(
                    "transport",
                    Owner::Operator,
                    Retry::After(IDENTITY_PROBE),
                    "The managed identity service of this machine does not answer; only Azure machines have one: run there, or take another credential",
                )
            },
            Self::ManagedIdentity { .. } => Diagnosis {
                shared: true,
                ..Diagnosis::new(
                    "credential",
                    Owner::Operator,
                    Retry::OnceFixed,
                    "The managed identity service knows no such identity; assign the identity to this machine and check managed_identity_client_id",
                )
            },
            Self::Assertion { .. } => Diagnosis::new(
                "bug",
                Owner::Developers,
                Retry::NextRun,
                "The assertion could not be signed; report it",
            ),
            Self::Proxy { wants_password: true, .. } => Diagnosis::new(
                "proxy",
                Owner::Operator,
                Retry::NextRun,
                "The proxy wants a name and a password; put the name into http_client.proxy and the password into http_client.proxy_password_file",
            ),
            Self::Proxy { .. } => Diagnosis::new(
                "proxy",
                Owner::Operator,
                Retry::NextRun,
                "The proxy does not let us through; whoever runs it must allow the hosts of Entra and of the API, or mend it",
            ),
            Self::EntraHold { left } => throttled(Peer::Entra, Some(*left)),
            Self::TokenReply { .. } | Self::ApiReply { .. } => Diagnosis::new(
                "bad_reply",
                Owner::Nobody,
                Retry::Now,
                "The answer came from something that is not Microsoft's service, such as a proxy; check the network path if it stays",
            ),
            Self::ClockSkew { .. } => Diagnosis::new(
                "bad_reply",
                Owner::Operator,
                Retry::Now,
                "Nothing of the answer was stored. Correct the clock of the database server if it is wrong; otherwise check the network path, because the answer does not come from Microsoft's service",
            ),
            Self::WrongTenant { .. } => Diagnosis::new(
                "security",
                Owner::Operator,
                Retry::OnceFixed,
                "The token belongs to another tenant than the configured one; nothing was read. Check the tenant id and the authority",
            ),
            Self::Api { status, retry_after, code, hint, .. } => {
                api_diagnosis(*status, code, *retry_after, hint)
            }
            Self::BodyTooLarge { .. } => Diagnosis::new(
                "too_large",
                Owner::Developers,
                Retry::NextRun,
                "A page is larger than the limit; report it",
            ),
            Self::Redirected { .. } => Diagnosis::new(
                "security",
                Owner::Operator,
                Retry::OnceFixed,
                "Redirects are refused because the secret and the token would go along; check authority, base_url and the network path",
            ),
            Self::Transport { .. } => Diagnosis::new(
                "transport",
                Owner::Nobody,
                Retry::Now,
                "The network or the service is unwell; it is tried again",
            ),
            // Not again in this run: the wait has held its place long enough, and others want it.
            Self::Timeout { .. } => Diagnosis::new(
                "transport",
                Owner::Nobody,
                Retry::NextRun,
                "The network or the service hangs; it is tried again after a pause",
            ),
            Self::ForeignNextLink { .. } | Self::ForeignIncident { .. } => Diagnosis::new(
                "security",
                Owner::Operator,
                Retry::OnceFixed,
                "The answer belongs to another host or tenant; nothing of it was stored. Check base_url and the network path",
            ),
            Self::UnstableListing { .. } | Self::EndlessListing { .. } => Diagnosis::new(
                "unstable_listing",
                Owner::Developers,
                Retry::NextRun,
                "The API's listing cannot be read without loss; report it",
            ),
            Self::Database { sqlstate, .. } => database_diagnosis(sqlstate.as_deref()),
            Self::Schema { .. } => Diagnosis::new(
                "schema",
                Owner::Operator,
                Retry::OnceFixed,
                "The database's schema does not fit this version; run incident-sync migrate with the newest version installed",
            ),
            Self::Paused { wait } => throttled(Peer::Defender, Some(*wait)),
            Self::LostCommit => Diagnosis::new(
                "database",
                Owner::Nobody,
                Retry::NextRun,
                "Postgres has lost its last moments; the next run reads them again",
            ),
            Self::StateOutOfBounds { .. } => Diagnosis::new(
                "bad_state",
                Owner::Operator,
                Retry::NextRun,
                "The database holds a value that incident-sync cannot use, so the tenant is not read; correct the column in defender.sync_state, or purge the tenant and synchronise it again",
            ),
            Self::LeaseLost => Diagnosis::new(
                "lease_lost",
                Owner::Nobody,
                Retry::NextRun,
                "Another instance has taken this tenant over",
            ),
            Self::CredentialBreaker { code } => Diagnosis {
                shared: true,
                ..Diagnosis::new(
                    "credential",
                    Owner::Operator,
                    Retry::After(BREAKER_PROBE),
                    format!(
                        "The app's own credential was refused ({code}) for several tenants; renew it: a replaced file is read again by itself"
                    ),
                )
            },
            Self::Stopped => Diagnosis::new(
                "stopped",
                Owner::Nobody,
                Retry::NextRun,
                "incident-sync was stopped; the next start goes on here",
            ),
            Self::Panicked { .. } => Diagnosis::new(
                "bug",
                Owner::Developers,
                Retry::NextRun,
                "A defect of incident-sync; report it with the log",
            ),
        }
    }

    /// Whether a smaller part of the list may be served: the API failed at this very request, without asking for a pause,
    /// or its page was too large.
    pub fn smaller_page_may_help(&self) -> bool {
        let has_failed = matches!(self, Self::Api { status: 408 | 500..=599, .. })
            && self.diagnosis().retry == Retry::Now;
        has_failed || matches!(self, Self::BodyTooLarge { peer: Peer::Defender, .. })
    }

    /// The error of the database with where in its rows it occurred.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        if let Self::Database { step, sqlstate, what } = self {
            return Self::Database { step, sqlstate, what: format!("{what}, {place}") };
        }
        self
    }

    /// Postgres's code, if it was Postgres that spoke.
    pub fn sqlstate(&self) -> Option<&str> {
        if let Self::Database { sqlstate, .. } = self { sqlstate.as_deref() } else { None }
    }

    /// Whether it is the database that is unwell, and every tenant's run will fail alike.
    pub fn is_database_error(&self) -> bool {
        matches!(self, Self::Database { .. }) && self.diagnosis().class != "database_data"
    }

    /// Whether time alone may mend it: nobody has refused anything.
    pub fn is_transient(&self) -> bool {
        matches!(self.diagnosis().retry, Retry::Now | Retry::After(_) | Retry::NextRun)
    }

    /// The AADSTS code of a failure that all tenants of the app share; of the managed identity service its status, 0 where
    /// it is away.
    pub fn shared_credential_code(&self) -> Option<u32> {
        if let Self::Entra { codes, .. } = self
            && self.diagnosis().shared
        {
            return Some(codes.first().copied().unwrap_or(0));
        }
        if let Self::ManagedIdentity { status, .. } = self {
            return Some(u32::from(*status));
        }
        self.is_identity_service_absent().then_some(0)
    }

    fn is_identity_service_absent(&self) -> bool {
        matches!(
            self,
            Self::Transport { peer: Peer::ManagedIdentity, .. }
                | Self::Timeout { peer: Peer::ManagedIdentity }
        )
    }

    /// Whether another credential of the same application may do better.
    pub fn is_credential_error(&self) -> bool {
        matches!(self, Self::CredentialBreaker { .. }) || self.shared_credential_code().is_some()
    }
}

/// How long a managed identity service that is unwell is left alone before one probe.
pub const IDENTITY_PROBE: Duration = Duration::from_secs(60);
/// How long a credential that was refused for several tenants is left alone before one probe.
pub const BREAKER_PROBE: Duration = Duration::from_secs(15 * 60);

/// Source of the statuses and codes: `MicrosoftDocs/defender-docs`, `api-error-codes.md`.
fn api_diagnosis(status: u16, code: &str, retry_after: Option<Duration>, hint: &str) -> Diagnosis {
    match status {
        429 => throttled(Peer::Defender, retry_after),
        401 => Diagnosis::new(
            "unauthorized",
            Owner::Nobody,
            Retry::WithNewToken,
            "The API did not accept the token; a new one is asked for once",
        ),
        403 if code == "DisabledFeature" => Diagnosis::new(
            "tenant_config",
            Owner::CustomerAdmin,
            Retry::OnceFixed,
            "Microsoft 365 Defender is not enabled in the tenant; the customer must enable or license it",
        ),
        403 if code == "DisallowedOperation" => Diagnosis::new(
            "forbidden",
            Owner::Operator,
            Retry::OnceFixed,
            "Microsoft does not allow this operation in the tenant; open a ticket with Microsoft and give the tracking id",
        ),
        403 if hint.is_empty() => Diagnosis::new(
            "forbidden",
            Owner::CustomerAdmin,
            Retry::WithNewToken,
            "The token may not read incidents; the customer's admin must grant Incident.Read.All (application permission of Microsoft Threat Protection) by the consent link",
        ),
        403 => Diagnosis::new(
            "missing_role",
            Owner::CustomerAdmin,
            Retry::WithNewToken,
            "The token lacks the role Incident.Read.All; add the permission to the app registration, then the customer's admin must consent again",
        ),
        404 => Diagnosis::new(
            "tenant_config",
            Owner::Operator,
            Retry::OnceFixed,
            "The API does not know this address; check cloud and base_url",
        ),
        503 => match retry_after {
            Some(pause) => Diagnosis::new(
                "upstream",
                Owner::Nobody,
                Retry::After(pause.min(LONGEST_THROTTLE)),
                "The service is unavailable and named a pause; it is obeyed",
            ),
            None => Diagnosis::new(
                "upstream",
                Owner::Nobody,
                Retry::Now,
                "The service is unavailable; it is tried again",
            ),
        },
        408 | 500..=599 => Diagnosis::new(
            "upstream",
            Owner::Nobody,
            Retry::Now,
            "The service failed; it is tried again",
        ),
        _ => Diagnosis::new(
            "bad_request",
            Owner::Developers,
            Retry::NextRun,
            "The API refused the request as wrong; report it",
        ),
    }
}

/// Source of the codes: PostgreSQL's manual, appendix A.
fn database_diagnosis(sqlstate: Option<&str>) -> Diagnosis {
    match sqlstate.map(|code| code.get(..2).unwrap_or(code)) {
        Some("28" | "42" | "3D" | "3F") => Diagnosis::new(
            "database_rights",
            Owner::Operator,
            Retry::NextRun,
            "Postgres refuses us; check user, password, rights and that the schema is migrated",
        ),
        Some("53") => Diagnosis::new(
            "database_full",
            Owner::Operator,
            Retry::NextRun,
            "Postgres is out of disk, memory or connections",
        ),
        Some("22" | "23" | "54") => Diagnosis::new(
            "database_data",
            Owner::Developers,
            Retry::NextRun,
            "Postgres refused a value; report it",
        ),
        // 25P03: Postgres has ended a transaction in which we were silent for too long.
        Some("25") if sqlstate != Some("25P03") => Diagnosis::new(
            "database_read_only",
            Owner::Operator,
            Retry::NextRun,
            "Postgres is read-only, as after a failover; it is tried again",
        ),
        Some("40") => Diagnosis::new(
            "database_conflict",
            Owner::Nobody,
            Retry::Now,
            "Two transactions collided; it is tried again",
        ),
        Some(_) | None => Diagnosis::new(
            "database",
            Owner::Nobody,
            Retry::Now,
            "Postgres is away or slow; it is tried again",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: u16, code: &str, retry_after: Option<u64>) -> Diagnosis {
        let retry_after = retry_after.map(Duration::from_secs);
        SyncError::Api {
            status,
            code: code.into(),
            target: String::new(),
            retry_after,
            hint: String::new(),
        }
        .diagnosis()
    }

    #[test]
    fn text_of_others_is_shown_without_invisible_characters() {
        let said = "a\u{202e}gnp.\u{2028}e\u{2029}x\u{200b}e\u{feff}\u{ad}\u{2066}\u{e0041}\u{1b}[31m\u{85}\r\n";
        assert_eq!(
            (shown(said), visible(said)),
            ("agnp.exe[31m".to_owned(), "agnp.exe[31m".to_owned())
        );
        let text = "Größe 字 \u{e9} \u{301} 😀";
        assert_eq!(shown(text), text);
        assert_eq!((shown(&"x".repeat(99)).len(), visible(&"x".repeat(99)).len()), (80, 99));
        assert!(FORMAT.is_sorted_by(|a, b| a.end() < b.start()));
    }

    #[test]
    fn a_panic_does_not_quote_what_it_met() {
        let title = "\u{e9}: a customer's incident".to_owned();
        let panic = std::panic::catch_unwind(|| title[1..].len()).unwrap_err();
        let said = panic.downcast_ref::<String>().unwrap();
        assert!(said.contains("customer"), "this is why: {said}");
        assert!(
            panic_message(said).contains("char boundary")
                && !panic_message(said).contains("customer")
        );
    }

    #[test]
    fn a_pause_is_obeyed_within_reason() {
        assert_eq!(
            api(429, "TooManyRequests", Some(17)).retry,
            Retry::After(Duration::from_secs(17))
        );
        assert_eq!(api(429, "", None).retry, Retry::After(UNSPECIFIED_THROTTLE));
        assert_eq!(api(429, "", Some(86_400)).retry, Retry::After(LONGEST_THROTTLE));
        assert_eq!(api(503, "", Some(5)).retry, Retry::After(Duration::from_secs(5)));
    }

    #[test]
    fn api_statuses_name_who_must_act() {
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
    fn a_smaller_page_helps_only_where_the_page_was_at_fault() {
        let api = |status, seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            SyncError::Api {
                status,
                code: String::new(),
                target: String::new(),
                retry_after,
                hint: String::new(),
            }
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
    fn database_codes_name_who_must_act() {
        assert_eq!(database_diagnosis(Some("28P01")).owner, Owner::Operator);
        assert_eq!(database_diagnosis(Some("40P01")).retry, Retry::Now);
        assert_eq!(database_diagnosis(Some("57P01")).retry, Retry::Now);
        assert_eq!(database_diagnosis(Some("25P03")).retry, Retry::Now);
        assert_eq!(database_diagnosis(None).owner, Owner::Nobody);
    }
}
