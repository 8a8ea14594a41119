//! Walks the merged configuration key by key. A mistake is noted and the walk goes on, so that one load tells all of
//! them; a key that nobody asked for is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Map, Value, ValueKind};
use serde::Serialize;
use url::Url;
use uuid::Uuid;

use super::environment::variable;
use super::errors::{ConfigError, ConfigErrors};

/// A key as it holds, and where that comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Such as `sync.concurrency` or `tenants[3] (Contoso).id`; in a file of `tenants_dir` such as `id`.
    pub key: String,
    /// The tenant whose key it is.
    pub tenant: Option<String>,
    /// What it is, a secret excepted.
    pub value: String,
    /// The file, the name of the environment's variable, `default`, or what it follows from.
    pub source: String,
}

/// A value as it may be shown.
fn shown(key: &str, value: &str) -> String {
    if key == "client_secret" {
        return "set, not shown".to_owned();
    }
    match Url::parse(value) {
        Ok(mut url) if url.password().is_some() || url.query().is_some() => {
            // What cannot be taken out was not there.
            _ = url.set_password(None);
            url.set_query(None);
            format!("{url} (and more that is not shown)")
        }
        _ => value.to_owned(),
    }
}

/// What one load has found so far.
#[derive(Default)]
pub(super) struct Report {
    errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
    pub(super) settings: Vec<Setting>,
    /// Where one wrong file is the matter of one tenant.
    pub(super) tenants_dir: Option<PathBuf>,
    /// Every key that was asked for, by section.
    known: BTreeMap<&'static str, BTreeSet<&'static str>>,
    unknown: Vec<Unknown>,
}

/// A key that nobody asked for.
struct Unknown {
    kind: &'static str,
    path: String,
    key: String,
    error: ConfigError,
}

impl Report {
    /// Takes over what a section has found, once all of its keys have been asked for.
    pub(super) fn close(&mut self, section: Section) {
        self.known.entry(section.kind).or_default().extend(&section.asked);
        for key in section.values.keys() {
            let error = section.error_at(key, "unknown key");
            self.unknown.push(Unknown {
                kind: section.kind,
                path: section.path.clone(),
                key: key.clone(),
                error,
            });
        }
        let Section { path, tenant, .. } = &section;
        let told = section.settings.iter().filter(|setting| section.holds_itself(setting));
        self.settings.extend(told.map(|setting| {
            let Setting { key, value, source, .. } = setting.clone();
            Setting { key: join(path, &key), tenant: tenant.clone(), value, source }
        }));
        self.errors.extend(section.errors);
    }

    pub(super) fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// All errors, the unknown keys with the valid ones that they resemble. Only now every valid key is known.
    pub(super) fn into_errors(mut self) -> ConfigErrors {
        for mut unknown in std::mem::take(&mut self.unknown) {
            unknown.error.problem = format!("unknown key; {}", self.suggestion(&unknown));
            self.errors.push(unknown.error);
        }
        ConfigErrors(self.errors)
    }

    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.unknown.is_empty()
    }

    fn suggestion(&self, Unknown { kind, path, key, error }: &Unknown) -> String {
        let did_you_mean = |valid: String| {
            let is_from_env = error.file == "environment";
            format!("did you mean {}?", if is_from_env { variable(&valid) } else { valid })
        };
        let siblings = self.known.get(kind).into_iter().flatten();
        let nearest = siblings.map(|known| (strsim::damerau_levenshtein(key, known), *known)).min();
        if let Some((distance, known)) = nearest
            && distance <= (key.len() / 3).max(1)
        {
            return did_you_mean(join(path, known));
        }
        if let Some((other, _)) = self.known.iter().find(|(_, keys)| keys.contains(key.as_str())) {
            let valid = join(other, key);
            if valid == error.key {
                return "this file is one tenant: its keys stand at top level, in no section"
                    .to_owned();
            }
            return did_you_mean(valid);
        }
        let valid: Vec<&str> = self.known.get(kind).into_iter().flatten().copied().collect();
        format!("valid here: {}", valid.join(", "))
    }
}

/// The table of labels that only operators see; its keys become those of [`crate::tenant::INTERNAL_LABEL`].
const INTERNAL: &str = "internal";

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// In days where humantime would write months of 30.44 days.
fn span_text(span: Duration) -> String {
    let (days, rest) = (span.as_secs() / 86_400, span.as_secs() % 86_400);
    if days > 0 && rest == 0 {
        format!("{days}d")
    } else {
        humantime::format_duration(span).to_string()
    }
}

/// A value that may be there, may be absent, or was wrong, which has been told already.
#[derive(Debug, Clone)]
pub(super) enum Parsed<T> {
    Absent,
    Wrong,
    Is(T),
}

impl<T> Parsed<T> {
    pub(super) fn or(self, other: Self) -> Self {
        if matches!(self, Self::Absent) { other } else { self }
    }

    pub(super) fn ok(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }
}

/// One table of the configuration. Each question removes its key.
pub(super) struct Section {
    file: String,
    /// How the table is named to the operator.
    path: String,
    /// Which keys it may have; the same for all tenants.
    kind: &'static str,
    /// Whose table it is.
    tenant: Option<String>,
    values: BTreeMap<String, Value>,
    /// The variable behind each key that the environment has set.
    from_env: BTreeMap<String, String>,
    asked: BTreeSet<&'static str>,
    errors: Vec<ConfigError>,
    /// By the keys of this table alone: its path and the tenant's name may not be known yet.
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
        let from_env = table.iter().filter_map(variable).collect();
        let (file, path, values) = (file.to_owned(), path.to_owned(), table.into_iter().collect());
        let (asked, errors, settings) = (BTreeSet::new(), Vec::new(), Vec::new());
        Self { file, path, kind, tenant: None, values, from_env, asked, errors, settings }
    }

    /// Adds the tenant's name to its place in the list; a file of its own is name enough.
    pub(super) fn name_tenant(&mut self, name: &str) {
        self.tenant = Some(name.to_owned());
        if !self.path.is_empty() {
            self.path = format!("{} ({name})", self.path);
        }
    }

    /// The file that is this table and nothing else.
    pub(super) fn own_file(&self) -> Option<&str> {
        self.path.is_empty().then_some(self.file.as_str())
    }

    /// Where the operator finds this table.
    pub(super) fn location(&self) -> String {
        if self.path.is_empty() {
            self.file.clone()
        } else {
            format!("{} in {}", self.path, self.file)
        }
    }

    /// Whether the environment set this key; only files give values without origin.
    pub(super) fn is_from_env(&self, key: &str) -> bool {
        self.from_env.contains_key(key)
    }

    /// Where the operator finds this key, for warnings.
    pub(super) fn name_of(&self, key: &str) -> String {
        let ConfigError { file, key, .. } = self.error_at(key, "");
        format!("{file}: {key}")
    }

    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.asked.insert(key);
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
        self.asked.insert(key);
        let value = self.values.remove(key).map(|value| value.kind)?;
        if !matches!(value, ValueKind::Table(_) | ValueKind::Array(_)) {
            let ConfigError { file, key: name, .. } = self.error_at(key, "");
            let source = if self.is_from_env(key) { name } else { file };
            self.note(key, shown(key, &value.to_string()), &source);
        }
        Some(value)
    }

    /// Notes what holds where nobody set the key.
    pub(super) fn default_is(&mut self, key: &'static str, value: impl fmt::Display) {
        self.follows(key, value, "default");
    }

    /// Notes what holds where nobody set the key, and what it follows from.
    pub(super) fn follows(&mut self, key: &'static str, value: impl fmt::Display, from: &str) {
        if !self.settings.iter().any(|setting| setting.key == key) {
            self.note(key, value.to_string(), from);
        }
    }

    fn note(&mut self, key: &str, value: String, source: &str) {
        self.settings.push(Setting {
            key: key.to_owned(),
            tenant: None,
            value,
            source: source.to_owned(),
        });
    }

    /// Whether a setting is what holds, and not something that another one overrides.
    fn holds_itself(&self, Setting { key, source, .. }: &Setting) -> bool {
        const SECRETS: [&str; 2] = ["client_secret", "client_secret_file"];
        // The environment overrides the file, whichever of the two keys it sets.
        let is_shadowed = SECRETS.contains(&key.as_str())
            && !self.is_from_env(key)
            && SECRETS.iter().any(|key| self.is_from_env(key));
        // Where a tenant says nothing, the credential of [app] holds.
        let is_inherited = key == "managed_identity" && source == "default" && self.kind != "app";
        !is_shadowed && !is_inherited
    }

    /// A text that `parse` accepts; its error is completed with the key.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Parsed<T> {
        let parsed = match self.take(key) {
            None => return Parsed::Absent,
            Some(ValueKind::String(text)) => parse(&text),
            Some(_) => Err("must be a text; write it in quotes".to_owned()),
        };
        match parsed {
            Ok(value) => Parsed::Is(value),
            Err(problem) => {
                self.error(key, problem);
                Parsed::Wrong
            }
        }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| Ok(text.to_owned())).ok()
    }

    /// A whole number in `range`. The environment knows only text.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let taken = self.take(key);
        self.default_is(key, default);
        let number = match taken {
            None => return default,
            Some(ValueKind::I64(number)) => Some(number),
            Some(ValueKind::String(text)) if self.is_from_env(key) => text.trim().parse().ok(),
            Some(_) => None,
        };
        let (from, to) = (range.start(), range.end());
        match number.map(u32::try_from) {
            Some(Ok(number)) if range.contains(&number) => return number,
            Some(_) => {
                self.error(key, format!("out of range; set a whole number from {from} to {to}"));
            }
            None => self.error(
                key,
                format!("not a whole number; set one from {from} to {to}, without quotes"),
            ),
        }
        default
    }

    /// The environment knows only text.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let taken = self.take(key);
        self.default_is(key, default);
        let flag = match taken {
            None => return default,
            Some(ValueKind::Boolean(flag)) => Some(flag),
            Some(ValueKind::String(text)) if self.is_from_env(key) => text.trim().parse().ok(),
            Some(_) => None,
        };
        flag.unwrap_or_else(|| {
            self.error(key, "must be true or false, without quotes");
            default
        })
    }

    /// A time span such as `10m`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let span = self.span(key, range).unwrap_or(default);
        self.default_is(key, span_text(default));
        span
    }

    /// A time span that may be absent.
    pub(super) fn span(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let parse = |text: &str| {
            let span = humantime::parse_duration(text)
                .map_err(|error| format!("{error}; write it like \"10m\""))?;
            if range.contains(&span) {
                return Ok(span);
            }
            let (from, to) = (span_text(*range.start()), span_text(*range.end()));
            Err(format!("out of range; set a time from {from} to {to}"))
        };
        self.parsed(key, parse).ok()
    }

    /// A table of this one; empty when it is absent.
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

    /// A list of tables.
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

    /// Names that the operator chose, each with a text.
    pub(super) fn labels(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        match self.take(key) {
            None => {}
            Some(ValueKind::Table(table)) => {
                for (name, value) in table {
                    match value.kind {
                        ValueKind::Table(internal) if name == INTERNAL => {
                            for (inner, value) in internal {
                                self.label(
                                    key,
                                    format!("{INTERNAL}.{inner}"),
                                    value.kind,
                                    &mut labels,
                                );
                            }
                        }
                        kind => self.label(key, name, kind, &mut labels),
                    }
                }
            }
            Some(_) => self.error(
                key,
                format!("must be a table of texts, such as {key} = {{ tier = \"gold\" }}"),
            ),
        }
        labels
    }

    fn label(
        &mut self,
        key: &str,
        name: String,
        value: ValueKind,
        labels: &mut BTreeMap<String, String>,
    ) {
        let place = join(key, &name);
        match value {
            // It would be shown to customers under the very word that says it is not.
            _ if name == INTERNAL => {
                self.error(
                    &place,
                    "must be a table of texts, such as labels.internal = { margin = \"low\" }",
                );
            }
            ValueKind::String(text) => {
                self.note(&place, text.clone(), &self.file.clone());
                labels.insert(name, text);
            }
            _ => self.error(&place, "must be a text; write it in quotes"),
        }
    }
}

/// Only the form that Entra shows; the crate would take URNs and braces too.
pub(super) fn parse_guid(text: &str) -> Option<Uuid> {
    let text = text.trim();
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}
