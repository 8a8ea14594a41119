//! The meaning of a failure: its class, who has to act, when to retry, and the advice.

use std::borrow::Cow;
use std::time::Duration;

use super::{ErrorClass, Peer};

/// Who has to act on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The developers of incident-sync.
    Developers,
    /// The operator of incident-sync.
    Operator,
    /// An administrator of the customer's tenant.
    CustomerAdmin,
    /// No action is required: the failure ends by itself.
    Nobody,
}

impl Owner {
    pub const NAMES: [&'static str; 4] = ["developers", "operator", "customer_admin", "nobody"];

    /// The word in the database, in metrics and in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Developers => "developers",
            Self::Operator => "operator",
            Self::CustomerAdmin => "customer_admin",
            Self::Nobody => "nobody",
        }
    }
}

/// When a retry may succeed.
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
    /// After the owner has acted, which an hourly probe detects.
    OnceFixed,
}

/// The meaning of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// For metrics, `sync_state.error_class` and filters; does not change with the text.
    pub class: ErrorClass,
    pub owner: Owner,
    pub retry: Retry,
    /// The cause and what the owner should do.
    pub advice: Cow<'static, str>,
    /// Whether all tenants of the same app are affected.
    pub shared: bool,
}

impl Diagnosis {
    pub(super) fn new(
        class: ErrorClass,
        owner: Owner,
        retry: Retry,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { class, owner, retry, advice: advice.into(), shared: false }
    }

    pub(super) fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// Whether a retry may succeed without any action, after the pause that the service requested.
    pub fn passes_by_itself(&self) -> bool {
        matches!(self.retry, Retry::Now | Retry::WithNewToken)
            || self.class == ErrorClass::Throttled
    }
}

/// The minimum pause after a 429 without `Retry-After`: quotas are counted by the minute.
pub(super) const UNSPECIFIED_THROTTLE: Duration = Duration::from_secs(60);
/// The maximum of a requested pause, after which one probe is made.
pub(super) const LONGEST_THROTTLE: Duration = Duration::from_secs(6 * 3600);
/// The pause before a probe of an unavailable managed identity endpoint.
pub const IDENTITY_PROBE: Duration = Duration::from_secs(60);
/// The pause before a probe of a credential that was refused for several tenants.
pub const BREAKER_PROBE: Duration = Duration::from_secs(15 * 60);

/// The pause before a probe of an API that refuses every tenant. Three calls an hour show that it serves them again.
pub const API_PROBE: Duration = Duration::from_secs(20 * 60);
/// The pause before the second attempt of a tenant that may be the only one with its refusal.
pub(super) const DOUBT_PROBE: Duration = Duration::from_secs(60);

pub(super) fn throttled(peer: Peer, retry_after: Option<Duration>) -> Diagnosis {
    let pause = retry_after.unwrap_or(UNSPECIFIED_THROTTLE).min(LONGEST_THROTTLE);
    let advice = format!("Throttled: {peer} asked for a pause of {} s; waiting", pause.as_secs());
    Diagnosis::new(ErrorClass::Throttled, Owner::Nobody, Retry::After(pause), advice)
}
