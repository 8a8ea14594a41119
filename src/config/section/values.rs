//! Values of a section by type.

use std::ops::RangeInclusive;
use std::time::Duration;

use config::ValueKind;
use uuid::Uuid;

use super::Section;

/// A value that is present, absent, or invalid; an invalid one has been reported.
#[derive(Debug, Clone)]
pub(in crate::config) enum Parsed<T> {
    Absent,
    Wrong,
    Is(T),
}

impl<T> Parsed<T> {
    pub(in crate::config) fn or(self, other: Self) -> Self {
        if matches!(self, Self::Absent) { other } else { self }
    }

    pub(in crate::config) fn ok(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }
}

impl Section {
    /// Parses a text. The error of `parse` is reported with the key.
    pub(in crate::config) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Parsed<T> {
        let parsed = match self.take(key) {
            None => return Parsed::Absent,
            Some(ValueKind::String(text)) => parse(&text),
            Some(_) => Err("must be a string; write it in quotes".to_owned()),
        };
        match parsed {
            Ok(value) => Parsed::Is(value),
            Err(problem) => {
                self.error(key, problem);
                Parsed::Wrong
            }
        }
    }

    pub(in crate::config) fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| Ok(text.to_owned())).ok()
    }

    /// A whole number in `range`. A value of the environment is text.
    pub(in crate::config) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let number = self.optional_number(key, range);
        self.add_default(key, default);
        number.unwrap_or(default)
    }

    /// The same without a default.
    pub(in crate::config) fn optional_number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let number = match self.take(key) {
            None => return None,
            Some(ValueKind::I64(number)) => Some(number),
            Some(ValueKind::String(text)) if self.is_from_env(key) => text.trim().parse().ok(),
            Some(_) => None,
        };
        let from = range.start();
        let to = range.end();
        match number.map(u32::try_from) {
            Some(Ok(number)) if range.contains(&number) => return Some(number),
            Some(_) => {
                self.error(key, format!("out of range; set a whole number from {from} to {to}"));
            }
            None => self.error(
                key,
                format!("not a whole number; set one from {from} to {to}, without quotes"),
            ),
        }
        None
    }

    /// A boolean. A value of the environment is text.
    pub(in crate::config) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let value = self.take(key);
        self.add_default(key, default);
        let flag = match value {
            None => return default,
            Some(ValueKind::Boolean(flag)) => Some(flag),
            Some(ValueKind::String(text)) if self.is_from_env(key) => text.trim().parse().ok(),
            Some(_) => None,
        };
        flag.unwrap_or_else(|| {
            self.error(key, "must be true or false, without quotes");
            default
        })
    }

    /// A time span such as `10m`.
    pub(in crate::config) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let span = self.span(key, range).unwrap_or(default);
        self.add_default(key, span_text(default));
        span
    }

    pub(in crate::config) fn span(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let parse = |text: &str| {
            let span = humantime::parse_duration(text)
                .map_err(|error| format!("{error}; write it like \"10m\""))?;
            if range.contains(&span) {
                return Ok(span);
            }
            let from = span_text(*range.start());
            let to = span_text(*range.end());
            Err(format!("out of range; set a time from {from} to {to}"))
        };
        self.parsed(key, parse).ok()
    }
}

/// A time span in whole days if possible, because humantime writes months of 30.44 days.
fn span_text(span: Duration) -> String {
    let days = span.as_secs() / 86_400;
    let rest = span.as_secs() % 86_400;
    if days > 0 && rest == 0 {
        format!("{days}d")
    } else {
        humantime::format_duration(span).to_string()
    }
}

/// A GUID in the form that Entra shows. The crate also accepts URNs and braces.
pub(in crate::config) fn parse_guid(text: &str) -> Option<Uuid> {
    let text = text.trim();
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}
