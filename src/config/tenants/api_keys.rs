//! The keys of an API: source, cloud, addresses and token version.

use url::Url;

use crate::config::database::is_loopback_host;
use crate::config::section::Section;
use crate::tenant::{Cloud, DEFAULT_SCOPE, Endpoints, Source, TokenVersion};

/// The keys of `[api]`, or those of one tenant.
#[derive(Debug, Default)]
pub(super) struct ApiKeys {
    source: Option<Source>,
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
        let source = section.parsed("source", |name| {
            Source::from_name(name)
                .ok_or(format!("unknown source; valid: {}", Source::NAMES.join(", ")))
        });
        let cloud = section.parsed("cloud", parse_cloud);
        let token_version = section.parsed("token_version", |name| match name {
            "v1" => Ok(TokenVersion::V1),
            "v2" => Ok(TokenVersion::V2),
            _ => Err("unknown version; valid: \"v1\", \"v2\"".to_owned()),
        });
        let scope = section.parsed("scope", parse_scope);
        Self {
            source: source.ok(),
            cloud: cloud.ok(),
            authority: section.parsed("authority", parse_endpoint).ok(),
            base_url: section.parsed("base_url", parse_endpoint).ok(),
            scope: scope.ok(),
            token_version: token_version.ok(),
        }
    }

    /// The source that the configuration asks for.
    pub(super) fn source(&self, common: &Self) -> Source {
        self.source.or(common.source).unwrap_or(Source::Defender)
    }

    /// A tenant's own keys override those of `[api]`; its own cloud overrides all addresses there. An address that belongs to
    /// the other source is replaced by the default of this one.
    pub(super) fn endpoints(&self, common: &Self, source: Source) -> Endpoints {
        let cloud = self.cloud.or(common.cloud).unwrap_or(Cloud::Commercial);
        let parse =
            |address: &str| Url::parse(address).expect("addresses of clouds are valid URLs");
        let inherited = self.cloud.is_none();
        let common = Self {
            authority: common.authority.clone().filter(|_| inherited),
            base_url: common.base_url.clone().filter(|_| inherited),
            scope: common.scope.clone().filter(|_| inherited),
            ..*common
        };
        let fits_source = |host: &str| source_of_host(host).is_none_or(|found| found == source);
        let base_url = self.base_url.clone().or(common.base_url);
        let base_url = base_url
            .filter(|url| fits_source(url.host_str().unwrap_or_default()))
            .unwrap_or_else(|| parse(cloud.base_url(source)));
        let scope = self.scope.clone().or(common.scope).filter(|scope| {
            let url = Url::parse(scope).ok();
            url.is_none_or(|url| fits_source(url.host_str().unwrap_or_default()))
        });
        let scope = scope.unwrap_or_else(|| default_scope(cloud, source, &base_url));
        Endpoints {
            source,
            authority: self
                .authority
                .clone()
                .or(common.authority)
                .unwrap_or_else(|| parse(cloud.authority())),
            other_scope: other_scope(cloud, source, &base_url, &scope),
            scope,
            base_url,
            token_version: self.token_version.or(common.token_version).unwrap_or(TokenVersion::V2),
        }
    }

    /// An address in the same table as the source, or below it, that belongs to the other source.
    pub(super) fn check_hosts(&self, section: &mut Section, source: Source) {
        let base_url = self.base_url.as_ref().map(ToString::to_string);
        for (key, value) in [("base_url", base_url), ("scope", self.scope.clone())] {
            let url = value.and_then(|value| Url::parse(&value).ok());
            let found = url.and_then(|url| source_of_host(url.host_str()?));
            if let Some(found) = found.filter(|found| *found != source) {
                section.error(
                    key,
                    format!(
                        "belongs to source \"{}\", but the source is \"{}\"; remove the key, or change source",
                        found.as_str(),
                        source.as_str()
                    ),
                );
            }
        }
    }
}

fn parse_cloud(name: &str) -> Result<Cloud, String> {
    if ["china", "21vianet", "mooncake"].contains(&name) {
        return Err(
            "Microsoft offers no incidents API in this cloud; its tenants cannot be synced"
                .to_owned(),
        );
    }
    Cloud::from_name(name).ok_or(format!("unknown cloud; valid: {}", Cloud::NAMES.join(", ")))
}

/// The source that a host of Microsoft serves; `None` for a gateway or a simulator.
fn source_of_host(host: &str) -> Option<Source> {
    let is_graph = ["graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us"];
    if is_graph.contains(&host) {
        return Some(Source::Graph);
    }
    let is_defender = [".security.microsoft.com", ".security.microsoft.us"];
    is_defender.iter().any(|end| host.ends_with(end)).then_some(Source::Defender)
}

/// Client credentials have one scope: the address of an API followed by `/.default`. Entra refuses every other form, for each
/// tenant alike.
fn parse_scope(scope: &str) -> Result<String, String> {
    let form = "write it like https://api.security.microsoft.com/.default";
    let scope = scope.trim();
    let problem = match scope.strip_suffix(DEFAULT_SCOPE) {
        _ if scope.is_empty() => "is empty; remove the key or",
        _ if scope.contains(char::is_whitespace) => "names more than one scope;",
        None => "does not end in /.default;",
        Some("") => "has no address of an API before /.default;",
        Some(address) if address.ends_with('/') => "has more than one / before .default;",
        Some(_) => return Ok(scope.to_owned()),
    };
    Err(format!("{problem} {form}"))
}

fn scope_of(address: &str) -> String {
    format!("{}{DEFAULT_SCOPE}", address.trim_end_matches('/'))
}

/// The regional hosts of the worldwide cloud accept tokens for its common host. Source: `MicrosoftDocs/defender-docs`,
/// `api-supported.md`. So does the host of GCC, which uses Entra of the worldwide cloud: its own name is no resource there.
fn default_scope(cloud: Cloud, source: Source, base_url: &Url) -> String {
    let host = base_url.host_str().unwrap_or_default();
    let is_gcc = cloud == Cloud::Gcc || Some(host) == host_of(Cloud::Gcc).as_deref();
    let is_regional = host.ends_with(".security.microsoft.com");
    if source == Source::Defender && (is_gcc || is_regional) {
        return scope_of(Cloud::Commercial.base_url(source));
    }
    scope_of(base_url.as_str())
}

fn host_of(cloud: Cloud) -> Option<String> {
    Url::parse(cloud.base_url(Source::Defender)).ok()?.host_str().map(str::to_owned)
}

/// What else the scope of the Defender API may be in a cloud of the US government.
fn other_scope(cloud: Cloud, source: Source, base_url: &Url, scope: &str) -> Option<String> {
    let by_host = [Cloud::Gcc, Cloud::GccHigh]
        .into_iter()
        .find(|cloud| host_of(*cloud).as_deref() == base_url.host_str());
    let cloud = by_host.unwrap_or(cloud);
    if source != Source::Defender || cloud == Cloud::Commercial {
        return None;
    }
    let known = [Cloud::Commercial, cloud].map(|cloud| scope_of(cloud.base_url(source)));
    known.into_iter().find(|other| other != scope)
}

/// Adds the effective addresses to the settings where no key sets them.
pub(super) fn show_endpoints(section: &mut Section, endpoints: &Endpoints, from: &str) {
    let Endpoints { source, authority, base_url, scope, token_version, .. } = endpoints;
    section.add_derived("source", source.as_str(), from);
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
