//! The part of `$filter` that Graph's incidents and alerts are known to support.
//!
//! The grammar is the one of the Defender API; times support `ge gt le lt eq`, other fields `eq` and `ne`.

use chrono::{DateTime, Utc};

use crate::filter::{Operator, TimeField, split};
use crate::time;

/// The properties of incidents that a filter may contain, except times.
pub(super) const OF_INCIDENTS: &[&str] =
    &["assignedTo", "classification", "determination", "severity", "status"];
/// The same of alerts.
pub(super) const OF_ALERTS: &[&str] =
    &["assignedTo", "classification", "determination", "severity", "status", "serviceSource"];

/// A parsed `$filter`.
#[derive(Debug, PartialEq)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Time(TimeField, Operator, DateTime<Utc>),
    /// The property, whether it must be equal, and the literal; `None` is null.
    Text(&'static str, bool, Option<String>),
}

/// A closed range of times.
pub(super) type Range = (DateTime<Utc>, DateTime<Utc>);

impl Filter {
    /// The filter without conditions.
    pub(super) fn everything() -> Self {
        Self::All(Vec::new())
    }

    /// Parses a filter. The error is the message for the client.
    pub(super) fn parse(text: &str, properties: &[&'static str]) -> Result<Self, String> {
        let mut words = Words { words: split(text)?.into_iter().peekable(), properties };
        let filter = words.any()?;
        match words.words.next() {
            None => Ok(filter),
            Some(word) => Err(format!("Syntax error at '{word}' in '{text}'.")),
        }
    }

    /// Whether a row with these times and texts matches.
    pub(super) fn admits(
        &self,
        times: &dyn Fn(TimeField) -> DateTime<Utc>,
        texts: &dyn Fn(&str) -> Option<String>,
    ) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.admits(times, texts)),
            Self::Any(parts) => parts.iter().any(|part| part.admits(times, texts)),
            Self::Time(field, operator, literal) => operator.matches(times(*field), *literal),
            Self::Text(name, equal, literal) => (texts(name) == *literal) == *equal,
        }
    }

    /// The range of `lastUpdateDateTime` outside of which nothing can match.
    pub(super) fn last_update_range(&self) -> Range {
        let mut range = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        self.narrow(&mut range);
        range
    }

    fn narrow(&self, range: &mut Range) {
        match self {
            Self::All(parts) => parts.iter().for_each(|part| part.narrow(range)),
            Self::Time(TimeField::LastUpdate, operator, time) => {
                if matches!(operator, Operator::Ge | Operator::Gt | Operator::Eq) {
                    range.0 = range.0.max(*time);
                }
                if matches!(operator, Operator::Le | Operator::Lt | Operator::Eq) {
                    range.1 = range.1.min(*time);
                }
            }
            Self::Time(TimeField::Created, ..) | Self::Any(_) | Self::Text(..) => {}
        }
    }
}

struct Words<'a> {
    words: std::iter::Peekable<std::vec::IntoIter<String>>,
    properties: &'a [&'static str],
}

impl Words<'_> {
    fn any(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.all()?];
        while self.words.next_if(|word| word == "or").is_some() {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::Any(parts) })
    }

    fn all(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.one()?];
        while self.words.next_if(|word| word == "and").is_some() {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::All(parts) })
    }

    fn one(&mut self) -> Result<Filter, String> {
        if self.words.next_if(|word| word == "(").is_some() {
            let filter = self.any()?;
            return match self.next()?.as_str() {
                ")" => Ok(filter),
                word => Err(format!("')' expected at '{word}'.")),
            };
        }
        let (property, operator, literal) = (self.next()?, self.next()?, self.next()?);
        match property.as_str() {
            "lastUpdateDateTime" => on_time(TimeField::LastUpdate, &operator, &literal),
            "createdDateTime" => on_time(TimeField::Created, &operator, &literal),
            other => match self.properties.iter().find(|known| **known == other) {
                Some(property) => on_text(property, &operator, &literal),
                None => Err(format!("Filtering by the property '{other}' is not supported.")),
            },
        }
    }

    fn next(&mut self) -> Result<String, String> {
        self.words.next().ok_or_else(|| "Expression expected at the end of the filter.".to_owned())
    }
}

fn on_time(field: TimeField, operator: &str, literal: &str) -> Result<Filter, String> {
    let operator = Operator::parse(operator)
        .ok_or_else(|| format!("The operator '{operator}' is not supported."))?;
    let time = time::parse(literal)
        .ok_or_else(|| format!("'{literal}' is not a DateTimeOffset literal in UTC."))?;
    Ok(Filter::Time(field, operator, time))
}

fn on_text(property: &'static str, operator: &str, literal: &str) -> Result<Filter, String> {
    let equal = match operator {
        "eq" => true,
        "ne" => false,
        other => return Err(format!("The operator '{other}' does not suit '{property}'.")),
    };
    let literal = match literal.strip_prefix('\'') {
        Some(text) => Some(text.to_owned()),
        None if literal == "null" => None,
        None => return Err(format!("'{literal}' is not a quoted string.")),
    };
    // Enum members begin with a lower-case letter; the service rejects others.
    let starts_large = literal.as_ref().is_some_and(|text| text.starts_with(char::is_uppercase));
    if starts_large && property != "assignedTo" {
        return Err(format!(
            "The string for '{property}' is not a valid enumeration type constant."
        ));
    }
    Ok(Filter::Text(property, equal, literal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(filter: &str, status: Option<&str>) -> bool {
        let filter = Filter::parse(filter, OF_INCIDENTS).unwrap();
        filter.admits(&|_| DateTime::UNIX_EPOCH, &|_| status.map(str::to_owned))
    }

    #[test]
    fn filter_supports_alternatives_null_and_ne() {
        let open = "(status eq 'active' or status eq 'inProgress') and createdDateTime ge 1970-01-01T00:00:00Z";
        assert!(admits(open, Some("inProgress")));
        assert!(!admits(open, Some("resolved")));
        assert!(!admits("status ne 'redirected'", Some("redirected")));
        assert!(admits("assignedTo eq null", None));
    }

    #[test]
    fn unsupported_filter_is_rejected() {
        for text in [
            "status eq 'Active'",
            "status gt 'active'",
            "incidentId eq '7'",
            "serviceSource eq 'microsoftSentinel'",
            "lastUpdateDateTime ne 1970-01-01T00:00:00Z",
            "lastUpdateTime ge 1970-01-01T00:00:00Z",
            "lastUpdateDateTime ge '1970-01-01T00:00:00Z'",
        ] {
            assert!(Filter::parse(text, OF_INCIDENTS).is_err(), "{text}");
        }
        assert!(Filter::parse("serviceSource eq 'microsoftSentinel'", OF_ALERTS).is_ok());
    }

    #[test]
    fn both_window_bounds_narrow_the_range() {
        let (from, to) = ("2024-01-02T00:00:00.1234567Z", "2024-01-03T00:00:00Z");
        let text = format!("lastUpdateDateTime ge {from} and lastUpdateDateTime lt {to}");
        let filter = Filter::parse(&text, OF_INCIDENTS).unwrap();
        assert_eq!(
            filter.last_update_range(),
            (time::parse(from).unwrap(), time::parse(to).unwrap())
        );
    }
}
