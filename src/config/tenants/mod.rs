//! `[app]`, `[api]` and the tenants.

mod api_keys;
mod app_keys;
mod names;

use std::path::PathBuf;
use std::sync::Arc;

use super::errors::ConfigError;
use super::retention::RetentionDefaults;
use super::secrets::SecretFiles;
use super::section::{Parsed, Report, Section};
use super::tenants_dir::TenantsDir;
use crate::entra::Tenant;
use crate::entra::credential::App;
use crate::tenant::{Cloud, Endpoints, Source};
use api_keys::{ApiKeys, check_authority, show_endpoints};
use app_keys::AppKeys;
pub(crate) use names::is_printable_name;
use names::{UsedNames, read_id, read_name};

pub(super) fn read(
    root: &mut Section,
    secrets: &SecretFiles,
    retention: RetentionDefaults,
    rejected: &[ConfigError],
    report: &mut Report,
) -> TenantsSection {
    let mut app = root.table("app");
    let app_keys = AppKeys::read(&mut app, Some(secrets), None, report);
    let mut api = root.table("api");
    let api_keys = ApiKeys::read(&mut api);
    api.add_default("cloud", "commercial");
    let source = api_keys.source(&ApiKeys::default());
    api_keys.check_hosts(&mut api, source);
    show_endpoints(&mut api, &ApiKeys::default().endpoints(&api_keys, source), "default");
    report.close(api);
    let mut shared =
        Shared { app: app_keys.app(), app_keys, api: api_keys, retention, without_app: Vec::new() };

    let mut sections = root.tables("tenants");
    let mut dir = root.text("tenants_dir").map(|dir| TenantsDir::new(secrets.folder.join(dir)));
    if let Some(dir) = &dir {
        report.tenants_dir = Some(dir.path.clone());
        match dir.sections(rejected, report) {
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

    report_missing_app(&mut app, &shared);
    report.close(app);
    let onboarding = OnboardingDefaults {
        app: shared.app,
        dir: dir.as_ref().map(|dir| dir.path.clone()),
        api: shared.api,
    };
    TenantsSection { tenants, dir, onboarding }
}

/// Reports an incomplete `[app]` once, not for each tenant.
fn report_missing_app(section: &mut Section, shared: &Shared) {
    if let Some(first) = shared.without_app.first() {
        let count = shared.without_app.len();
        let needed = format!("missing, and {count} enabled tenant(s) need it ({first} first)");
        if matches!(shared.app_keys.client_id, Parsed::Absent) {
            section.error(
                "client_id",
                format!(
                    "{needed}; set it to the application (client) id of your Entra application"
                ),
            );
        }
        if matches!(shared.app_keys.credential, Parsed::Absent) {
            section.error(
                "client_secret_file",
                format!("{needed}; set it to a file that contains the client secret, or set another credential"),
            );
        }
    }
}

pub(super) struct TenantsSection {
    pub(super) tenants: Vec<Arc<Tenant>>,
    pub(super) dir: Option<TenantsDir>,
    pub(super) onboarding: OnboardingDefaults,
}

/// Settings for tenants that are not configured yet.
#[derive(Debug)]
pub struct OnboardingDefaults {
    /// The application of `[app]`.
    pub app: Option<Arc<App>>,
    /// `tenants_dir`, for the file of the tenant.
    pub dir: Option<PathBuf>,
    api: ApiKeys,
}

impl OnboardingDefaults {
    /// The source of `[api]`.
    pub fn source(&self) -> Source {
        self.api.source(&ApiKeys::default())
    }

    /// The addresses of a source in this cloud; `None` is that of `[api]`.
    pub fn endpoints(&self, cloud: Option<Cloud>, source: Source) -> Endpoints {
        ApiKeys::of_cloud(cloud).endpoints(&self.api, source)
    }
}

/// Settings that tenants inherit.
struct Shared {
    app_keys: AppKeys,
    /// Absent when `[app]` is incomplete or wrong.
    app: Option<Arc<App>>,
    api: ApiKeys,
    retention: RetentionDefaults,
    /// Enabled tenants that inherit an incomplete `[app]`.
    without_app: Vec<String>,
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
    let label = name.as_deref().unwrap_or("unnamed");
    let own = AppKeys::read(&mut section, enabled.then_some(secrets), Some(label), report);
    let has_own_credential = !matches!(own.credential, Parsed::Absent);
    let app = own.app_for_tenant(shared, enabled, label, &mut section, report);
    let source = api.source(&shared.api);
    api.check_hosts(&mut section, source);
    let endpoints = api.endpoints(&shared.api, source);
    let other_endpoints = api.endpoints(&shared.api, source.other());
    if enabled && !has_own_credential && section.own_file().is_some() {
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
        other_endpoints,
        app: app?,
        retention,
    }))
}
