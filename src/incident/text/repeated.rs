//! JSON whose objects repeat keys: the last value of a key wins, as in Postgres's functions, and the others are kept apart.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};

/// The value of a text, and an object for each member that a later one with the same key hides.
pub fn parse(text: &str) -> Result<(Value, Vec<Value>), serde_json::Error> {
    let mut hidden = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Members(&mut hidden).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, hidden))
}

struct Members<'h>(&'h mut Vec<Value>);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(truth.into())
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Members(self.0))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            let value = object.next_value_seed(Members(self.0))?;
            if let Some(earlier) = members.insert(key.clone(), value) {
                self.0.push(json!({ key: earlier }));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_members_stand_apart_at_any_depth() {
        let text =
            r#"{"a":[{"b":1,"b":{"c":-2.5,"c":null}}],"a2":"\u0041","a":[{"b":"x","b":true}]}"#;
        let (value, hidden) = parse(text).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(
            hidden,
            [
                json!({"c": -2.5}),
                json!({"b": 1}),
                json!({"b": "x"}),
                json!({"a": [{"b": {"c": null}}]})
            ]
        );
        assert_eq!(parse(r#"{"a":{"b":1},"b":1}"#).unwrap().1, [] as [Value; 0]);
        assert!(parse("{} {}").is_err());
    }
}
