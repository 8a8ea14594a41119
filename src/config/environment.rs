//! The environment. Its variables override the keys of the file.

use std::collections::HashMap;

use config::{Map, Value, ValueKind};

use super::errors::ConfigError;

/// The prefix of each variable that sets a key.
const PREFIX: &str = "incident_sync__";
/// Separates section and key in such a name.
const SEPARATOR: &str = "__";

/// Variables by name; a parameter, so that tests need not change the environment of the process.
pub(super) type Variables = HashMap<String, String>;

pub(super) fn process_environment() -> Variables {
    std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value))).collect()
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Sets the keys that the variables name, and returns an error for each one that it cannot set. The origin of such a value is
/// its variable; values of files have no origin.
pub(super) fn overlay(tree: &mut Map<String, Value>, environment: &Variables) -> Vec<ConfigError> {
    // Sorted, so that equal errors are always reported in the same order.
    let mut variables: Vec<_> = environment.iter().collect();
    variables.sort_unstable();
    let mut errors = Vec::new();
    for (name, value) in variables {
        let lower = name.to_lowercase();
        let Some(path) = lower.strip_prefix(PREFIX) else { continue };
        // Compose files pass unset variables on as empty ones.
        if value.is_empty() {
            continue;
        }
        if let Err(problem) = set(tree, path, name, value) {
            errors.push(ConfigError { file: "environment".to_owned(), key: name.clone(), problem });
        }
    }
    errors
}

fn set(
    tree: &mut Map<String, Value>,
    path: &str,
    name: &String,
    value: &str,
) -> Result<(), String> {
    let mut sections: Vec<&str> = path.split(SEPARATOR).collect();
    if sections[0].split('[').next() == Some("tenants") {
        return Err(
            "the environment cannot set tenants; add them to the main file or to tenants_dir"
                .to_owned(),
        );
    }
    let key = sections.pop().unwrap_or_default();
    let mut table = tree;
    for section in sections {
        let empty = || Value::new(Some(name), ValueKind::Table(Map::new()));
        let ValueKind::Table(inner) =
            &mut table.entry(section.to_owned()).or_insert_with(empty).kind
        else {
            return Err(format!("{section} is a value, not a section. Correct {section} first"));
        };
        table = inner;
    }
    table.insert(key.to_owned(), Value::new(Some(name), ValueKind::String(value.to_owned())));
    Ok(())
}

/// The variable that sets a key.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', SEPARATOR)).to_uppercase()
}
