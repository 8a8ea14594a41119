//! A page split into raw incidents, which are not decoded.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
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

/// The beginning of an object: the fields that are whole, and of one list the elements that are.
pub struct Beginning<'a> {
    pub fields: Vec<(String, &'a RawValue)>,
    pub elements: Vec<&'a RawValue>,
    /// What follows the last whole element: the beginning of the next one.
    pub rest: &'a str,
}

/// Reads the beginning of an object whose text was cut within the list of this name.
pub fn beginning<'a>(text: &'a str, list: &str) -> Beginning<'a> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let (mut fields, mut elements, mut is_in_list) = (Vec::new(), Vec::new(), false);
    let object = CutObject {
        list,
        fields: &mut fields,
        elements: &mut elements,
        is_in_list: &mut is_in_list,
    };
    // Ends with an error where the text was cut.
    drop(serde_json::Deserializer::from_str(text).deserialize_map(object));
    // A number may go on behind the cut.
    if elements.last().is_some_and(|last| !last.get().ends_with(['}', ']', '"'])) {
        elements.pop();
    }
    let end_of =
        |raw: &RawValue| raw.get().as_ptr() as usize - text.as_ptr() as usize + raw.get().len();
    let rest = match (elements.last(), is_in_list) {
        (Some(last), _) => &text[end_of(last)..],
        (None, true) => {
            let from = fields.last().map_or(0, |(_, last)| end_of(last));
            text[from..].split_once('[').map_or("", |(_, rest)| rest)
        }
        (None, false) => "",
    };
    let rest = rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
    Beginning { fields, elements, rest }
}

struct CutObject<'c, 'a> {
    list: &'c str,
    fields: &'c mut Vec<(String, &'a RawValue)>,
    elements: &'c mut Vec<&'a RawValue>,
    is_in_list: &'c mut bool,
}

impl<'de> Visitor<'de> for CutObject<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(key) = object.next_key::<String>()? {
            if key == self.list {
                *self.is_in_list = true;
                object.next_value_seed(CutList(self.elements))?;
                *self.is_in_list = false;
            } else {
                self.fields.push((key, object.next_value()?));
            }
        }
        Ok(())
    }
}

struct CutList<'c, 'a>(&'c mut Vec<&'a RawValue>);

impl<'de> DeserializeSeed<'de> for CutList<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for CutList<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            self.0.push(element);
        }
        Ok(())
    }
}

/// The incident of a text that was cut within its alerts, with the whole ones of these, up to `bytes_max` of them. `None` if
/// the cut is not there.
pub fn incident_before_cut(text: &str, bytes_max: usize) -> Option<String> {
    let Beginning { fields, elements: alerts, .. } = beginning(text, "alerts");
    let field = |(name, value): &(String, &RawValue)| {
        serde_json::to_string(name).ok().map(|name| format!("{name}:{}", value.get()))
    };
    let fields: Vec<String> = fields.iter().filter_map(field).collect();
    if fields.is_empty() {
        return None;
    }
    let mut bytes = 0;
    let fits = |alert: &&&RawValue| {
        bytes += alert.get().len();
        bytes <= bytes_max
    };
    let alerts: Vec<&str> = alerts.iter().take_while(fits).map(|alert| alert.get()).collect();
    Some(format!("{{{},\"alerts\":[{}]}}", fields.join(","), alerts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"{"@odata.context":"x","value":[{"incidentId":1,"alerts":[]}, {"incidentId":2,
        "status":"Active","alerts":[{"alertId":"a","title":"[{"},{"alertId":"b"}],"tags":["x"]}]}"#;

    #[test]
    fn cut_page_keeps_whole_elements() {
        for at in 0..PAGE.len() {
            let cut = beginning(&PAGE[..at], "value");
            let whole: Vec<&str> = cut.elements.iter().map(|raw| raw.get()).collect();
            let expected = split(PAGE).unwrap().incidents;
            assert!(whole.iter().zip(&expected).all(|(cut, whole)| *cut == whole.get()), "{at}");
            assert!(at < 60 || !whole.is_empty() && whole[0].contains("\"incidentId\":1"), "{at}");
            assert!(cut.rest.is_empty() || cut.rest.starts_with(['{', ']']), "{at}: {}", cut.rest);
        }
    }

    #[test]
    fn cut_incident_keeps_head_and_whole_alerts() {
        let alerts = PAGE.find("},{\"alertId\":\"b").unwrap();
        let cut = beginning(&PAGE[..alerts + 8], "value");
        let incident = incident_before_cut(cut.rest, 1_000).unwrap();
        let incident: serde_json::Value = serde_json::from_str(&incident).unwrap();
        assert_eq!((&incident["incidentId"], &incident["status"]), (&2.into(), &"Active".into()));
        assert_eq!(incident["alerts"].as_array().unwrap().len(), 1);
        let bare = incident_before_cut(cut.rest, 3).unwrap();
        assert!(bare.ends_with("\"alerts\":[]}"), "{bare}");
        assert_eq!(incident_before_cut("{\"incidentI", 1_000), None);
    }
}
