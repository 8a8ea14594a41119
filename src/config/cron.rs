//! The one dialect of cron lines, for the check of the configuration and for due times. tokio-cron-scheduler, which makes the
//! ticks, reads its lines the same way and takes no other parser; a test in `sync::schedule` compares the two.

use chrono::DateTime;
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds};

/// Reads a line of six fields, the first one seconds. Where it restricts both day and weekday, both must match.
pub fn parse(line: &str) -> Result<Cron, CronError> {
    CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build().parse(line)
}

/// Refuses a line that does not parse or never comes due.
pub(super) fn check(line: &str) -> Result<String, String> {
    let fields = line.split_whitespace().count();
    let form = "write second, minute, hour, day, month, weekday, such as \"0 */5 * * * *\"";
    if fields == 5 {
        return Err(format!(
            "has five fields and needs six, the seconds first; write \"0 {}\"",
            line.trim()
        ));
    }
    let cron = parse(line).map_err(|error| format!("not a cron line ({error}); {form}"))?;
    // 30 February parses and never comes.
    cron.find_next_occurrence(&DateTime::UNIX_EPOCH, false)
        .map_err(|_| format!("never comes due; {form}"))?;
    Ok(line.to_owned())
}
