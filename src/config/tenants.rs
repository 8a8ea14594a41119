//! `[app]`, `[api]` and the tenants: who is read, from where, with which application.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;
use url::Url;

use super::credentials;
use super::database::is_loopback_host;
use super::errors::ConfigError;
use super::retention::RetentionDefaults;
use super::secrets::SecretFiles;
use super::section::{Parsed, Report, Section, parse_guid};
use super::tenants_dir::TenantsDir;
use crate::entra::Tenant;
use crate::entra::credential::{App, Credential};
use crate::error::is_invisible;
use crate::tenant::{Cloud, Endpoints, TenantId, TokenVersion};

/// Reads everything that concerns tenants.
pub(super) fn read(
    root: &mut Section,
    secrets: &SecretFiles,
    retention: RetentionDefaults,
    refused: &[ConfigError],
    report: &mut Report,
) -> TenantsSection {
    let mut app = root.table("app");
    let app_keys = AppKeys::read(&mut app, Some(secrets), None, report);
    let mut api = root.table("api");
    let api_keys = ApiKeys::read(&mut api);
    api.default_is("cloud", "commercial");
    show_endpoints(&mut api, &ApiKeys::default().endpoints(&api_keys), "default");
    report.close(api);
    let mut shared =
        Shared { app: app_keys.app(), app_keys, api: api_keys, retention, without_app: Vec::new() };

    let mut sections = root.tables("tenants");
    let mut dir = root.text("tenants_dir").map(|dir| TenantsDir::new(secrets.folder.join(dir)));
    if let Some(dir) = &dir {
        report.tenants_dir = Some(dir.path.clone());
        match dir.sections(refused, report) {
            Ok(found) => sections.extend(found),
            Err(problem) => root.error("tenants_dir", problem),
        }
    }
    let mut used = UsedNames::default();
    let mut tenants = Vec::new();
    for section in sections {
        let file = section.own_file().map(str::to_owned);
        let Some(tenant) = read_tenant(section, &mut shared, secrets, &mut used, report) else {
            continue;
        };
        if let (Some(dir), Some(file)) = (&mut dir, file) {
            dir.tenants.insert(file, tenant.id);
        }
        tenants.push(tenant);
    }

    if let Some(first) = shared.without_app.first() {
        let count = shared.without_app.len();
        let needed = format!("missing, and {count} enabled tenant(s) need it ({first} first)");
        if matches!(shared.app_keys.client_id, Parsed::Absent) {
            app.error(
                "client_id",
                format!(
                    "{needed}; set it to the application (client) id of your Entra application"
                ),
            );
        }
        if matches!(shared.app_keys.credential, Parsed::Absent) {
            app.error(
                "client_secret_file",
                format!("{needed}; set it to a file that holds the client secret, or set another credential"),
            );
        }
    }
    report.close(app);
    let onboarding = OnboardingDefaults {
        app: shared.app,
        dir: dir.as_ref().map(|dir| dir.path.clone()),
        api: shared.api,
    };
    TenantsSection { tenants, dir, onboarding }
}

/// All that was read.
pub(super) struct TenantsSection {
    pub(super) tenants: Vec<Arc<Tenant>>,
    pub(super) dir: Option<TenantsDir>,
    pub(super) onboarding: OnboardingDefaults,
}

/// What a tenant would get that is not configured yet.
#[derive(Debug)]
pub struct OnboardingDefaults {
    /// The application of `[app]`.
    pub app: Option<Arc<App>>,
    /// `tenants_dir`, where its file belongs.
    pub dir: Option<PathBuf>,
    api: ApiKeys,
}

impl OnboardingDefaults {
    /// Its addresses, in a cloud of its own or in that of `[api]`.
    pub fn endpoints(&self, cloud: Option<Cloud>) -> Endpoints {
        ApiKeys { cloud, ..ApiKeys::default() }.endpoints(&self.api)
    }
}

/// What tenants have in common.
struct Shared {
    app_keys: AppKeys,
    /// Absent when `[app]` is incomplete or wrong.
    app: Option<Arc<App>>,
    api: ApiKeys,
    retention: RetentionDefaults,
    /// Enabled tenants that count on an `[app]` which is incomplete.
    without_app: Vec<String>,
}

/// Ids and names that are taken, and by whom.
#[derive(Default)]
struct UsedNames {
    ids: HashMap<TenantId, TenantLocation>,
    names: HashMap<String, TenantLocation>,
}

/// Where a tenant is configured.
#[derive(Clone)]
struct TenantLocation {
    told: String,
    own_file: Option<String>,
}

impl TenantLocation {
    fn of(section: &Section) -> Self {
        Self { told: section.location(), own_file: section.own_file().map(str::to_owned) }
    }
}

/// Two files that claim the same are both refused: the order of their names says nothing about which one is right. What
/// the main file says comes first.
fn refuse_both(
    section: &mut Section,
    key: &str,
    other: &TenantLocation,
    problem: impl Fn(&str) -> String,
    report: &mut Report,
) {
    let here = TenantLocation::of(section);
    section.error(key, problem(&other.told));
    if let (Some(_), Some(file)) = (here.own_file, &other.own_file) {
        report.error(ConfigError {
            file: file.clone(),
            key: key.to_owned(),
            problem: problem(&here.told),
        });
    }
}

fn read_tenant(
    mut section: Section,
    shared: &mut Shared,
    secrets: &SecretFiles,
    used: &mut UsedNames,
    report: &mut Report,
) -> Option<Arc<Tenant>> {
    let name = read_name(&mut section, used, report);
    let id = read_id(&mut section, used, report);
    let labels = section.labels("labels");
    let enabled = section.flag("enabled", true);
    let retention = shared.retention.of_tenant(&mut section);
    let api = ApiKeys::read(&mut section);
    let called = name.as_deref().unwrap_or("unnamed");
    let own = AppKeys::read(&mut section, enabled.then_some(secrets), Some(called), report);
    let brings_credential = !matches!(own.credential, Parsed::Absent);
    let app = own.app_for_tenant(shared, enabled, called, &mut section, report);
    let endpoints = api.endpoints(&shared.api);
    if enabled && !brings_credential && section.own_file().is_some() {
        check_authority(&mut section, &endpoints.authority, &shared.api);
    }
    show_endpoints(&mut section, &endpoints, "cloud and [api]");
    report.close(section);
    Some(Arc::new(Tenant {
        id: id?,
        name: name?,
        labels,
        enabled,
        endpoints,
        app: app?,
        retention,
    }))
}

/// The credential of `[app]` goes to Microsoft, and wherever the main file says. A file of `tenants_dir` is often written by
/// somebody else, and has no say in that.
fn check_authority(section: &mut Section, authority: &Url, api: &ApiKeys) {
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

/// Whether all of a name is seen. Two joiners are: they belong to the spelling of some languages.
pub(crate) fn is_printable_name(name: &str) -> bool {
    const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];
    name.chars().all(|c| JOINERS.contains(&c) || !is_invisible(c))
}

fn read_name(section: &mut Section, used: &mut UsedNames, report: &mut Report) -> Option<String> {
    let name = section.parsed("name", |name| match name.trim() {
        "" => Err("is empty; set the name that reports and metrics show".to_owned()),
        name if !is_printable_name(name) => {
            Err("holds control characters or others that are not seen; write it without them"
                .to_owned())
        }
        name => Ok(name.to_owned()),
    });
    let name = match name {
        Parsed::Is(name) => name,
        Parsed::Wrong => return None,
        Parsed::Absent => {
            section.error("name", "missing; set the name that reports and metrics show");
            return None;
        }
    };
    section.name_tenant(&name);
    if let Some(other) = used.names.insert(name.clone(), TenantLocation::of(section)) {
        let problem = |other: &str| {
            format!("the same name as {other}; metrics tell tenants apart by it, so choose another")
        };
        refuse_both(section, "name", &other, problem, report);
    }
    Some(name)
}

fn read_id(section: &mut Section, used: &mut UsedNames, report: &mut Report) -> Option<TenantId> {
    let cure = "set the customer's directory (tenant) id from Entra's overview page";
    let id = match section.parsed("id", |id| parse_guid(id).ok_or(format!("not a GUID; {cure}"))) {
        Parsed::Is(id) => TenantId(id),
        Parsed::Wrong => return None,
        Parsed::Absent => {
            section.error("id", format!("missing; {cure}"));
            return None;
        }
    };
    if let Some(other) = used.ids.insert(id, TenantLocation::of(section)) {
        let problem =
            |other: &str| format!("the same tenant as {other} ({id}); remove one of the two");
        refuse_both(section, "id", &other, problem, report);
    }
    Some(id)
}

/// The keys of `[app]`, or those of one tenant's own.
struct AppKeys {
    client_id: Parsed<String>,
    credential: Parsed<Arc<Credential>>,
    next: Parsed<Arc<Credential>>,
}

impl AppKeys {
    /// Without `secrets` the secret files are left alone: those of a disabled tenant may be gone.
    fn read(
        section: &mut Section,
        secrets: Option<&SecretFiles>,
        owner: Option<&str>,
        report: &mut Report,
    ) -> Self {
        let client_id = section.parsed("client_id", |id| {
            // Never repeated: people paste secrets here.
            let cure = "set the application (client) id from the app registration";
            parse_guid(id).map(|id| id.to_string()).ok_or(format!("not a GUID; {cure}"))
        });
        let (credential, next) = credentials::read_both(section, secrets, owner, report);
        Self { client_id, credential, next }
    }

    fn app(&self) -> Option<Arc<App>> {
        let (Parsed::Is(client_id), Parsed::Is(credential)) = (&self.client_id, &self.credential)
        else {
            return None;
        };
        let next = self.next.clone().ok();
        Some(Arc::new(App {
            client_id: client_id.clone(),
            credential: Arc::clone(credential),
            next,
        }))
    }

    /// The application that reads this tenant; `None` once an error tells why there is none.
    fn app_for_tenant(
        self,
        shared: &mut Shared,
        enabled: bool,
        name: &str,
        section: &mut Section,
        report: &mut Report,
    ) -> Option<Arc<App>> {
        if matches!(
            (&self.client_id, &self.credential, &self.next),
            (Parsed::Absent, Parsed::Absent, Parsed::Absent)
        ) {
            if shared.app.is_none() && enabled {
                shared.without_app.push(name.to_owned());
                return None;
            }
            return Some(shared.app.clone().unwrap_or_else(nobody));
        }
        if matches!((&self.client_id, &self.credential), (Parsed::Is(_), Parsed::Absent))
            && shared.app.is_some()
        {
            let place = section.name_of("client_id");
            report.warnings.push(format!(
                "{place}: is used with the secret of [app]; a secret belongs to one application"
            ));
        }
        let client_id = self.client_id.or(shared.app_keys.client_id.clone());
        // A tenant's own credential has no use for the one that follows another.
        let next = match self.credential {
            Parsed::Absent => self.next.or(shared.app_keys.next.clone()),
            _ => self.next,
        };
        let credential = self.credential.or(shared.app_keys.credential.clone());
        if enabled && matches!(client_id, Parsed::Absent) {
            section.error("client_id", "missing; set it here or in [app]");
        }
        if enabled && matches!(credential, Parsed::Absent) {
            section.error("client_secret_file", "missing; set it here or in [app]");
        }
        let app = Self { client_id, credential, next }.app();
        if enabled { app } else { Some(app.unwrap_or_else(nobody)) }
    }
}

/// A disabled tenant may have lost its application; no token is ever asked for it.
fn nobody() -> Arc<App> {
    let credential = Arc::new(Credential::secret(SecretString::default()));
    Arc::new(App { client_id: String::new(), credential, next: None })
}

/// The keys of `[api]`, or those of one tenant.
#[derive(Debug, Default)]
struct ApiKeys {
    cloud: Option<Cloud>,
    authority: Option<Url>,
    base_url: Option<Url>,
    scope: Option<String>,
    token_version: Option<TokenVersion>,
}

impl ApiKeys {
    fn read(section: &mut Section) -> Self {
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

    /// A tenant's own keys win over `[api]`'s, and a cloud of its own over all addresses there.
    fn endpoints(self, common: &Self) -> Endpoints {
        let cloud = self.cloud.or(common.cloud).unwrap_or(Cloud::Commercial);
        let fixed =
            |address: &str| Url::parse(address).expect("the addresses of the clouds are URLs");
        let inherited = self.cloud.is_none();
        let authority = self.authority.or_else(|| common.authority.clone().filter(|_| inherited));
        let base_url = self.base_url.or_else(|| common.base_url.clone().filter(|_| inherited));
        let base_url = base_url.unwrap_or_else(|| fixed(cloud.base_url()));
        let scope = self.scope.or_else(|| common.scope.clone().filter(|_| inherited));
        Endpoints {
            authority: authority.unwrap_or_else(|| fixed(cloud.authority())),
            scope: scope.unwrap_or_else(|| {
                format!("{}/.default", audience(&base_url).trim_end_matches('/'))
            }),
            base_url,
            token_version: self.token_version.or(common.token_version).unwrap_or(TokenVersion::V2),
        }
    }
}

/// The regional hosts of the worldwide cloud take tokens for its common host. Source: `MicrosoftDocs/defender-docs`,
/// `api-supported.md`.
fn audience(base_url: &Url) -> &str {
    let is_regional =
        base_url.host_str().is_some_and(|host| host.ends_with(".security.microsoft.com"));
    if is_regional { Cloud::Commercial.base_url() } else { base_url.as_str() }
}

/// Notes what holds where nobody set an address.
fn show_endpoints(section: &mut Section, endpoints: &Endpoints, from: &str) {
    let Endpoints { authority, base_url, scope, token_version } = endpoints;
    section.follows("authority", authority, from);
    section.follows("base_url", base_url, from);
    section.follows("scope", scope, from);
    let version = match token_version {
        TokenVersion::V1 => "v1",
        TokenVersion::V2 => "v2",
    };
    section.follows("token_version", version, from);
}

/// Secrets travel to these addresses, so plain http stays on this machine.
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
