//! Puts the variables of the environment on top of what the file says.

use config::{Map, Value, ValueKind};

use super::Variables;
use super::errors::ConfigError;

/// Begins the name of each variable that sets a key.
const PREFIX: &str = "incident_sync__";
/// Stands between section and key in such a name.
const SEPARATOR: &str = "__";

/// Sets what the variables name; what cannot be set is told. Such values have the variable as origin, those of files none.
pub(super) fn overlay(tree: &mut Map<String, Value>, environment: &Variables) -> Vec<ConfigError> {
    // In order, so that the same mistakes are always told in the same way.
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
            "the environment cannot set tenants; write them into the file, or each into one of tenants_dir".to_owned()
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
