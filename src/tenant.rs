//! What identifies a customer tenant, where its token endpoint and its incidents API are, and how long its data is kept.

use std::fmt;
use std::time::Duration;

use url::Url;
use uuid::Uuid;

/// The GUID of a customer's Entra directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub Uuid);

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The prefix of labels that only operators see.
pub const INTERNAL_LABEL: &str = "internal.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Closed incidents, counted from their last update; `None` keeps them without limit.
    pub incidents: Option<Duration>,
    /// Rows about runs, counted from their start.
    pub runs: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { incidents: None, runs: Duration::from_secs(30 * 86_400) }
    }
}

/// The external addresses of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Entra's login host, such as `https://login.microsoftonline.com`.
    pub authority: Url,
    /// Defender's API host, such as `https://api.security.microsoft.com`.
    pub base_url: Url,
    /// The scope of the token, `{base_url}/.default` unless configured.
    pub scope: String,
    pub token_version: TokenVersion,
}

/// Entra's two token endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVersion {
    /// `/oauth2/token` with `resource`.
    V1,
    /// `/oauth2/v2.0/token` with `scope`.
    V2,
}

/// The API that a tenant is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Source {
    /// The Defender incidents API, `/api/incidents`.
    #[default]
    Defender,
    /// The Microsoft Graph security API, `/security/incidents`.
    Graph,
}

impl Source {
    /// The names that configuration and database know.
    pub const NAMES: [&'static str; 2] = ["defender", "graph"];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Defender => "defender",
            Self::Graph => "graph",
        }
    }

    /// The source of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "defender" => Some(Self::Defender),
            "graph" => Some(Self::Graph),
            _ => None,
        }
    }
}

/// Microsoft's national clouds, each a set of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// The worldwide cloud.
    Commercial,
    /// US government community cloud: commercial login, `.us` API.
    Gcc,
    /// GCC High.
    GccHigh,
    /// US Department of Defense: GCC High's hosts, another portal.
    Dod,
}

impl Cloud {
    /// The names in the configuration.
    pub const NAMES: [&'static str; 4] = ["commercial", "gcc", "gcc-high", "dod"];

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "commercial" => Some(Self::Commercial),
            "gcc" => Some(Self::Gcc),
            "gcc-high" => Some(Self::GccHigh),
            "dod" => Some(Self::Dod),
            _ => None,
        }
    }

    /// Login host. Source: `MicrosoftDocs/defender-docs`, `usgov.md`.
    pub fn authority(self) -> &'static str {
        match self {
            Self::Commercial | Self::Gcc => "https://login.microsoftonline.com",
            Self::GccHigh | Self::Dod => "https://login.microsoftonline.us",
        }
    }

    /// API host. Source: `MicrosoftDocs/defender-docs`, `usgov.md`.
    pub fn base_url(self) -> &'static str {
        match self {
            Self::Commercial => "https://api.security.microsoft.com",
            Self::Gcc => "https://api-gcc.security.microsoft.us",
            Self::GccHigh | Self::Dod => "https://api-gov.security.microsoft.us",
        }
    }
}
