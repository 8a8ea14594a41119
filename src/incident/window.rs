//! Half-open ranges of `lastUpdateTime`, and the filter that asks the API for one.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};

use crate::tenant::Source;

/// A half-open range of `lastUpdateTime`, open-ended where an edge is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First instant inside.
    pub from: Option<DateTime<Utc>>,
    /// First instant beyond.
    pub to: Option<DateTime<Utc>>,
    /// Only incidents of this status.
    pub status: Option<&'static str>,
}

impl Window {
    /// The OData filter of this window; `None` asks for everything. Literals are bare, in UTC with `Z`: any other form
    /// is either refused or loses its `+` on the way (`api-hello-world.md`).
    pub fn filter(&self, source: Source) -> Option<String> {
        let time = match source {
            Source::Defender => "lastUpdateTime",
            Source::Graph => "lastUpdateDateTime",
        };
        let terms: Vec<String> = [
            self.status.map(|status| format!("status eq '{}'", spelled(status, source))),
            self.from.map(|from| format!("{time} ge {}", literal(from))),
            self.to.map(|to| format!("{time} lt {}", literal(to))),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!terms.is_empty()).then(|| terms.join(" and "))
    }

    /// This window as two that meet at `edge`.
    pub(crate) fn split_at(self, edge: DateTime<Utc>) -> (Self, Self) {
        (Self { to: Some(edge), ..self }, Self { from: Some(edge), ..self })
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let edge = |edge: Option<DateTime<Utc>>| edge.map_or_else(|| "..".to_owned(), literal);
        write!(f, "[{}, {})", edge(self.from), edge(self.to))
    }
}

/// A value of an enumeration as the API spells it: `InProgress`, in Graph `inProgress`.
fn spelled(value: &str, source: Source) -> String {
    let mut letters = value.chars();
    match (source, letters.next()) {
        (Source::Graph, Some(first)) => first.to_lowercase().chain(letters).collect(),
        _ => value.to_owned(),
    }
}

fn literal(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Where a poll begins: the watermark less the overlap, on a whole second because the API's precision below is doubtful.
pub(crate) fn poll_from(watermark: DateTime<Utc>, overlap: Duration) -> DateTime<Utc> {
    floor_to_second(watermark - to_delta(overlap))
}

pub(crate) fn floor_to_second(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(0)
}

/// A configured duration as a difference of times; the configuration bounds it far below what this type holds.
pub(crate) fn to_delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn filter_has_unquoted_utc_literals() {
        let window = Window {
            from: Some(at("2026-01-02T03:04:05Z")),
            to: Some(at("2026-01-02T03:04:05.123456Z")),
            status: None,
        };
        let expected = "lastUpdateTime ge 2026-01-02T03:04:05Z and lastUpdateTime lt 2026-01-02T03:04:05.123456Z";
        assert_eq!(window.filter(Source::Defender).unwrap(), expected);
        assert_eq!(Window { from: None, to: None, status: None }.filter(Source::Defender), None);
        assert_eq!(
            Window { from: None, to: None, status: Some("Active") }
                .filter(Source::Defender)
                .unwrap(),
            "status eq 'Active'"
        );
    }

    #[test]
    fn graph_filter_has_its_own_names() {
        let from = Some(at("2026-01-02T03:04:05.123456Z"));
        let window = Window { from, to: None, status: Some("InProgress") };
        let expected =
            "status eq 'inProgress' and lastUpdateDateTime ge 2026-01-02T03:04:05.123456Z";
        assert_eq!(window.filter(Source::Graph).unwrap(), expected);
    }

    #[test]
    fn poll_begins_one_overlap_before_watermark() {
        let from = poll_from(at("2026-01-02T03:04:05.9Z"), Duration::from_secs(600));
        assert_eq!(from, at("2026-01-02T02:54:05Z"));
    }
}
