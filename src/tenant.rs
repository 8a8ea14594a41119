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

/// The API that a tenant is read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `/api/incidents` of Microsoft 365 Defender.
    #[default]
    Defender,
    /// `/v1.0/security` of Microsoft Graph.
    Graph,
}

impl Source {
    /// The names that configuration, database and command line use.
    pub const NAMES: [&'static str; 2] = ["defender", "graph"];

    /// The source of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Defender, Self::Graph].into_iter().find(|source| source.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Defender => "defender",
            Self::Graph => "graph",
        }
    }

    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Defender => Self::Graph,
            Self::Graph => Self::Defender,
        }
    }

    /// The application permission to ask for: the least that reads incidents.
    pub fn permission(self) -> &'static str {
        self.reading_roles()[0]
    }

    /// The resource whose permission it is, as Entra's portal names it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Defender => "Microsoft Threat Protection",
            Self::Graph => "Microsoft Graph",
        }
    }

    /// The roles in a token that may read incidents. The Defender documentation spells its permission with an `s` in prose and
    /// without in tables, so both are accepted. Graph: the roles that its own 403 lists.
    pub fn reading_roles(self) -> &'static [&'static str] {
        match self {
            Self::Defender => &[
                "Incident.Read.All",
                "Incident.ReadWrite.All",
                "Incidents.Read.All",
                "Incidents.ReadWrite.All",
            ],
            Self::Graph => &["SecurityIncident.Read.All", "SecurityIncident.ReadWrite.All"],
        }
    }

    /// Calls of one application in one tenant that the API allows. Source: `MicrosoftDocs/defender-docs`,
    /// `api-list-incidents.md`. Graph documents 150 for security alerts and nothing for incidents; two thirds of that are used.
    pub fn calls_per_minute(self) -> u32 {
        match self {
            Self::Defender => 50,
            Self::Graph => 100,
        }
    }

    /// The same within an hour; Graph documents no such limit.
    pub fn calls_per_hour(self) -> Option<u32> {
        match self {
            Self::Defender => Some(1_500),
            Self::Graph => None,
        }
    }
}

/// The external addresses of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The API behind `base_url`.
    pub source: Source,
    /// Entra's login host, such as `https://login.microsoftonline.com`.
    pub authority: Url,
    /// The API's host, such as `https://api.security.microsoft.com` or `https://graph.microsoft.com`.
    pub base_url: Url,
    /// The scope of the token, `{base_url}/.default` unless configured.
    pub scope: String,
    /// The scope to try if Entra or the API refuses `scope`. In the clouds of the US government the API is reached under one
    /// name, and its tokens may be for another; Microsoft documents neither.
    pub other_scope: Option<String>,
    pub token_version: TokenVersion,
}

impl Endpoints {
    /// Whether the scope is neither that of `base_url` nor one of Microsoft's.
    pub fn is_scope_foreign(&self) -> bool {
        let is_of = |address: &str| {
            self.scope.strip_prefix(address.trim_end_matches('/')) == Some(DEFAULT_SCOPE)
        };
        let clouds = Cloud::NAMES.iter().filter_map(|name| Cloud::from_name(name));
        let mut hosts = clouds.map(|cloud| cloud.base_url(self.source));
        !is_of(self.base_url.as_str()) && !hosts.any(is_of)
    }
}

/// The end of a scope, behind the address of an API: app-only tokens are for all permissions.
pub const DEFAULT_SCOPE: &str = "/.default";

/// Entra's two token endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVersion {
    /// `/oauth2/token` with `resource`.
    V1,
    /// `/oauth2/v2.0/token` with `scope`.
    V2,
}

/// Microsoft's national clouds, each a set of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    Commercial,
    /// US government community cloud: commercial login, `.us` API.
    Gcc,
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

    /// API host. Sources: `MicrosoftDocs/defender-docs`, `usgov.md`; for Graph `microsoft-graph-docs-contrib`, `deployments.md`:
    /// GCC uses the worldwide hosts there.
    pub fn base_url(self, source: Source) -> &'static str {
        match (source, self) {
            (Source::Defender, Self::Commercial) => "https://api.security.microsoft.com",
            (Source::Defender, Self::Gcc) => "https://api-gcc.security.microsoft.us",
            (Source::Defender, Self::GccHigh | Self::Dod) => {
                "https://api-gov.security.microsoft.us"
            }
            (Source::Graph, Self::Commercial | Self::Gcc) => "https://graph.microsoft.com",
            (Source::Graph, Self::GccHigh) => "https://graph.microsoft.us",
            (Source::Graph, Self::Dod) => "https://dod-graph.microsoft.us",
        }
    }
}
