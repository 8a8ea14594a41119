//! The results of a load: errors, warnings and effective settings. Unknown keys get a suggestion.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{Section, Setting, join};
use crate::config::environment::variable;
use crate::config::errors::{ConfigError, ConfigErrors};

/// The errors, warnings and settings of one load.
#[derive(Default)]
pub(in crate::config) struct Report {
    errors: Vec<ConfigError>,
    pub(in crate::config) warnings: Vec<String>,
    pub(in crate::config) settings: Vec<Setting>,
    /// An invalid file of this directory affects one tenant only.
    pub(in crate::config) tenants_dir: Option<PathBuf>,
    /// The valid keys by section.
    known: BTreeMap<&'static str, BTreeSet<&'static str>>,
    unknown: Vec<Unknown>,
}

/// A key that no part of the code reads.
struct Unknown {
    kind: &'static str,
    path: String,
    key: String,
    error: ConfigError,
}

impl Report {
    /// Adds the results of a section after all of its valid keys have been read.
    pub(in crate::config) fn close(&mut self, section: Section) {
        self.known.entry(section.kind).or_default().extend(&section.known);
        for key in section.values.keys() {
            let error = section.error_at(key, "unknown key");
            self.unknown.push(Unknown {
                kind: section.kind,
                path: section.path.clone(),
                key: key.clone(),
                error,
            });
        }
        let effective = section.settings.iter().filter(|setting| section.is_effective(setting));
        self.settings.extend(effective.map(|setting| Setting {
            key: join(&section.path, &setting.key),
            tenant: section.tenant.clone(),
            ..setting.clone()
        }));
        self.errors.extend(section.errors);
    }

    pub(in crate::config) fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// All errors, unknown keys with a suggestion. Called last, because the valid keys are known only then.
    pub(in crate::config) fn into_errors(mut self) -> ConfigErrors {
        for mut unknown in std::mem::take(&mut self.unknown) {
            unknown.error.problem = format!("unknown key; {}", self.suggestion(&unknown));
            self.errors.push(unknown.error);
        }
        ConfigErrors(self.errors)
    }

    pub(in crate::config) fn is_clean(&self) -> bool {
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
                return "this file is one tenant: write its keys at top level, in no section"
                    .to_owned();
            }
            return did_you_mean(valid);
        }
        let valid: Vec<&str> = self.known.get(kind).into_iter().flatten().copied().collect();
        format!("valid here: {}", valid.join(", "))
    }
}
