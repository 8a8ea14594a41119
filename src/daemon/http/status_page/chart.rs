//! A chart of a tenant's last day: the age of its data and the outcome of each run.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};

use crate::store::status::RecentRun;
use crate::sync::tenant_state::age;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
/// The height above the marks of runs and the labels.
const BASE: f64 = 128.0;
const MARKS: f64 = 156.0;
/// The possible upper ends of the scale, in seconds.
const CEILINGS: [f64; 15] = [
    60.0,
    300.0,
    600.0,
    900.0,
    1_800.0,
    3_600.0,
    7_200.0,
    14_400.0,
    28_800.0,
    43_200.0,
    DAY,
    2.0 * DAY,
    8.0 * DAY,
    32.0 * DAY,
    180.0 * DAY,
];
const DAY: f64 = 86_400.0;
/// The smallest scale, for a new tenant.
const SHORTEST: TimeDelta = TimeDelta::minutes(1);

/// The CSS class of an outcome.
pub(super) fn class(outcome: &str) -> &'static str {
    match outcome {
        "ok" => "good",
        "failed" | "parked" => "bad",
        "throttled" => "warn",
        _ => "idle",
    }
}

/// Draws the runs, newest first, up to `now`.
pub(super) fn plot(
    now: DateTime<Utc>,
    freshness_seconds: Option<f64>,
    runs: &[RecentRun],
) -> Markup {
    let begin = runs.last().map_or(now, |run| run.started_at).min(now - SHORTEST);
    let line = freshness(begin, now, freshness_seconds, runs);
    let highest = line.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let ceiling = CEILINGS
        .into_iter()
        .find(|ceiling| *ceiling >= highest)
        .unwrap_or_else(|| (highest / DAY).ceil() * DAY);
    let span = now.signed_duration_since(begin).as_seconds_f64();
    let x = |time: DateTime<Utc>| {
        let part = time.signed_duration_since(begin).as_seconds_f64() / span;
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    };
    let y = |seconds: f64| BASE - seconds / ceiling * (BASE - TOP);
    let points: Vec<String> =
        line.iter().map(|(time, seconds)| format!("{:.1},{:.1}", x(*time), y(*seconds))).collect();
    let description = describe(span, highest, runs);
    html! {
        figure {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(description) {
                title { (description) }
                @for part in [0.0, 0.5, 1.0] {
                    line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y(part * ceiling)) y2=(y(part * ceiling)) {}
                    text.axis x=(LEFT - 6.0) y=(y(part * ceiling) + 4.0) text-anchor="end" {
                        @if part == 0.0 { "0" } @else { (age(part * ceiling)) }
                    }
                }
                @if !points.is_empty() { polyline.freshness points=(points.join(" ")) {} }
                @for run in runs.iter().rev() {
                    @let height = if run.outcome == "ok" { 6.0 } else { 14.0 };
                    rect.mark.(class(&run.outcome)) x=(format!("{:.1}", x(run.finished_at) - 1.0)) y=(MARKS - height)
                        width="2" height=(height) {}
                }
                text.axis x=(LEFT) y=(HEIGHT - 6.0) { (age(span)) " ago" }
                text.axis x=(WIDTH - RIGHT) y=(HEIGHT - 6.0) text-anchor="end" { "now" }
            }
            figcaption { (description) }
        }
    }
}

/// The age of the data over time: it grows with time and drops at each complete run.
fn freshness(
    begin: DateTime<Utc>,
    now: DateTime<Utc>,
    freshness_seconds: Option<f64>,
    runs: &[RecentRun],
) -> Vec<(DateTime<Utc>, f64)> {
    let mut line: Vec<(DateTime<Utc>, f64)> = Vec::new();
    let mut success: Option<DateTime<Utc>> = None;
    let since = |time: DateTime<Utc>, success: DateTime<Utc>| {
        time.signed_duration_since(success).as_seconds_f64()
    };
    for run in runs.iter().rev().filter(|run| run.is_complete) {
        line.extend(success.map(|success| (run.finished_at, since(run.finished_at, success))));
        line.push((run.finished_at, since(run.finished_at, run.started_at)));
        success = Some(run.started_at);
    }
    if let Some(seconds) = freshness_seconds {
        if line.is_empty() {
            let span = since(now, begin);
            line.push((begin.max(now - to_delta(seconds)), (seconds - span).max(0.0)));
        }
        line.push((now, seconds));
    }
    line
}

fn to_delta(seconds: f64) -> TimeDelta {
    std::time::Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|d| TimeDelta::from_std(d).ok())
        .unwrap_or_default()
}

/// The text alternative of the chart.
fn describe(span: f64, highest: f64, runs: &[RecentRun]) -> String {
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for run in runs {
        *outcomes.entry(&run.outcome).or_default() += 1;
    }
    let outcomes: Vec<String> =
        outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let outcomes = if outcomes.is_empty() { "no runs".to_owned() } else { outcomes.join(", ") };
    format!(
        "Age of the data (line) and runs (marks) in the last {}: {outcomes}; maximum age {}",
        age(span),
        age(highest)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn run(began: i64, outcome: &str) -> RecentRun {
        let kind = "poll".to_owned();
        let is_complete = outcome == "ok";
        let outcome = outcome.to_owned();
        RecentRun {
            kind,
            started_at: at(began),
            finished_at: at(began + 2),
            outcome,
            api_calls: 1,
            throttled: 0,
            incidents_seen: 0,
            incidents_written: 0,
            rejected: 0,
            error_message: None,
            is_complete,
        }
    }

    #[test]
    fn freshness_drops_at_complete_runs_only() {
        let runs = [run(600, "failed"), run(300, "ok"), run(0, "ok")];
        let line = freshness(at(0), at(900), Some(600.0), &runs);
        assert_eq!(line, [(at(2), 2.0), (at(302), 302.0), (at(302), 2.0), (at(900), 600.0)]);
        // The last success was before the plot begins.
        assert_eq!(
            freshness(at(0), at(900), Some(1_000.0), &runs[..1]),
            [(at(0), 100.0), (at(900), 1_000.0)]
        );
        assert_eq!(freshness(at(0), at(900), None, &runs[..1]), [], "no data yet");
    }

    #[test]
    fn chart_has_text_and_stays_in_frame() {
        let runs = [run(600, "failed"), run(300, "ok"), run(0, "ok")];
        let drawn = plot(at(900), Some(600.0), &runs).into_string();
        assert!(drawn.contains("1 failed, 2 ok; maximum age 10m"), "{drawn}");
        let points =
            drawn.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            assert!((LEFT..=WIDTH - RIGHT).contains(&x.parse().unwrap()), "{points}");
            assert!((TOP..=BASE).contains(&y.parse().unwrap()), "{points}");
        }
        assert_eq!(drawn.matches("<rect").count(), 3);
        let empty = plot(at(900), None, &[]).into_string();
        assert!(empty.contains("no runs") && !empty.contains("NaN"), "{empty}");
    }
}
