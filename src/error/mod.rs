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
            Self::ManagedIdentity => "the managed identity service of this machine (is it an Azure machine?)",
        })
    }
}

/// Facts about a failure. Rooms fill them in; only [`SyncError::verdict`] judges them.
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
    #[error("the database has lost the page that this run wrote before, as in a crash or a failover")]
    TakenBack,
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
pub enum Actor {
    /// The developers of incident-sync.
    Us,
    /// The partner's operator.
    Operator,
    /// Somebody with rights in the customer's tenant.
    CustomerAdmin,
    /// Nobody: it passes by itself.
    Nobody,
}

impl Actor {
    /// The word used in the database, in metrics and in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Operator => "operator",
            Self::CustomerAdmin => "customer_admin",
            Self::Nobody => "nobody",
        }
    }
}

/// Whether and when trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Soon, with back-off.
    Soon,
    /// Not before this long.
    AtLeast(Duration),
    /// With a new token, once.
    NewToken,
    /// Not in this run; the next one may succeed.
    NextRun,
    /// Not until somebody acts; a probe now and then notices that it was done.
    UntilActed,
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
    c.is_control() || FORMAT.iter().any(|range| range.contains(&c)) || matches!(c, '\u{2028}' | '\u{2029}')
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
pub(crate) fn panic_words(text: &str) -> &str {
    text.split(['`', '"', '\'']).next().unwrap_or_default().trim_end()
}

/// The judgement on a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For metrics, `sync_state.error_class` and filters; never changes with the text.
    pub class: &'static str,
    /// Who must act.
    pub who: Actor,
    /// Whether waiting helps.
    pub wait: Wait,
    /// One sentence for the operator.
    pub say: String,
    /// True when every tenant of the same app will fail alike.
    pub shared: bool,
}

impl Verdict {
    fn new(class: &'static str, who: Actor, wait: Wait, say: impl Into<String>) -> Self {
        Self { class, who, wait, say: say.into(), shared: false }
    }
}

/// A 429 without a `Retry-After` waits at least this long; the quota is counted by the minute.
const UNSPECIFIED_THROTTLE: Duration = Duration::from_secs(60);
/// An announced wait is cut to this, after which one probe tells more.
const LONGEST_THROTTLE: Duration = Duration::from_secs(6 * 3600);

fn throttled(peer: Peer, retry_after: Option<Duration>) -> Verdict {
    let wait = retry_after.unwrap_or(UNSPECIFIED_THROTTLE).min(LONGEST_THROTTLE);
    let say = format!("{peer} asked for a pause of {} s; it is obeyed", wait.as_secs());
    Verdict::new("throttled", Actor::Nobody, Wait::AtLeast(wait), say)
}

impl SyncError {
    /// The one place where a failure is judged.
    #[expect(clippy::too_many_lines, reason = "one table, a row for each kind of failure")]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Entra { status: 429, retry_after, .. } => throttled(Peer::Entra, *retry_after),
            Self::Entra { status, error, codes, .. } => aadsts::verdict(*status, error, codes),
            // 404 and 410 come while the service or the identity is being set up.
            Self::ManagedIdentity { status: 404 | 410 | 429 | 500..=599, .. } => Verdict {
                shared: true,
                ..Verdict::new(
                    "transport",
                    Actor::Nobody,
                    Wait::AtLeast(IDENTITY_PROBE),
                    "The managed identity service of this machine is unwell, or not ready yet; it is tried again in a minute",
                )
            },
            Self::Transport { peer: Peer::ManagedIdentity, .. } | Self::Timeout { peer: Peer::ManagedIdentity } => {
                Verdict {
                    shared: true,
                    ..Verdict::new(
                        "transport",
                        Actor::Operator,
                        Wait::AtLeast(IDENTITY_PROBE),
                        "The managed identity service of this machine does not answer; only Azure machines have one: run there, or take another credential",
                    )
                }
            }
            Self::ManagedIdentity { .. } => Verdict {
                shared: true,
                ..Verdict::new(
                    "credential",
                    Actor::Operator,
                    Wait::UntilActed,
                    "The managed identity service knows no such identity; assign the identity to this machine and check managed_identity_client_id",
                )
            },
            Self::Assertion { .. } => {
                Verdict::new("bug", Actor::Us, Wait::NextRun, "The assertion could not be signed; report it")
            }
            Self::Proxy { wants_password: true, .. } => Verdict::new(
                "proxy",
                Actor::Operator,
                Wait::NextRun,
                "The proxy wants a name and a password; put the name into http_client.proxy and the password into http_client.proxy_password_file",
            ),
            Self::Proxy { .. } => Verdict::new(
                "proxy",
                Actor::Operator,
                Wait::NextRun,
                "The proxy does not let us through; whoever runs it must allow the hosts of Entra and of the API, or mend it",
            ),
            Self::EntraHold { left } => throttled(Peer::Entra, Some(*left)),
            Self::TokenReply { .. } | Self::ApiReply { .. } => Verdict::new(
                "bad_reply",
                Actor::Nobody,
                Wait::Soon,
                "The answer came from something that is not Microsoft's service, such as a proxy; check the network path if it stays",
            ),
            Self::ClockSkew { .. } => Verdict::new(
                "bad_reply",
                Actor::Operator,
                Wait::Soon,
                "Nothing of the answer was stored. Correct the clock of the database server if it is wrong; otherwise check the network path, because the answer does not come from Microsoft's service",
            ),
            Self::WrongTenant { .. } => Verdict::new(
                "security",
                Actor::Operator,
                Wait::UntilActed,
                "The token belongs to another tenant than the configured one; nothing was read. Check the tenant id and the authority",
            ),
            Self::Api { status, retry_after, code, hint, .. } => api_verdict(*status, code, *retry_after, hint),
            Self::BodyTooLarge { .. } => {
                Verdict::new("too_large", Actor::Us, Wait::NextRun, "A page is larger than the limit; report it")
            }
            Self::Redirected { .. } => Verdict::new(
                "security",
                Actor::Operator,
                Wait::UntilActed,
                "Redirects are refused because the secret and the token would go along; check authority, base_url and the network path",
            ),
            Self::Transport { .. } => Verdict::new(
                "transport",
                Actor::Nobody,
                Wait::Soon,
                "The network or the service is unwell; it is tried again",
            ),
            // Not again in this run: the wait has held its place long enough, and others want it.
            Self::Timeout { .. } => Verdict::new(
                "transport",
                Actor::Nobody,
                Wait::NextRun,
                "The network or the service hangs; it is tried again after a pause",
            ),
            Self::ForeignNextLink { .. } | Self::ForeignIncident { .. } => Verdict::new(
                "security",
                Actor::Operator,
                Wait::UntilActed,
                "The answer belongs to another host or tenant; nothing of it was stored. Check base_url and the network path",
            ),
            Self::UnstableListing { .. } | Self::EndlessListing { .. } => Verdict::new(
                "unstable_listing",
                Actor::Us,
                Wait::NextRun,
                "The API's listing cannot be read without loss; report it",
            ),
            Self::Database { sqlstate, .. } => database_verdict(sqlstate.as_deref()),
            Self::Schema { .. } => Verdict::new(
                "schema",
                Actor::Operator,
                Wait::UntilActed,
                "The database's schema does not fit this version; run incident-sync migrate with the newest version installed",
            ),
            Self::Paused { wait } => throttled(Peer::Defender, Some(*wait)),
            Self::TakenBack => Verdict::new(
                "database",
                Actor::Nobody,
                Wait::NextRun,
                "Postgres has lost its last moments; the next run reads them again",
            ),
            Self::StateOutOfBounds { .. } => Verdict::new(
                "bad_state",
                Actor::Operator,
                Wait::NextRun,
                "The database holds a value that incident-sync cannot use, so the tenant is not read; correct the column in defender.sync_state, or purge the tenant and synchronise it again",
            ),
            Self::LeaseLost => {
                Verdict::new("lease_lost", Actor::Nobody, Wait::NextRun, "Another instance has taken this tenant over")
            }
            Self::CredentialBreaker { code } => Verdict {
                shared: true,
                ..Verdict::new(
                    "credential",
                    Actor::Operator,
                    Wait::AtLeast(BREAKER_PROBE),
                    format!(
                        "The app's own credential was refused ({code}) for several tenants; renew it: a replaced file is read again by itself"
                    ),
                )
            },
            Self::Stopped => Verdict::new(
                "stopped",
                Actor::Nobody,
                Wait::NextRun,
                "incident-sync was stopped; the next start goes on here",
            ),
            Self::Panicked { .. } => {
                Verdict::new("bug", Actor::Us, Wait::NextRun, "A defect of incident-sync; report it with the log")
            }
        }
    }

    /// Whether a smaller part of the list may be served: the API failed at this very request, without asking for a pause,
    /// or its page was too large.
    pub fn may_be_the_page(&self) -> bool {
        let has_failed = matches!(self, Self::Api { status: 408 | 500..=599, .. }) && self.verdict().wait == Wait::Soon;
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
    pub fn is_of_the_database(&self) -> bool {
        matches!(self, Self::Database { .. }) && self.verdict().class != "database_data"
    }

    /// Whether time alone may mend it: nobody has refused anything.
    pub fn may_pass(&self) -> bool {
        matches!(self.verdict().wait, Wait::Soon | Wait::AtLeast(_) | Wait::NextRun)
    }

    /// The AADSTS code of a failure that all tenants of the app share; of the managed identity service its status, 0 where
    /// it is away.
    pub fn shared_credential_code(&self) -> Option<u32> {
        if let Self::Entra { codes, .. } = self
            && self.verdict().shared
        {
            return Some(codes.first().copied().unwrap_or(0));
        }
        if let Self::ManagedIdentity { status, .. } = self {
            return Some(u32::from(*status));
        }
        self.is_of_an_absent_identity_service().then_some(0)
    }

    fn is_of_an_absent_identity_service(&self) -> bool {
        matches!(
            self,
            Self::Transport { peer: Peer::ManagedIdentity, .. } | Self::Timeout { peer: Peer::ManagedIdentity }
        )
    }

    /// Whether another credential of the same application may do better.
    pub fn is_of_the_credential(&self) -> bool {
        matches!(self, Self::CredentialBreaker { .. }) || self.shared_credential_code().is_some()
    }
}

/// How long a managed identity service that is unwell is left alone before one probe.
pub const IDENTITY_PROBE: Duration = Duration::from_secs(60);
/// How long a credential that was refused for several tenants is left alone before one probe.
pub const BREAKER_PROBE: Duration = Duration::from_secs(15 * 60);

/// Source of the statuses and codes: `MicrosoftDocs/defender-docs`, `api-error-codes.md`.
fn api_verdict(status: u16, code: &str, retry_after: Option<Duration>, hint: &str) -> Verdict {
    match status {
        429 => throttled(Peer::Defender, retry_after),
        401 => Verdict::new(
            "unauthorized",
            Actor::Nobody,
            Wait::NewToken,
            "The API did not accept the token; a new one is asked for once",
        ),
        403 if code == "DisabledFeature" => Verdict::new(
            "tenant_config",
            Actor::CustomerAdmin,
            Wait::UntilActed,
            "Microsoft 365 Defender is not enabled in the tenant; the customer must enable or license it",
        ),
        403 if code == "DisallowedOperation" => Verdict::new(
            "forbidden",
            Actor::Operator,
            Wait::UntilActed,
            "Microsoft does not allow this operation in the tenant; open a ticket with Microsoft and give the tracking id",
        ),
        403 if hint.is_empty() => Verdict::new(
            "forbidden",
            Actor::CustomerAdmin,
            Wait::NewToken,
            "The token may not read incidents; the customer's admin must grant Incident.Read.All (application permission of Microsoft Threat Protection) by the consent link",
        ),
        403 => Verdict::new(
            "missing_role",
            Actor::CustomerAdmin,
            Wait::NewToken,
            "The token lacks the role Incident.Read.All; add the permission to the app registration, then the customer's admin must consent again",
        ),
        404 => Verdict::new(
            "tenant_config",
            Actor::Operator,
            Wait::UntilActed,
            "The API does not know this address; check cloud and base_url",
        ),
        503 => match retry_after {
            Some(pause) => Verdict::new(
                "upstream",
                Actor::Nobody,
                Wait::AtLeast(pause.min(LONGEST_THROTTLE)),
                "The service is unavailable and named a pause; it is obeyed",
            ),
            None => {
                Verdict::new("upstream", Actor::Nobody, Wait::Soon, "The service is unavailable; it is tried again")
            }
        },
        408 | 500..=599 => Verdict::new("upstream", Actor::Nobody, Wait::Soon, "The service failed; it is tried again"),
        _ => Verdict::new("bad_request", Actor::Us, Wait::NextRun, "The API refused the request as wrong; report it"),
    }
}

/// Source of the codes: PostgreSQL's manual, appendix A.
fn database_verdict(sqlstate: Option<&str>) -> Verdict {
    match sqlstate.map(|code| code.get(..2).unwrap_or(code)) {
        Some("28" | "42" | "3D" | "3F") => Verdict::new(
            "database_rights",
            Actor::Operator,
            Wait::NextRun,
            "Postgres refuses us; check user, password, rights and that the schema is migrated",
        ),
        Some("53") => Verdict::new(
            "database_full",
            Actor::Operator,
            Wait::NextRun,
            "Postgres is out of disk, memory or connections",
        ),
        Some("22" | "23" | "54") => {
            Verdict::new("database_data", Actor::Us, Wait::NextRun, "Postgres refused a value; report it")
        }
        // 25P03: Postgres has ended a transaction in which we were silent for too long.
        Some("25") if sqlstate != Some("25P03") => Verdict::new(
            "database_read_only",
            Actor::Operator,
            Wait::NextRun,
            "Postgres is read-only, as after a failover; it is tried again",
        ),
        Some("40") => {
            Verdict::new("database_conflict", Actor::Nobody, Wait::Soon, "Two transactions collided; it is tried again")
        }
        Some(_) | None => {
            Verdict::new("database", Actor::Nobody, Wait::Soon, "Postgres is away or slow; it is tried again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: u16, code: &str, retry_after: Option<u64>) -> Verdict {
        let retry_after = retry_after.map(Duration::from_secs);
        SyncError::Api { status, code: code.into(), target: String::new(), retry_after, hint: String::new() }.verdict()
    }

    #[test]
    fn text_of_others_is_shown_without_invisible_characters() {
        let said = "a\u{202e}gnp.\u{2028}e\u{2029}x\u{200b}e\u{feff}\u{ad}\u{2066}\u{e0041}\u{1b}[31m\u{85}\r\n";
        assert_eq!((shown(said), visible(said)), ("agnp.exe[31m".to_owned(), "agnp.exe[31m".to_owned()));
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
        assert!(panic_words(said).contains("char boundary") && !panic_words(said).contains("customer"));
    }

    #[test]
    fn a_pause_is_obeyed_within_reason() {
        assert_eq!(api(429, "TooManyRequests", Some(17)).wait, Wait::AtLeast(Duration::from_secs(17)));
        assert_eq!(api(429, "", None).wait, Wait::AtLeast(UNSPECIFIED_THROTTLE));
        assert_eq!(api(429, "", Some(86_400)).wait, Wait::AtLeast(LONGEST_THROTTLE));
        assert_eq!(api(503, "", Some(5)).wait, Wait::AtLeast(Duration::from_secs(5)));
    }

    #[test]
    fn api_statuses_name_who_must_act() {
        let table = [
            (400, "BadRequest", Actor::Us, Wait::NextRun),
            (401, "Unauthorized", Actor::Nobody, Wait::NewToken),
            (403, "Forbidden", Actor::CustomerAdmin, Wait::NewToken),
            (403, "DisabledFeature", Actor::CustomerAdmin, Wait::UntilActed),
            (403, "DisallowedOperation", Actor::Operator, Wait::UntilActed),
            (404, "NotFound", Actor::Operator, Wait::UntilActed),
            (500, "InternalServerError", Actor::Nobody, Wait::Soon),
            (502, "", Actor::Nobody, Wait::Soon),
            (418, "", Actor::Us, Wait::NextRun),
        ];
        for (status, code, who, wait) in table {
            let verdict = api(status, code, None);
            assert_eq!((verdict.who, verdict.wait), (who, wait), "{status} {code}");
        }
    }

    #[test]
    fn a_smaller_page_helps_only_where_the_page_was_at_fault() {
        let api = |status, seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            SyncError::Api { status, code: String::new(), target: String::new(), retry_after, hint: String::new() }
        };
        let large = |peer| SyncError::BodyTooLarge { peer, bytes_max: 1 };
        for fault in [api(500, None), api(503, None), api(504, None), api(408, None), large(Peer::Defender)] {
            assert!(fault.may_be_the_page(), "{fault}");
        }
        let timeout = SyncError::Timeout { peer: Peer::Defender };
        for other in [api(503, Some(5)), api(429, None), api(400, None), api(401, None), large(Peer::Entra), timeout] {
            assert!(!other.may_be_the_page(), "{other}");
        }
    }

    #[test]
    fn database_codes_name_who_must_act() {
        assert_eq!(database_verdict(Some("28P01")).who, Actor::Operator);
        assert_eq!(database_verdict(Some("40P01")).wait, Wait::Soon);
        assert_eq!(database_verdict(Some("57P01")).wait, Wait::Soon);
        assert_eq!(database_verdict(Some("25P03")).wait, Wait::Soon);
        assert_eq!(database_verdict(None).who, Actor::Nobody);
    }
}
