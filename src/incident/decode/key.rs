//! What a page's plan needs of an incident, read without decoding the rest.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::lenient::{Key, Lenient};
use crate::incident::tenant_check::NamedTenants;
use crate::tenant::Source;

/// The two fields that the reading plan needs, from an incident that is not decoded further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncidentKey {
    /// `incidentId`; of Graph `id`.
    pub incident_id: Option<i64>,
    /// `lastUpdateTime`; of Graph `lastUpdateDateTime`.
    pub last_update_time: Option<DateTime<Utc>>,
}

/// Reads the head of an incident from its storable text; both fields are `None` where the text is no object. Stops at
/// the second field, which stands near the front of every text that was seen: nine tenths of the text are not read.
pub fn head(source: Source, text: &str) -> IncidentKey {
    let names = match source {
        Source::Defender => ("incidentId", "lastUpdateTime"),
        Source::Graph => ("id", "lastUpdateDateTime"),
    };
    struct HeadVisitor<'h>(&'h mut IncidentKey, (&'static str, &'static str));
    impl<'de> Visitor<'de> for HeadVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an incident")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                if key.0 == self.1.0 {
                    self.0.incident_id = object.next_value::<Lenient<_>>()?.value();
                } else if key.0 == self.1.1 {
                    self.0.last_update_time = object.next_value::<Lenient<_>>()?.value();
                } else {
                    let _: IgnoredAny = object.next_value()?;
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
    let _ = serde_json::Deserializer::from_str(text).deserialize_map(HeadVisitor(&mut head, names));
    head
}

/// Whether an expanded incident of Graph has more alerts than it shows: no payload that was seen has such a link, but the
/// alerts behind it would be lost.
pub fn has_more_alerts(text: &str) -> bool {
    const LINK: &str = "alerts@odata.nextLink";
    struct LinkVisitor<'l>(&'l mut bool);
    impl<'de> Visitor<'de> for LinkVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an incident")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                if key.0 == LINK {
                    *self.0 = !matches!(object.next_value::<Lenient<i64>>()?, Lenient::Null);
                } else {
                    let _: IgnoredAny = object.next_value()?;
                }
            }
            Ok(())
        }
    }
    let mut has_link = false;
    if text.contains(LINK) {
        drop(serde_json::Deserializer::from_str(text).deserialize_map(LinkVisitor(&mut has_link)));
    }
    has_link
}

/// What identifies an alert of Graph, which incident it belongs to, and which version of it this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertKey {
    /// `id`.
    pub alert_id: Option<String>,
    /// `incidentId`; an alert may have none.
    pub incident_id: Option<i64>,
    /// `lastUpdateDateTime`.
    pub updated: Option<DateTime<Utc>>,
}

/// Reads the key of an alert from its storable text; all is `None` where the text is no object.
pub fn alert(text: &str) -> AlertKey {
    struct AlertVisitor<'k>(&'k mut AlertKey);
    impl<'de> Visitor<'de> for AlertVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an alert")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                match key.0.as_ref() {
                    "id" => {
                        let id = object.next_value::<Lenient<Cow<'_, str>>>()?.value();
                        self.0.alert_id = id.map(Cow::into_owned);
                    }
                    "incidentId" => self.0.incident_id = object.next_value::<Lenient<_>>()?.value(),
                    "lastUpdateDateTime" => {
                        self.0.updated = object.next_value::<Lenient<_>>()?.value();
                    }
                    _ => {
                        let _: IgnoredAny = object.next_value()?;
                    }
                }
            }
            Ok(())
        }
    }
    let mut alert = AlertKey { alert_id: None, incident_id: None, updated: None };
    // What was read before the text turned out to be broken is read.
    drop(serde_json::Deserializer::from_str(text).deserialize_map(AlertVisitor(&mut alert)));
    alert
}

/// Whatever names the tenant of an incident that could not be decoded; nothing where the text is no object.
pub fn named_tenants(source: Source, text: &str) -> NamedTenants<'static> {
    struct NameVisitor<'u>(Source, &'u mut NamedTenants<'static>);
    impl<'de> Visitor<'de> for NameVisitor<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an incident")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
            while let Some(key) = object.next_key::<Key<'de>>()? {
                let names = match (self.0, key.0.as_ref()) {
                    (Source::Defender, "incidentUri") | (Source::Graph, "incidentWebUrl") => {
                        &mut self.1.links
                    }
                    (Source::Graph, "tenantId") => &mut self.1.ids,
                    _ => {
                        let _: IgnoredAny = object.next_value()?;
                        continue;
                    }
                };
                let name = object.next_value::<Lenient<Cow<'_, str>>>()?.value();
                names.extend(name.map(|name| Cow::Owned(name.into_owned())));
            }
            Ok(())
        }
    }
    let mut named = NamedTenants::default();
    let visitor = NameVisitor(source, &mut named);
    // What was read before the text turned out to be broken is read.
    let _ = serde_json::Deserializer::from_str(text).deserialize_map(visitor);
    named
}
