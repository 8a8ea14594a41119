//! The part of `OData`'s `$filter` that the incidents API documents.
//!
//! ```text
//! any   = all *(" or " all)
//! all   = one *(" and " one)
//! one   = "(" any ")" / field op literal
//! ```
//! Times support `ge gt le lt eq`, `status` and `assignedTo` only `eq`. Anything else is rejected, as by the service.

use chrono::{DateTime, Utc};

use super::store::Incident;
use super::time;

/// A parsed `$filter`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Time(TimeField, Operator, DateTime<Utc>),
    Status(String),
    AssignedTo(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TimeField {
    LastUpdate,
    Created,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Operator {
    Ge,
    Gt,
    Le,
    Lt,
    Eq,
}

impl Filter {
    /// A filter that matches everything.
    pub(super) fn everything() -> Self {
        Self::All(Vec::new())
    }

    /// Parses a filter. The error is the message for the client.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut words = Words(split(text)?.into_iter().peekable());
        let filter = words.any()?;
        match words.0.next() {
            None => Ok(filter),
            Some(word) => Err(format!("Syntax error at '{word}' in '{text}'.")),
        }
    }

    pub(super) fn admits(&self, incident: &Incident) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.admits(incident)),
            Self::Any(parts) => parts.iter().any(|part| part.admits(incident)),
            Self::Time(TimeField::LastUpdate, operator, time) => {
                operator.matches(incident.updated, *time)
            }
            Self::Time(TimeField::Created, operator, time) => {
                operator.matches(incident.created, *time)
            }
            Self::Status(status) => incident.status == *status,
            Self::AssignedTo(name) => incident.assigned_to.as_ref() == Some(name),
        }
    }

    /// The closed range of `lastUpdateTime` outside of which nothing matches, so that a poll for the newest incidents reads
    /// only those.
    pub(super) fn last_update_range(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        let mut range = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        self.narrow(&mut range);
        range
    }

    fn narrow(&self, range: &mut (DateTime<Utc>, DateTime<Utc>)) {
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
            Self::Time(TimeField::Created, ..)
            | Self::Any(_)
            | Self::Status(_)
            | Self::AssignedTo(_) => {}
        }
    }
}

impl Operator {
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "ge" => Some(Self::Ge),
            "gt" => Some(Self::Gt),
            "le" => Some(Self::Le),
            "lt" => Some(Self::Lt),
            "eq" => Some(Self::Eq),
            _ => None,
        }
    }

    pub(super) fn matches(self, value: DateTime<Utc>, literal: DateTime<Utc>) -> bool {
        match self {
            Self::Ge => value >= literal,
            Self::Gt => value > literal,
            Self::Le => value <= literal,
            Self::Lt => value < literal,
            Self::Eq => value == literal,
        }
    }
}

struct Words(std::iter::Peekable<std::vec::IntoIter<String>>);

impl Words {
    fn any(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.all()?];
        while self.0.next_if(|word| word == "or").is_some() {
            parts.push(self.all()?);
        }
        Ok(single(parts, Filter::Any))
    }

    fn all(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.one()?];
        while self.0.next_if(|word| word == "and").is_some() {
            parts.push(self.one()?);
        }
        Ok(single(parts, Filter::All))
    }

    fn one(&mut self) -> Result<Filter, String> {
        if self.0.next_if(|word| word == "(").is_some() {
            let filter = self.any()?;
            return match self.next()?.as_str() {
                ")" => Ok(filter),
                word => Err(format!("')' expected at '{word}'.")),
            };
        }
        let field = self.next()?;
        let operator = self.next()?;
        let literal = self.next()?;
        let operator = Operator::parse(&operator)
            .ok_or_else(|| format!("The operator '{operator}' is not supported."))?;
        match field.as_str() {
            "lastUpdateTime" => on_time(TimeField::LastUpdate, operator, &literal),
            "createdTime" => on_time(TimeField::Created, operator, &literal),
            "status" => Ok(Filter::Status(on_text(&field, operator, &literal)?)),
            "assignedTo" => Ok(Filter::AssignedTo(on_text(&field, operator, &literal)?)),
            _ => Err(format!("Filtering by the property '{field}' is not supported.")),
        }
    }

    fn next(&mut self) -> Result<String, String> {
        self.0.next().ok_or_else(|| "Expression expected at the end of the filter.".to_owned())
    }
}

fn single(mut parts: Vec<Filter>, join: fn(Vec<Filter>) -> Filter) -> Filter {
    if parts.len() == 1 { parts.remove(0) } else { join(parts) }
}

fn on_time(field: TimeField, operator: Operator, literal: &str) -> Result<Filter, String> {
    let time = time::parse(literal)
        .ok_or_else(|| format!("'{literal}' is not a DateTimeOffset literal in UTC."))?;
    Ok(Filter::Time(field, operator, time))
}

fn on_text(field: &str, operator: Operator, literal: &str) -> Result<String, String> {
    if operator != Operator::Eq {
        return Err(format!("The property '{field}' supports 'eq' only."));
    }
    literal
        .strip_prefix('\'')
        .map(str::to_owned)
        .ok_or_else(|| format!("'{literal}' is not a quoted string."))
}

/// Words, parentheses and strings. A string keeps its opening quote, not the closing one.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = match first {
            '(' | ')' => {
                rest = &rest[1..];
                first.to_string()
            }
            '\'' => {
                let (word, after) = quoted(&rest[1..])
                    .ok_or_else(|| format!("Unterminated string literal in '{text}'."))?;
                rest = after;
                format!("'{word}")
            }
            _ => {
                let end = rest.find([' ', '(', ')', '\'']).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after;
                word.to_owned()
            }
        };
        words.push(word);
        rest = rest.trim_start();
    }
    Ok(words)
}

/// The string up to its closing quote, where two quotes mean one, and the rest.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_filter_grammar_is_parsed() {
        let time = time::parse("2024-01-02T03:04:05.1234567Z").unwrap();
        assert_eq!(
            Filter::parse(
                "lastUpdateTime ge 2024-01-02T03:04:05.1234567Z and (status eq 'Active' or assignedTo eq 'O''Neil')"
            ),
            Ok(Filter::All(vec![
                Filter::Time(TimeField::LastUpdate, Operator::Ge, time),
                Filter::Any(vec![
                    Filter::Status("Active".to_owned()),
                    Filter::AssignedTo("O'Neil".to_owned()),
                ]),
            ]))
        );
    }

    #[test]
    fn window_filter_yields_its_time_range() {
        let (from, to) = ("2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z");
        let filter = Filter::parse(&format!("lastUpdateTime ge {from} and lastUpdateTime lt {to}"));
        assert_eq!(
            filter.unwrap().last_update_range(),
            (time::parse(from).unwrap(), time::parse(to).unwrap())
        );
    }

    #[test]
    fn unsupported_filters_are_refused() {
        for text in [
            "",
            "severity eq 'High'",
            "status ne 'Active'",
            "status gt 'Active'",
            "status eq Active",
            "status eq 'Active",
            "lastUpdateTime ge 'yesterday'",
            "lastUpdateTime ge 2024-01-02T00:00:00",
            "lastUpdateTime ge 2024-01-02T00:00:00 02:00",
            "(status eq 'Active'",
            "status eq 'Active' status eq 'Resolved'",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
