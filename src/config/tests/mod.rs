//! Loads of whole configurations, by subject.

mod any_content;
mod connections;
mod credentials;
mod environment;
mod errors;
mod sample;
mod settings;
mod tenants;
mod tenants_dir;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::environment::Variables;
use super::*;
use crate::entra::credential::ClientAuth;

const CANARY: &str = "canary8Q~secret.value";
const APP: &str = "[app]\nclient_id = '11111111-2222-3333-4444-555555555555'\nclient_secret_file = 'client_secret'\n";

const CONTOSO: &str =
    "[[tenants]]\nid = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'\nname = 'Contoso'\n";
const FABRIKAM: &str =
    "[[tenants]]\nid = 'aaaaaaaa-bbbb-cccc-dddd-ffffffffffff'\nname = 'Fabrikam'\n";

/// A directory with a configuration file and a good secret file.
struct Etc {
    dir: TempDir,
    environment: Variables,
}

impl Etc {
    fn with(text: &str) -> Self {
        let etc = Self { dir: tempfile::tempdir().unwrap(), environment: Variables::new() };
        etc.secret("client_secret", &format!("{CANARY}\n"));
        etc.file("incident-sync.toml", text)
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn secret(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Config, ConfigErrors> {
        load_with(Some(&self.dir.path().join("incident-sync.toml")), None, &self.environment)
    }

    fn good(&self) -> Config {
        self.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The lines of the errors, without the directory.
    fn errors(&self) -> Vec<String> {
        let errors = self.load().expect_err("the file is invalid").to_string();
        let dir = format!("{}/", self.dir.path().display());
        errors.lines().map(|line| line.replace(&dir, "")).collect()
    }

    /// Asserts exactly one error, which contains these texts.
    fn assert_error(&self, texts: &[&str]) {
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        for text in texts {
            assert!(errors[0].contains(text), "{text} is not in {}", errors[0]);
        }
    }
}

fn secret_of(tenant: &Tenant) -> String {
    let auth = tenant.app.credential.loaded();
    let ClientAuth::Secret(secret) = &*auth else { panic!("{auth:?}") };
    secret.expose_secret().to_owned()
}

const SAMPLE: &str = include_str!("../../../config/incident-sync.toml");
