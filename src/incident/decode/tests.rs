use std::borrow::Cow;

use chrono::{DateTime, Datelike, Utc};
use fastrand::Rng;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::defender::{Entity, Incident, parse};
use super::key::head;
use super::lenient::{Lenient, time};
use crate::incident::text::page::split;
use crate::incident::text::storable::storable;
use crate::mutate::{Json, ODD_TIMES, each_seed, garbled};
use crate::tenant::Source;

const FULL: &str = include_str!("../../../tests/data/defender_docs_list_incidents.json");

fn decoded(text: &str) -> Incident<'_> {
    parse(text).unwrap()
}

#[test]
fn documented_page_splits_and_decodes() {
    let page = split(FULL).unwrap();
    assert_eq!(page.incidents.len(), 3);
    let incident = decoded(page.incidents[0].get());
    assert_eq!(incident.incident_id, Some(924_565));
    assert_eq!(incident.mistyped, Vec::<&str>::new());
    assert!(incident.unknown.is_empty());
    let alerts = incident.alerts.unwrap();
    assert_eq!(alerts[0].entities.as_ref().unwrap().len(), 2);
    // Seven digits are cut, not rounded.
    assert_eq!(incident.columns.created_time, Some("2020-09-06T14:46:57.073333Z".parse().unwrap()));
}

#[test]
fn body_without_incident_list_is_an_error() {
    let documented =
        include_str!("../../../tests/data/defender_docs_list_incidents_INVALID_as_in_docs.txt");
    for text in [
        "",
        "{}",
        "[]",
        "\"x\"",
        "<html>",
        "{\"value\":null}",
        "{\"value\":{}}",
        "{\"value\":[1",
        documented,
    ] {
        assert!(split(text).is_err(), "{text:.20}");
    }
    assert_eq!(split("\u{feff} {\"value\":[]}").unwrap().incidents.len(), 0);
}

#[test]
fn broken_incident_leaves_others_readable() {
    let page = split(r#"{"value":[{"incidentId":1},"\ud800",{"incidentId":2}]}"#).unwrap();
    assert_eq!(page.incidents.len(), 3);
    assert!(parse(&storable(page.incidents[1].get())).is_err());
    assert_eq!(decoded(page.incidents[2].get()).incident_id, Some(2));
}

#[test]
fn wrong_types_become_none_and_are_named() {
    let text = r#"{"incidentId":"7","redirectIncidentId":8.0,"incidentName":5,"status":{"a":[1]},"createdTime":"yesterday",
        "tags":["a",{},3],"comments":{},"alerts":[1,{"alertId":"x","investigationId":1e300,"devices":"none"}],"severity":null}"#;
    let incident = decoded(text);
    assert_eq!((incident.incident_id, incident.columns.redirect_incident_id), (Some(7), Some(8)));
    assert_eq!(incident.columns.incident_name.as_deref(), Some("5"));
    assert_eq!(
        incident.columns.tags.as_deref(),
        Some(&[Cow::Borrowed("a"), Cow::Borrowed("3")][..])
    );
    assert_eq!(incident.mistyped, ["status", "createdTime", "comments", "alerts"]);
    let alerts = incident.alerts.unwrap();
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].mistyped, ["investigationId", "devices"]);
}

#[test]
fn last_of_a_repeated_key_wins() {
    assert_eq!(decoded(r#"{"incidentId":1,"incidentId":2}"#).incident_id, Some(2));
}

#[test]
fn unknown_keys_are_kept_as_they_are() {
    let text = r#"{"entityType":"NewThing","score":1.50,"deep":{"a":[1,2]}}"#;
    let entity: Lenient<Entity<'_>> = serde_json::from_str(text).unwrap();
    let Lenient::Value(entity) = entity else { panic!("it is an object") };
    let kept: Vec<_> = entity.unknown.iter().map(|(key, raw)| (key.as_ref(), raw.get())).collect();
    assert_eq!(kept, [("score", "1.50"), ("deep", r#"{"a":[1,2]}"#)]);
}

#[test]
fn nesting_beyond_serde_limit_is_decoded() {
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let text = format!(r#"{{"incidentId":1,"new":{deep}}}"#);
    assert_eq!(decoded(&text).incident_id, Some(1));
}

#[test]
fn times_are_truncated_and_invalid_ones_none() {
    let cases = [
        ("2020-09-06T14:46:57Z", Some("2020-09-06T14:46:57Z")),
        ("2020-09-06T14:46:57.29Z", Some("2020-09-06T14:46:57.29Z")),
        ("2020-09-06T14:46:59.9999999Z", Some("2020-09-06T14:46:59.999999Z")),
        ("9999-12-31T23:59:59.9999999Z", Some("9999-12-31T23:59:59.999999Z")),
        ("2020-09-06T16:46:57+02:00", Some("2020-09-06T14:46:57Z")),
        ("2020-09-06T14:46:57", Some("2020-09-06T14:46:57Z")),
        ("2016-12-31T23:59:60.25Z", Some("2016-12-31T23:59:59.999999Z")),
        ("0001-01-01T00:00:00Z", None),
        ("2021-02-30T00:00:00Z", None),
        ("", None),
    ];
    for (text, expected) in cases {
        let expected: Option<DateTime<Utc>> = expected.map(|time| time.parse().unwrap());
        assert_eq!(time(text), expected, "{text}");
    }
}

#[test]
fn characters_refused_by_postgres_are_replaced() {
    let cases = [
        (r#""a\u0000b""#, r#""a\ufffdb""#),
        (r#""\ud800""#, r#""\ufffd""#),
        (r#""\udc00\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
        (r#""\ud83dx""#, r#""\ufffdx""#),
        (r#""\\u0000""#, r#""\\u0000""#),
        (r#""\\\u0000""#, r#""\\\ufffd""#),
        (r#""\u00e9\n""#, r#""\u00e9\n""#),
        (r#""\"\uD800\"""#, r#""\"\ufffd\"""#),
    ];
    for (raw, expected) in cases {
        assert_eq!(storable(raw), expected, "{raw}");
    }
}

#[test]
fn every_code_unit_becomes_storable() {
    for unit in 0..=u16::MAX {
        let raw = format!("\"\\u{unit:04x}\"");
        let text: String = serde_json::from_str(&storable(&raw)).unwrap();
        assert!(!text.contains('\0'), "{raw}");
    }
}

#[test]
fn key_and_version_are_read_from_any_position() {
    let raw: Box<RawValue> = serde_json::from_str(
        r#"{"x":[{"incidentId":9}],"lastUpdateTime":"2026-01-01T00:00:00Z","incidentId":3}"#,
    )
    .unwrap();
    let head = head(Source::Defender, raw.get());
    assert_eq!(head.incident_id, Some(3));
    assert!(head.last_update_time.is_some());
}

/// A page is either refused or holds what it shows, and whatever is in it can be made storable and looked at.
fn read_any_page(text: &str) -> usize {
    let Ok(page) = split(text) else { return 0 };
    for raw in &page.incidents {
        let storable = storable(raw.get());
        let parsed =
            serde_json::from_str::<&RawValue>(&storable).expect("what was JSON stays JSON");
        assert_eq!(parsed.get(), storable);
        assert_eq!(self::storable(&storable), storable, "it is storable as it is");
        head(Source::Defender, &storable);
        let _ = parse(&storable);
    }
    page.incidents.len()
}

#[test]
fn any_broken_page_is_refused_or_read() {
    let document = Json::of(FULL);
    let mut read = 0;
    each_seed(600, |seed| {
        let mut random = Rng::with_seed(seed);
        let text = document.mutated(&mut random).to_string();
        read += read_any_page(&text);
        read_any_page(&garbled(&text, &mut random));
        read_any_page(&format!("\u{feff}\r\n {text}"));
    });
    assert!(read > 0, "no page was read");
}

#[test]
fn page_cut_at_any_byte_is_refused() {
    for end in (0..FULL.trim_end().len()).filter(|end| FULL.is_char_boundary(*end)) {
        assert!(split(&FULL[..end]).is_err(), "cut at {end}");
    }
}

/// The instant as its digits say it, in picoseconds since 1970 and without any library for times.
fn picoseconds(text: &str, offset_minutes: i128) -> i128 {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i128>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + number(11..13) * 3_600 + number(14..16) * 60 + number(17..19)
        - offset_minutes * 60;
    let fraction = text[19..].strip_prefix('.').unwrap_or_default();
    let fraction: String = fraction.chars().take_while(char::is_ascii_digit).take(12).collect();
    seconds * 1_000_000_000_000 + format!("{fraction:0<12}").parse::<i128>().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stored_time_is_at_most_a_microsecond_early(
        (year, month, day) in (1_970..9_999_u32, 1..=12_u32, 1..=31_u32),
        (hour, minute, second) in (0..=23_u32, 0..=59_u32, 0..=60_u32),
        fraction in "(\\.[0-9]{1,12})?",
        (zone, offset) in prop::sample::select(vec![("Z", 0), ("", 0), ("+02:00", 120), ("-11:30", -690), ("z", 0)]),
    ) {
        let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}");
        if let Some(stored) = time(&text) {
            let early = picoseconds(&text, offset) - i128::from(stored.timestamp_micros()) * 1_000_000;
            // A leap second has no place of its own in Postgres: it is the end of the second before.
            let allowed = if second == 60 { 1_000_001_000_000 } else { 1_000_000 };
            prop_assert!((0..allowed).contains(&early), "{text} is stored as {stored}");
            let again: DateTime<Utc> = stored.to_rfc3339().parse().unwrap();
            let stays = DateTime::from_timestamp_micros(stored.timestamp_micros());
            prop_assert_eq!((again, stays), (stored, Some(stored)), "{} changes on its way", text);
        } else {
            prop_assert!(day > 28, "{text} is a time");
        }
    }

    #[test]
    fn any_text_is_a_storable_time_or_none(text in ".{0,40}|[0-9:TZ.+-]{0,40}", at in 0..ODD_TIMES.len()) {
        for text in [text.as_str(), ODD_TIMES[at], &format!("{}{text}", ODD_TIMES[at])] {
            if let Some(stored) = time(text) {
                prop_assert!((2..=9_999).contains(&stored.year()));
                prop_assert_eq!(DateTime::from_timestamp_micros(stored.timestamp_micros()), Some(stored));
            }
        }
    }
}
