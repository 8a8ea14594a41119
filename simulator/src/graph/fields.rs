//! Writes JSON objects from values that are JSON text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// An object under construction; keys keep their order.
pub(super) struct Fields(String);

impl Fields {
    pub(super) fn new() -> Self {
        let mut text = String::with_capacity(512);
        text.push('{');
        Self(text)
    }

    /// A value that is JSON text; null for `None`.
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

/// An object that borrows from its text: renderings open thousands of them.
#[derive(Default)]
pub(super) struct View<'a>(Vec<(Key<'a>, &'a RawValue)>);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> View<'a> {
    /// The object in `text`, if it is one.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The key's value as JSON text; `None` where it is missing or null.
    pub(super) fn raw(&self, key: &str) -> Option<&'a str> {
        let (_, value) = self.0.iter().find(|(name, _)| name.0 == key)?;
        Some(value.get()).filter(|json| *json != "null")
    }

    /// The key's value, if it is there and of that type.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)?).ok()
    }

    /// Keys and values, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, value)| (&*key.0, value.get()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for View<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = View<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<View<'de>, A::Error> {
        let mut entries = Vec::with_capacity(32);
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(View(entries))
    }
}

/// The value as JSON text.
pub(super) fn text(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("plain data has a JSON form")
}

/// The elements of an array; `None` for anything else.
pub(super) fn elements(json: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json).ok()
}

/// The array with its objects rendered; other elements and other values are unchanged.
pub(super) fn map_objects(
    json: Option<&str>,
    render: impl Fn(&View<'_>) -> String,
) -> Option<String> {
    let json = json?;
    let Some(elements) = elements(json) else { return Some(json.to_owned()) };
    let rendered: Vec<String> = elements
        .iter()
        .map(|element| match View::parse(element.get()) {
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
