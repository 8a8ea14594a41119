//! The query options of a list, and the links that repeat them.

use url::form_urlencoded;

use super::behaviour::{CeilingAnswer, GraphBehaviour, NextLink};
use super::filter::{Filter, OF_ALERTS, OF_INCIDENTS};
use crate::json::Object;
use crate::store::Order;

/// A list of Graph and its options.
pub(super) struct List {
    /// The path below the host.
    pub(super) path: String,
    top_default: usize,
    top_max: usize,
    properties: &'static [&'static str],
    expands: bool,
}

impl List {
    pub(super) fn incidents() -> Self {
        Self {
            path: "v1.0/security/incidents".to_owned(),
            top_default: 50,
            top_max: 50,
            properties: OF_INCIDENTS,
            expands: true,
        }
    }

    pub(super) fn alerts() -> Self {
        Self {
            path: "v1.0/security/alerts_v2".to_owned(),
            top_default: 100,
            top_max: 1000,
            properties: OF_ALERTS,
            expands: false,
        }
    }

    /// The alerts of one incident.
    pub(super) fn alerts_of(incident: &str) -> Self {
        Self { path: format!("v1.0/security/incidents/{incident}/alerts"), ..Self::alerts() }
    }
}

/// The query options of a request.
pub(super) struct Query {
    pub(super) filter: Filter,
    /// `None` leaves the order to the service.
    pub(super) order: Option<Order>,
    pub(super) top: usize,
    pub(super) skip: usize,
    pub(super) counts: bool,
    pub(super) expands: bool,
    pub(super) select: Option<Vec<String>>,
    /// All received options except `$skip` and `$skiptoken`.
    options: Vec<(String, String)>,
}

const SKIP_TOKEN: &str = "page-";

impl Query {
    /// The error is the message for the client.
    pub(super) fn parse(text: &str, list: &List) -> Result<Self, String> {
        let mut query = Self {
            filter: Filter::everything(),
            order: None,
            top: list.top_default,
            skip: 0,
            counts: false,
            expands: false,
            select: None,
            options: Vec::new(),
        };
        for (name, value) in form_urlencoded::parse(text.as_bytes()).into_owned() {
            query.take(&name, &value, list)?;
            if name != "$skip" && name != "$skiptoken" {
                query.options.push((name, value));
            }
        }
        if query.top > list.top_max {
            return Err(format!(
                "The limit of '{}' for Top query has been exceeded. The value from the incoming request is '{}'.",
                list.top_max, query.top
            ));
        }
        Ok(query)
    }

    fn take(&mut self, name: &str, value: &str, list: &List) -> Result<(), String> {
        match name {
            "$filter" => self.filter = Filter::parse(value, list.properties)?,
            "$orderby" => self.order = Some(order(value)?),
            "$top" => self.top = number(name, value)?,
            "$skip" => self.skip = number(name, value)?,
            "$skiptoken" => {
                let token = value.strip_prefix(SKIP_TOKEN).unwrap_or_default();
                self.skip = number(name, token)?;
            }
            "$count" => self.counts = value == "true",
            "$expand" if list.expands && value == "alerts" => self.expands = true,
            "$select" => {
                self.select = Some(value.split(',').map(|name| name.trim().to_owned()).collect());
            }
            other if other.starts_with('$') => {
                return Err(format!("The query option '{other}={value}' is not supported."));
            }
            _ => {}
        }
        Ok(())
    }

    /// The numbers of rows to skip and to take, and whether a link may follow.
    pub(super) fn window(
        &self,
        behaviour: &GraphBehaviour,
    ) -> Result<(usize, usize, bool), String> {
        let (skip, top) = (self.skip, self.top);
        let Some(ceiling) = behaviour.skip_ceiling else { return Ok((skip, top, true)) };
        let rows = ceiling.rows;
        match ceiling.answer {
            CeilingAnswer::BadRequest if skip > rows => Err(format!(
                "The limit of '{rows}' for Skip query has been exceeded. The value from the incoming request is '{skip}'."
            )),
            CeilingAnswer::EmptyPage if skip >= rows => Ok((skip, 0, false)),
            CeilingAnswer::ShortPage if skip + top > rows => {
                Ok((skip, rows.saturating_sub(skip), false))
            }
            _ => Ok((skip, top, true)),
        }
    }

    /// The link to the next page, with the same options and the next position.
    pub(super) fn next_link(&self, base: &str, list: &List, link: NextLink) -> Option<String> {
        let next = self.skip + self.top;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.options);
        match link {
            NextLink::Skip => query.append_pair("$skip", &next.to_string()),
            NextLink::SkipToken => query.append_pair("$skiptoken", &format!("{SKIP_TOKEN}{next}")),
            NextLink::Absent => return None,
        };
        Some(format!("{base}{}?{}", list.path, query.finish()))
    }

    /// The row with the selected properties only, and the expanded ones.
    pub(super) fn select(&self, row: Vec<u8>) -> Vec<u8> {
        let Some(names) = &self.select else { return row };
        let Some(object) = Object::parse(&row) else { return row };
        let mut selected = Object::default();
        for (key, json) in object.iter() {
            let is_kept = names.iter().any(|name| name == key)
                || key.starts_with("@odata")
                || (self.expands && key.starts_with("alerts"));
            if is_kept {
                let json: &serde_json::value::RawValue =
                    serde_json::from_str(json).expect("a value of parsed JSON is JSON");
                selected.set(key, json);
            }
        }
        selected.to_text().into_bytes()
    }
}

fn order(value: &str) -> Result<Order, String> {
    match value.split_whitespace().collect::<Vec<_>>()[..] {
        ["lastUpdateDateTime"] | ["lastUpdateDateTime", "asc"] => Ok(Order::OldestFirst),
        ["lastUpdateDateTime", "desc"] => Ok(Order::NewestFirst),
        _ => Err(format!("Ordering by '{value}' is not supported.")),
    }
}

fn number(name: &str, value: &str) -> Result<usize, String> {
    value.parse().map_err(|_| format!("Invalid value '{value}' for {name} query option found."))
}
