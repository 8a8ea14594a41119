//! The cron dialect of validation and due times. tokio-cron-scheduler, which makes the ticks, has a parser of its own; a test
//! in `sync::schedule` verifies that both agree.

use chrono::DateTime;
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds};

/// Parses six fields, the first one seconds. If a line restricts both day and weekday, both must match.
pub fn parse(line: &str) -> Result<Cron, CronError> {
    CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build().parse(line)
}

/// Rejects a line that does not parse or is never due.
pub(super) fn check(line: &str) -> Result<String, String> {
    let fields = line.split_whitespace().count();
    let form = "write second, minute, hour, day, month, weekday, such as \"0 */5 * * * *\"";
    if fields == 5 {
        return Err(format!(
            "has five fields instead of six (the first one is seconds); write \"0 {}\"",
            line.trim()
        ));
    }
    let cron = parse(line).map_err(|error| format!("not a cron line ({error}); {form}"))?;
    // 30 February parses, but is never due.
    cron.find_next_occurrence(&DateTime::UNIX_EPOCH, false)
        .map_err(|_| format!("is never due; {form}"))?;
    Ok(line.to_owned())
}
