//! The keys of an application: its id and its credentials.

use std::sync::Arc;

use secrecy::SecretString;

use super::Shared;
use crate::config::credentials;
use crate::config::secrets::SecretFiles;
use crate::config::section::{Parsed, Report, Section, parse_guid};
use crate::entra::credential::{App, Credential};

/// The keys of `[app]` or of one tenant.
pub(super) struct AppKeys {
    pub(super) client_id: Parsed<String>,
    pub(super) credential: Parsed<Arc<Credential>>,
    next: Parsed<Arc<Credential>>,
}

impl AppKeys {
    /// Without `secrets` no secret file is read: those of a disabled tenant may be missing.
    pub(super) fn read(
        section: &mut Section,
        secrets: Option<&SecretFiles>,
        owner: Option<&str>,
        report: &mut Report,
    ) -> Self {
        let client_id = section.parsed("client_id", |id| {
            // The text is not repeated, because people paste secrets here.
            let cure = "set the application (client) id from the app registration";
            parse_guid(id).map(|id| id.to_string()).ok_or(format!("not a GUID; {cure}"))
        });
        let (credential, next) = credentials::read_both(section, secrets, owner, report);
        Self { client_id, credential, next }
    }

    pub(super) fn app(&self) -> Option<Arc<App>> {
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

    /// The application that reads this tenant; `None` after its absence has been reported.
    pub(super) fn app_for_tenant(
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
            return Some(shared.app.clone().unwrap_or_else(placeholder_app));
        }
        if matches!((&self.client_id, &self.credential), (Parsed::Is(_), Parsed::Absent))
            && shared.app.is_some()
        {
            let key = section.name_of("client_id");
            report.warnings.push(format!(
                "{key}: is used with the secret of [app]; a secret belongs to one application"
            ));
        }
        let client_id = self.client_id.or(shared.app_keys.client_id.clone());
        // The next credential of [app] replaces that of [app], not a tenant's own.
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
        if enabled { app } else { Some(app.unwrap_or_else(placeholder_app)) }
    }
}

/// For a disabled tenant without an application; no token is requested for it.
fn placeholder_app() -> Arc<App> {
    let credential = Arc::new(Credential::secret(SecretString::default()));
    Arc::new(App { client_id: String::new(), credential, next: None })
}
