//! One table of the configuration, read key by key. An error is recorded and reading continues, so that one load reports all
//! of them; a key that is never read is unknown.

mod labels;
mod report;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use config::{Map, Value, ValueKind};
use serde::Serialize;
use url::Url;

pub(super) use report::Report;
pub(super) use values::{Parsed, parse_guid};

use super::errors::ConfigError;

/// The effective value of a key and its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Such as `sync.concurrency` or `tenants[3] (Contoso).id`; in a file of `tenants_dir` such as `id`.
    pub key: String,
    /// The tenant that the key applies to; `None` for a global key.
    pub tenant: Option<String>,
    /// Redacted if it is a secret.
    pub value: String,
    /// The file, the environment variable, `default`, or the keys that it is derived from.
    pub source: String,
}

/// A value without secrets.
fn redacted(key: &str, value: &str) -> String {
    if key == "client_secret" {
        return "set, not shown".to_owned();
    }
    match Url::parse(value) {
        Ok(mut url) if url.password().is_some() || url.query().is_some() => {
            // Fails only for a URL that cannot have a password.
            let _ = url.set_password(None);
            url.set_query(None);
            format!("{url} (and more that is not shown)")
        }
        _ => value.to_owned(),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// One table of the configuration. Reading a key removes it, so that the unknown ones remain.
pub(super) struct Section {
    file: String,
    /// The name of the table for the operator.
    path: String,
    /// Determines the valid keys; the same for all tenants.
    kind: &'static str,
    tenant: Option<String>,
    values: BTreeMap<String, Value>,
    /// The variable of each key that the environment sets.
    from_env: BTreeMap<String, String>,
    /// The valid keys, for suggestions when another one is set.
    known: BTreeSet<&'static str>,
    errors: Vec<ConfigError>,
    /// Without the path of the table, which may not be known yet.
    settings: Vec<Setting>,
}

impl Section {
    pub(super) fn new(
        file: &str,
        path: &str,
        kind: &'static str,
        table: Map<String, Value>,
    ) -> Self {
        let variable =
            |(key, value): (&String, &Value)| Some((key.clone(), value.origin()?.to_owned()));
        Self {
            file: file.to_owned(),
            path: path.to_owned(),
            kind,
            tenant: None,
            from_env: table.iter().filter_map(variable).collect(),
            values: table.into_iter().collect(),
            known: BTreeSet::new(),
            errors: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// Adds the tenant's name to its index in the list. A file of its own needs none.
    pub(super) fn name_tenant(&mut self, name: &str) {
        self.tenant = Some(name.to_owned());
        if !self.path.is_empty() {
            self.path = format!("{} ({name})", self.path);
        }
    }

    /// The file, if it contains this table only.
    pub(super) fn own_file(&self) -> Option<&str> {
        self.path.is_empty().then_some(self.file.as_str())
    }

    /// The location of this table, for the operator.
    pub(super) fn location(&self) -> String {
        if self.path.is_empty() {
            self.file.clone()
        } else {
            format!("{} in {}", self.path, self.file)
        }
    }

    pub(super) fn is_from_env(&self, key: &str) -> bool {
        self.from_env.contains_key(key)
    }

    /// File and name of a key, for warnings.
    pub(super) fn name_of(&self, key: &str) -> String {
        let ConfigError { file, key, .. } = self.error_at(key, "");
        format!("{file}: {key}")
    }

    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.known.insert(key);
        self.values.contains_key(key)
    }

    pub(super) fn error(&mut self, key: &str, problem: impl Into<String>) {
        self.errors.push(self.error_at(key, problem));
    }

    fn error_at(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let (file, key) = match self.from_env.get(key) {
            Some(variable) => ("environment".to_owned(), variable.clone()),
            None => (self.file.clone(), join(&self.path, key)),
        };
        ConfigError { file, key, problem: problem.into() }
    }

    fn take(&mut self, key: &'static str) -> Option<ValueKind> {
        self.known.insert(key);
        let value = self.values.remove(key).map(|value| value.kind)?;
        if !matches!(value, ValueKind::Table(_) | ValueKind::Array(_)) {
            let ConfigError { file, key: name, .. } = self.error_at(key, "");
            let source = if self.is_from_env(key) { name } else { file };
            self.add_setting(key, redacted(key, &value.to_string()), &source);
        }
        Some(value)
    }

    /// Adds the default to the settings if the key is not set.
    pub(super) fn add_default(&mut self, key: &'static str, value: impl fmt::Display) {
        self.add_derived(key, value, "default");
    }

    /// Adds a derived value and its source to the settings if the key is not set.
    pub(super) fn add_derived(&mut self, key: &'static str, value: impl fmt::Display, from: &str) {
        if !self.settings.iter().any(|setting| setting.key == key) {
            self.add_setting(key, value.to_string(), from);
        }
    }

    fn add_setting(&mut self, key: &str, value: String, source: &str) {
        self.settings.push(Setting {
            key: key.to_owned(),
            tenant: None,
            value,
            source: source.to_owned(),
        });
    }

    /// Whether no other setting overrides this one.
    fn is_effective(&self, Setting { key, source, .. }: &Setting) -> bool {
        const SECRETS: [&str; 2] = ["client_secret", "client_secret_file"];
        // A variable for one of the two keys overrides both keys of the file.
        let is_shadowed = SECRETS.contains(&key.as_str())
            && !self.is_from_env(key)
            && SECRETS.iter().any(|key| self.is_from_env(key));
        // A tenant without the key inherits the credential of [app].
        let is_inherited = key == "managed_identity" && source == "default" && self.kind != "app";
        !is_shadowed && !is_inherited
    }

    /// An inner table; empty if it is absent.
    pub(super) fn table(&mut self, key: &'static str) -> Section {
        let table = match self.take(key) {
            Some(ValueKind::Table(table)) => table,
            None => Map::new(),
            Some(_) => {
                self.error(key, format!("must be a section: write [{key}] on a line of its own"));
                Map::new()
            }
        };
        Self {
            tenant: self.tenant.clone(),
            ..Self::new(&self.file, &join(&self.path, key), key, table)
        }
    }

    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Section> {
        let list = match self.take(key) {
            Some(ValueKind::Array(list)) => list,
            None => return Vec::new(),
            Some(_) => {
                self.error(key, format!("must be a list: write [[{key}]] above each entry"));
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (index, value) in list.into_iter().enumerate() {
            let path = format!("{key}[{index}]");
            match value.kind {
                ValueKind::Table(table) => sections.push(Self::new(&self.file, &path, key, table)),
                _ => {
                    self.error(&path, format!("must be a table: write [[{key}]] above each entry"));
                }
            }
        }
        sections
    }
}
