//! The keys of an API: cloud, addresses and token version.

use url::Url;

use crate::config::database::is_loopback_host;
use crate::config::section::Section;
use crate::tenant::{Cloud, Endpoints, TokenVersion};

/// The keys of `[api]`, or those of one tenant.
#[derive(Debug, Default)]
pub(super) struct ApiKeys {
    cloud: Option<Cloud>,
    authority: Option<Url>,
    base_url: Option<Url>,
    scope: Option<String>,
    token_version: Option<TokenVersion>,
}

impl ApiKeys {
    pub(super) fn of_cloud(cloud: Option<Cloud>) -> Self {
        Self { cloud, ..Self::default() }
    }

    pub(super) fn read(section: &mut Section) -> Self {
        let cloud = section.parsed("cloud", |name| {
            Cloud::from_name(name)
                .ok_or(format!("unknown cloud; valid: {}", Cloud::NAMES.join(", ")))
        });
        let token_version = section.parsed("token_version", |name| match name {
            "v1" => Ok(TokenVersion::V1),
            "v2" => Ok(TokenVersion::V2),
            _ => Err("unknown version; valid: \"v1\", \"v2\"".to_owned()),
        });
        let scope = section.parsed("scope", |scope| match scope.trim() {
            "" => Err("is empty; remove the key or set it like https://api.security.microsoft.com/.default".to_owned()),
            scope => Ok(scope.to_owned()),
        });
        Self {
            cloud: cloud.ok(),
            authority: section.parsed("authority", parse_endpoint).ok(),
            base_url: section.parsed("base_url", parse_endpoint).ok(),
            scope: scope.ok(),
            token_version: token_version.ok(),
        }
    }

    /// A tenant's own keys override those of `[api]`; its own cloud overrides all addresses there.
    pub(super) fn endpoints(self, common: &Self) -> Endpoints {
        let cloud = self.cloud.or(common.cloud).unwrap_or(Cloud::Commercial);
        let parse =
            |address: &str| Url::parse(address).expect("addresses of clouds are valid URLs");
        let inherited = self.cloud.is_none();
        let authority = self.authority.or_else(|| common.authority.clone().filter(|_| inherited));
        let base_url = self.base_url.or_else(|| common.base_url.clone().filter(|_| inherited));
        let base_url = base_url.unwrap_or_else(|| parse(cloud.base_url()));
        let scope = self.scope.or_else(|| common.scope.clone().filter(|_| inherited));
        Endpoints {
            authority: authority.unwrap_or_else(|| parse(cloud.authority())),
            scope: scope.unwrap_or_else(|| {
                format!("{}/.default", audience(&base_url).trim_end_matches('/'))
            }),
            base_url,
            token_version: self.token_version.or(common.token_version).unwrap_or(TokenVersion::V2),
        }
    }
}

/// The regional hosts of the worldwide cloud accept tokens for its common host. Source: `MicrosoftDocs/defender-docs`,
/// `api-supported.md`.
fn audience(base_url: &Url) -> &str {
    let is_regional =
        base_url.host_str().is_some_and(|host| host.ends_with(".security.microsoft.com"));
    if is_regional { Cloud::Commercial.base_url() } else { base_url.as_str() }
}

/// Adds the effective addresses to the settings where no key sets them.
pub(super) fn show_endpoints(section: &mut Section, endpoints: &Endpoints, from: &str) {
    let Endpoints { authority, base_url, scope, token_version } = endpoints;
    section.add_derived("authority", authority, from);
    section.add_derived("base_url", base_url, from);
    section.add_derived("scope", scope, from);
    let version = match token_version {
        TokenVersion::V1 => "v1",
        TokenVersion::V2 => "v2",
    };
    section.add_derived("token_version", version, from);
}

/// Secrets are sent to these addresses, so plain http is accepted for this machine only.
fn parse_endpoint(text: &str) -> Result<Url, String> {
    let form = "write it like https://api.security.microsoft.com";
    let url = Url::parse(text).map_err(|error| format!("not a URL ({error}); {form}"))?;
    let Some(host) = url.host_str() else { return Err(format!("has no host; {form}")) };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback_host(host) => {}
        "http" => return Err("plain http to another machine; use https".to_owned()),
        _ => return Err(format!("not an https:// URL; {form}")),
    }
    let extra = url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some();
    if extra { Err(format!("has more than host and path; {form}")) } else { Ok(url) }
}

/// The credential of `[app]` is sent only to Microsoft or to an authority of the main file: files of `tenants_dir` may be
/// written by other people.
pub(super) fn check_authority(section: &mut Section, authority: &Url, api: &ApiKeys) {
    let fixed =
        Cloud::NAMES.iter().filter_map(|name| Url::parse(Cloud::from_name(name)?.authority()).ok());
    let mut known = fixed.chain(api.authority.clone());
    if known.any(|known| known.origin() == authority.origin()) {
        return;
    }
    let host = authority.origin().ascii_serialization();
    section.error(
        "authority",
        format!(
            "the credential of [app] is not sent to {host}, which is neither Microsoft's nor the authority of [api]; remove the key, \
             set [api] authority in the main file, or give this tenant a credential of its own"
        ),
    );
}
