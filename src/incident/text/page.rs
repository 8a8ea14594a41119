//! A page split into raw incidents, which are not decoded.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::without_content;

/// A page of incidents, each still as text.
#[derive(Debug)]
pub struct Page<'a> {
    /// The incidents in the order served.
    pub incidents: Vec<&'a RawValue>,
    /// The server's continuation, if it sent one.
    pub next_link: Option<Cow<'a, str>>,
}

/// Splits a page without decoding its incidents. Fails with what is wrong when the text is no page.
pub fn split(text: &str) -> Result<Page<'_>, String> {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        value: Option<Listed<'a>>,
        #[serde(borrow, rename = "@odata.nextLink")]
        next_link: Option<Cow<'a, str>>,
    }
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if !text.starts_with('{') {
        return Err("it is not a JSON object".to_owned());
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|error| without_content(&error))?;
    let Listed(incidents) = envelope.value.ok_or("it has no list named value")?;
    Ok(Page { incidents, next_link: envelope.next_link })
}

/// A hundred times what the API lists on a page. Of more, the places alone would take many times the memory of the text.
const LISTED_MAX: usize = 10_000;

/// The list of a page.
struct Listed<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Listed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = Listed<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {LISTED_MAX} incidents")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut incidents = Vec::new();
                while let Some(incident) = list.next_element()? {
                    if incidents.len() == LISTED_MAX {
                        return Err(A::Error::invalid_length(incidents.len() + 1, &self));
                    }
                    incidents.push(incident);
                }
                Ok(Listed(incidents))
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}
