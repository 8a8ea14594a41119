//! Times as a .NET service writes them: UTC, ticks of 100 ns, trailing zeros trimmed.

use chrono::{DateTime, SubsecRound, TimeDelta, Timelike, Utc};

/// The service stores ticks of 100 ns.
pub(super) fn to_ticks(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(7)
}

/// `2020-09-06T14:46:57.0733333Z`, or `...57.29Z`, or `...57Z`.
pub(super) fn format(time: DateTime<Utc>) -> String {
    let seconds = time.format("%Y-%m-%dT%H:%M:%S");
    let ticks = format!("{:07}", time.nanosecond() % 1_000_000_000 / 100);
    match ticks.trim_end_matches('0') {
        "" => format!("{seconds}Z"),
        fraction => format!("{seconds}.{fraction}Z"),
    }
}

/// A time literal of a filter or a field. `Z` is required: all documented examples have it, and the `+` of an offset would
/// become a space in a query string.
pub(super) fn parse(text: &str) -> Option<DateTime<Utc>> {
    if !text.ends_with('Z') {
        return None;
    }
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.with_timezone(&Utc))
}

/// The time between two changes of an incident at the same instant. The documented times are multiples of 1/300 s, as in SQL
/// Server (`.0733333`, `.29`, `.81`), and the service stores one version for each time.
pub(super) const NEXT_VERSION: TimeDelta = TimeDelta::nanoseconds(3_333_300);

/// Converts a duration to that of chrono.
pub(super) fn delta(span: std::time::Duration) -> TimeDelta {
    TimeDelta::from_std(span).expect("a span of less than 292 million years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_zeros_are_trimmed_as_dotnet_does() {
        for text in
            ["2020-09-06T14:46:57Z", "2020-09-06T14:46:57.29Z", "2020-09-06T14:46:57.0733333Z"]
        {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(parse("2020-09-06T14:46:57+02:00"), None);
    }
}
