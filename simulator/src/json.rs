//! A JSON object that keeps the order of its keys and the text of its values.
//!
//! `serde_json::Value` would sort the keys and need some fifty bytes a field. The simulator stores tens of thousands of
//! incidents as text and changes single keys without touching the rest.

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// An object whose values are still text.
#[derive(Debug, Clone, Default)]
pub(super) struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// `None` if the text is not an object.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Replaces the key's value, or appends the key.
    pub(super) fn set(&mut self, key: &str, value: impl Serialize) {
        let value = to_raw_value(&value).expect("plain data has a JSON form");
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// [`Self::set`] for construction.
    pub(super) fn with(mut self, key: &str, value: impl Serialize) -> Self {
        self.set(key, value);
        self
    }

    /// The value of a key; `None` if it is missing or of another type.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let (_, value) = self.0.iter().find(|(name, _)| name == key)?;
        serde_json::from_str(value.get()).ok()
    }

    /// Keys and values, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.get()))
    }

    /// The objects of an array; empty if the key is missing or not an array.
    pub(super) fn objects(&self, key: &str) -> Vec<Object> {
        self.get(key).unwrap_or_default()
    }

    /// The strings of an array; empty if the key is missing or not an array.
    pub(super) fn strings(&self, key: &str) -> Vec<String> {
        self.get(key).unwrap_or_default()
    }

    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("plain data has a JSON form")
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_keeps_key_order_and_other_values() {
        let mut object =
            Object::parse(br#"{"z":1.50,"a":"\u0000\ud800","list":[{"b":2}]}"#).unwrap();
        object.set("z", "new");
        object.set("last", true);
        assert_eq!(
            object.to_text(),
            r#"{"z":"new","a":"\u0000\ud800","list":[{"b":2}],"last":true}"#
        );
        assert_eq!(object.objects("list")[0].get::<i64>("b"), Some(2));
    }
}
