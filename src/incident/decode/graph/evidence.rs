//! Evidence of Graph as entities of the Defender API: the columns that both have, and the rest as `extra`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde::de::MapAccess;
use serde_json::value::RawValue;

use super::super::lenient::{FromJson, Key, Lenient, take};
use super::identity::identity;
use super::properties::{BASE, Column, EvidenceType, Property, SHARED_TYPES, Use};
use super::values::{Enumeration, converted};
use crate::incident::columns::{EvidenceColumns, Text};
use crate::incident::hash::{self, Hash};
use crate::incident::rows::EvidenceRow;

/// The properties of an object, still as JSON.
#[derive(Debug, Default)]
pub(in crate::incident::decode) struct Properties<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> FromJson<'de> for Properties<'de> {
    fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut properties = Vec::new();
        while let Some(key) = object.next_key::<Key<'de>>()? {
            properties.push((key.0, object.next_value()?));
        }
        Ok(Some(Self(properties)))
    }
}

impl<'a> Properties<'a> {
    /// The last of a repeated key.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw)
    }

    /// The value of a property, which is noted where it has another type.
    pub(super) fn value<T: FromJson<'a>>(
        &self,
        name: &'static str,
        mistyped: &mut Vec<&'static str>,
    ) -> Option<T> {
        take(name, parse(self.get(name)?), mistyped)
    }

    /// The type without its namespace; empty where none is named.
    pub(super) fn type_name(&self) -> Text<'a> {
        let name = self.get("@odata.type").and_then(|raw| parse::<Text<'a>>(raw).value());
        match name.unwrap_or_default() {
            Cow::Borrowed(name) => Cow::Borrowed(name.rsplit('.').next().unwrap_or_default()),
            Cow::Owned(name) => Cow::Owned(name.rsplit('.').next().unwrap_or_default().to_owned()),
        }
    }

    /// All of them but annotations of `OData`, as JSON.
    fn rest(&self) -> BTreeMap<&str, Cow<'a, str>> {
        let own = self.0.iter().filter(|(key, _)| !key.contains('@'));
        own.map(|(key, raw)| (key.as_ref(), Cow::Borrowed(raw.get()))).collect()
    }
}

fn parse<'a, T: FromJson<'a>>(raw: &'a RawValue) -> Lenient<T> {
    serde_json::from_str(raw.get()).unwrap_or(Lenient::Mistyped)
}

/// An entity before equal ones of its alert get different hashes.
#[derive(Debug)]
pub(super) struct Entity<'a> {
    columns: EvidenceColumns<'a>,
    extra: Option<String>,
    /// Whether the Defender API has such entities too: then the columns alone make the key.
    is_shared: bool,
}

impl<'a> Entity<'a> {
    pub(super) fn new(properties: &Properties<'a>, mistyped: &mut Vec<&'static str>) -> Self {
        let name = properties.type_name();
        let shared = SHARED_TYPES.iter().find(|shared| shared.name == name);
        let mut columns = EvidenceColumns {
            entity_type: Some(entity_type(shared, &name)),
            roles: roles(properties, mistyped),
            ..EvidenceColumns::default()
        };
        let mut rest = properties.rest();
        rest.remove("roles");
        let own = shared.map_or(&[][..], |shared| shared.properties);
        for property in BASE.iter().chain(own) {
            fill(&mut columns, *property, properties, &mut rest, mistyped);
        }
        Self { columns, extra: object(&rest), is_shared: shared.is_some() }
    }
}

/// How much of an entity makes its key. Entities of one alert that would fall together take the next level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyLevel {
    /// The columns: equal from both sources.
    Columns,
    /// What identifies the entity.
    Identity,
    /// All of it: the key then changes with the entity's state, which costs a new row and loses none.
    Whole,
}

/// The rows of an alert's entities. Those of a type that both APIs have get the same key from both, unless two of one alert
/// differ in `extra` only.
pub(super) fn evidence_rows<'a>(
    alert_id: &Cow<'a, str>,
    entities: Vec<Entity<'a>>,
) -> Vec<EvidenceRow<'a>> {
    let first = |entity: &Entity<'_>| match entity.is_shared {
        true => KeyLevel::Columns,
        false => KeyLevel::Identity,
    };
    let mut levels: Vec<KeyLevel> = entities.iter().map(first).collect();
    let mut keys: Vec<Hash> =
        entities.iter().zip(&levels).map(|(entity, level)| entity.key(*level)).collect();
    for (level, next) in
        [(KeyLevel::Columns, KeyLevel::Identity), (KeyLevel::Identity, KeyLevel::Whole)]
    {
        for at in falling_together(&entities, &keys) {
            if levels[at] == level {
                levels[at] = next;
                keys[at] = entities[at].key(next);
            }
        }
    }
    let row = |(Entity { columns, extra, .. }, evidence_hash): (Entity<'a>, Hash)| EvidenceRow {
        alert_id: alert_id.clone(),
        evidence_hash,
        columns,
        extra,
    };
    entities.into_iter().zip(keys).map(row).collect()
}

/// The entities that share a key with one whose `extra` differs.
fn falling_together(entities: &[Entity<'_>], keys: &[Hash]) -> Vec<usize> {
    let mut by_key: HashMap<Hash, Vec<usize>> = HashMap::new();
    for (at, key) in keys.iter().enumerate() {
        by_key.entry(*key).or_default().push(at);
    }
    let differ =
        |group: &Vec<usize>| group.iter().any(|at| entities[*at].extra != entities[group[0]].extra);
    by_key.into_values().filter(differ).flatten().collect()
}

impl Entity<'_> {
    fn key(&self, level: KeyLevel) -> Hash {
        let extra = self.extra.as_deref().unwrap_or_default();
        match level {
            KeyLevel::Columns => hash::evidence_hash(&self.columns, &[]),
            KeyLevel::Identity => {
                hash::evidence_hash_with(&self.columns, "identity", &identity(extra))
            }
            KeyLevel::Whole => hash::evidence_hash_with(&self.columns, "extra", extra),
        }
    }
}

/// `CloudApplication` for `cloudApplicationEvidence`. A type that the API's version does not know comes as the base type.
fn entity_type(shared: Option<&EvidenceType>, name: &str) -> Text<'static> {
    if let Some(shared) = shared {
        return Cow::Borrowed(shared.entity_type);
    }
    let stem = name.strip_suffix("Evidence").unwrap_or(name);
    if stem.is_empty() || stem == "alert" {
        return Cow::Borrowed("Unknown");
    }
    let mut stem = stem.to_owned();
    if stem.is_char_boundary(1) {
        stem[..1].make_ascii_uppercase();
    }
    Cow::Owned(stem)
}

fn roles<'a>(
    properties: &Properties<'a>,
    mistyped: &mut Vec<&'static str>,
) -> Option<Vec<Text<'a>>> {
    let roles: Vec<Text<'a>> = properties.value("roles", mistyped)?;
    let known = roles.into_iter().filter_map(|role| {
        let role = converted(Enumeration::Regular, role);
        if role.is_none() {
            mistyped.push("roles");
        }
        role
    });
    Some(known.collect())
}

/// Moves a property from the rest to its column.
fn fill<'a>(
    columns: &mut EvidenceColumns<'a>,
    (name, how): Property,
    properties: &Properties<'a>,
    rest: &mut BTreeMap<&str, Cow<'a, str>>,
    mistyped: &mut Vec<&'static str>,
) {
    let Some(raw) = properties.get(name) else { return };
    match how {
        Use::Fill(column) => {
            if put(columns, column, Some, (name, raw), mistyped) {
                rest.remove(name);
            }
        }
        Use::FillConverted(column) => {
            let convert = |text| converted(Enumeration::Regular, text);
            if put(columns, column, convert, (name, raw), mistyped) {
                rest.remove(name);
            }
        }
        Use::Inside(inner) => {
            let Some(object_of) = take(name, parse::<Properties<'a>>(raw), mistyped) else {
                return;
            };
            let mut inner_rest = object_of.rest();
            for property in inner {
                fill(columns, *property, &object_of, &mut inner_rest, mistyped);
            }
            match object(&inner_rest) {
                Some(left) => rest.insert(name, Cow::Owned(left)),
                None => rest.remove(name),
            };
        }
        Use::Copied(inner) => {
            let Some(object_of) = take(name, parse::<Properties<'a>>(raw), mistyped) else {
                return;
            };
            for property in inner {
                fill(columns, *property, &object_of, &mut object_of.rest(), mistyped);
            }
        }
    }
}

/// Whether the value is in its column now. Where nothing is known, Graph often has an empty text, which is stored as null. A
/// value of another type, or one that finds the column filled with another value, is not.
fn put<'a>(
    columns: &mut EvidenceColumns<'a>,
    column: Column,
    convert: impl Fn(Text<'a>) -> Option<Text<'a>>,
    (name, raw): (&'static str, &'a RawValue),
    mistyped: &mut Vec<&'static str>,
) -> bool {
    fn put_in<T: PartialEq>(place: &mut Option<T>, value: T) -> bool {
        let is_same = place.as_ref().is_none_or(|there| *there == value);
        if is_same {
            *place = Some(value);
        }
        is_same
    }
    match column {
        Column::Text(place) => match parse::<Text<'a>>(raw) {
            Lenient::Value(text) if text.is_empty() => true,
            Lenient::Value(text) => match convert(text) {
                Some(text) => put_in(place(columns), text),
                None => {
                    mistyped.push(name);
                    true
                }
            },
            other => take(name, other, mistyped).is_some(),
        },
        Column::Number(place) => take(name, parse::<i64>(raw), mistyped)
            .is_some_and(|number| put_in(place(columns), number)),
        Column::Time(place) => {
            take(name, parse(raw), mistyped).is_some_and(|time| put_in(place(columns), time))
        }
    }
}

/// The JSON of an object with these properties, without those that are empty; `None` if none is left.
fn object(properties: &BTreeMap<&str, Cow<'_, str>>) -> Option<String> {
    let mut json = String::new();
    for (key, value) in properties {
        if matches!(value.as_ref(), "null" | "[]" | "{}" | "\"\"") {
            continue;
        }
        json.push(if json.is_empty() { '{' } else { ',' });
        let key = serde_json::Value::from(*key);
        let _ = write!(json, "{key}:{value}");
    }
    (!json.is_empty()).then(|| json + "}")
}
