//! Dates and pauses in headers.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// The header `Date`.
pub(crate) fn server_time(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    header_date(headers.get(DATE)?.to_str().ok()?).map(DateTime::from)
}

/// `Retry-After`: seconds, or a date relative to the server's own clock. A past date is a pause of zero.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let server = headers.get(DATE).and_then(|date| header_date(date.to_str().ok()?));
    pause(text, server.unwrap_or_else(SystemTime::now))
}

fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(header_date(text)?.duration_since(now).unwrap_or_default())
}

fn header_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;
    use crate::error::{Retry, SyncError};

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        let now = header_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        assert_eq!(pause("17", now), Some(Duration::from_secs(17)));
        assert_eq!(pause("Mon, 23 Nov 2026 10:01:30 GMT", now), Some(Duration::from_secs(90)));
        assert_eq!(pause("Mon, 23 Nov 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        for garbage in ["", "soon", "-5", "1.5", "99999999999999999999"] {
            assert_eq!(pause(garbage, now), None, "{garbage}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_requested_pause_is_obeyed_but_bounded(
            header in "[0-9]{1,25}|-?[0-9.e+]{1,9}|(Mon|Sun), [0-3][0-9] (Nov|Feb) [0-9]{4} [0-9:]{8} GMT|.{0,30}",
            date in "(Mon, 23 Nov [0-9]{4} 10:00:00 GMT)?",
            server_time in any::<i32>(),
        ) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(server_time.unsigned_abs()));
            let seconds = header.trim().parse::<u64>().ok();
            if let Some(seconds) = seconds {
                prop_assert_eq!(pause(header.trim(), now), Some(Duration::from_secs(seconds)));
            }
            let mut headers = HeaderMap::new();
            for (name, text) in [(RETRY_AFTER, &header), (DATE, &date)] {
                headers.extend(HeaderValue::from_str(text).ok().map(|value| (name, value)));
            }
            let asked = retry_after(&headers);
            let refused = |status| SyncError::of_status(status, asked);
            let Retry::After(wait) = refused(429).diagnosis().retry else { panic!("a 429 is a pause") };
            prop_assert!(wait <= Duration::from_secs(6 * 3600), "{wait:?} for {header}");
            prop_assert!(asked.is_none_or(|asked| wait <= asked), "{wait:?} for {header}");
            if let Retry::After(wait) = refused(503).diagnosis().retry {
                prop_assert!(wait <= Duration::from_secs(6 * 3600));
            }
        }
    }
}
