//! Labels of a tenant, those for operators only included.

use std::collections::BTreeMap;

use config::ValueKind;

use super::{Section, join};

/// The table of labels for operators only; its keys get the prefix [`crate::tenant::INTERNAL_LABEL`].
const INTERNAL: &str = "internal";

impl Section {
    /// Labels: names that the operator chose, each with a text.
    pub(in crate::config) fn labels(&mut self, key: &'static str) -> BTreeMap<String, String> {
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
                format!("must be a table of strings, such as {key} = {{ tier = \"gold\" }}"),
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
        let path = join(key, &name);
        match value {
            // Customers would see a label named internal, which promises the opposite.
            _ if name == INTERNAL => {
                self.error(
                    &path,
                    "must be a table of strings, such as labels.internal = { margin = \"low\" }",
                );
            }
            ValueKind::String(text) => {
                self.add_setting(&path, text.clone(), &self.file.clone());
                labels.insert(name, text);
            }
            _ => self.error(&path, "must be a string; write it in quotes"),
        }
    }
}
