//! Writes JSON objects from values that are JSON text already.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::json::Object;

/// An object under construction; keys keep their order.
pub(super) struct Fields(String);

impl Fields {
    pub(super) fn new() -> Self {
        Self("{".to_owned())
    }

    /// A value that is JSON text; null where there is none.
    pub(super) fn raw(mut self, name: &str, json: Option<&str>) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
        self.0.push_str(json.unwrap_or("null"));
        self
    }

    pub(super) fn with(self, name: &str, value: impl Serialize) -> Self {
        self.raw(name, Some(&text(value)))
    }

    /// Nulls under these names.
    pub(super) fn nulls(self, names: &[&str]) -> Self {
        names.iter().fold(self, |fields, name| fields.raw(name, None))
    }

    pub(super) fn close(mut self) -> String {
        self.0.push('}');
        self.0
    }

    /// The object without its closing brace.
    pub(super) fn unclosed(self) -> String {
        self.0
    }
}

/// The value as JSON text.
pub(super) fn text(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("plain data has a JSON form")
}

/// The elements of an array; `None` for anything else.
pub(super) fn elements(json: &str) -> Option<Vec<Box<RawValue>>> {
    serde_json::from_str(json).ok()
}

/// The array with its objects rendered; what is no array or no object stays as it is.
pub(super) fn map_objects(
    json: Option<&str>,
    render: impl Fn(&Object) -> String,
) -> Option<String> {
    let json = json?;
    let Some(elements) = elements(json) else { return Some(json.to_owned()) };
    let rendered: Vec<String> = elements
        .iter()
        .map(|element| match Object::parse(element.get().as_bytes()) {
            Some(object) => render(&object),
            None => element.get().to_owned(),
        })
        .collect();
    Some(array(&rendered))
}

/// An array of JSON texts.
pub(super) fn array(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}
