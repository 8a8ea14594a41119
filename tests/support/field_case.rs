//! Recorded cases from the field: `tests/data/field_cases/`, described in `docs/reference/field-cases.md`.

use serde_json::Value;
use simulator::ScriptedReply;

fn file(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/field_cases");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// The recorded input of a case.
pub(crate) fn input(case: &str) -> Value {
    serde_json::from_str(&file(&format!("{case}.json"))).unwrap()
}

/// The recorded answers under this key.
pub(crate) fn answers(case: &str, key: &str) -> Vec<ScriptedReply> {
    input(case)[key].as_array().unwrap().iter().map(ScriptedReply::recorded).collect()
}
