//! What a page's plan needs of an incident, read without decoding the rest.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::lenient::{Key, Lenient};

/// The two fields that the reading plan needs, from an incident that is not decoded further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncidentKey {
    /// `incidentId`.
    pub incident_id: Option<i64>,
    /// `lastUpdateTime`.
    pub last_update_time: Option<DateTime<Utc>>,
}

/// Reads the head of an incident from its storable text; both fields are `None` where the text is no object. Stops at
/// the second field, which stands near the front of every text that was seen: nine tenths of the text are not read.
pub fn head(text: &str) -> IncidentKey {
    struct HeadVisitor<'h>(&'h mut IncidentKey);
    impl<'de> Visitor<'de> for HeadVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an incident")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                match key.0.as_ref() {
                    "incidentId" => {
                        self.0.incident_id = object.next_value::<Lenient<_>>()?.value();
                    }
                    "lastUpdateTime" => {
                        self.0.last_update_time = object.next_value::<Lenient<_>>()?.value();
                    }
                    _ => drop(object.next_value::<IgnoredAny>()?),
                }
                if self.0.incident_id.is_some() && self.0.last_update_time.is_some() {
                    break;
                }
            }
            Ok(())
        }
    }
    let mut head = IncidentKey { incident_id: None, last_update_time: None };
    // Stopping early leaves text behind, which the parser calls an error; what was read is read.
    drop(serde_json::Deserializer::from_str(text).deserialize_map(HeadVisitor(&mut head)));
    head
}

/// Every `incidentUri` of an incident that could not be decoded; none where the text is no object.
pub fn incident_uris(text: &str) -> Vec<String> {
    struct UriVisitor<'u>(&'u mut Vec<String>);
    impl<'de> Visitor<'de> for UriVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an incident")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                match key.0.as_ref() {
                    "incidentUri" => {
                        let uri = object.next_value::<Lenient<Cow<'_, str>>>()?.value();
                        self.0.extend(uri.map(Cow::into_owned));
                    }
                    _ => drop(object.next_value::<IgnoredAny>()?),
                }
            }
            Ok(())
        }
    }
    let mut uris = Vec::new();
    // What was read before the text turned out to be broken is read.
    drop(serde_json::Deserializer::from_str(text).deserialize_map(UriVisitor(&mut uris)));
    uris
}
