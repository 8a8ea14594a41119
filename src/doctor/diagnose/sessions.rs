//! Findings on other users' sessions and roles that can slow or stop the service.

use super::FindingBuilder;
use crate::doctor::Finding;
use crate::store::feed::{Feed, FeedHolder, ReaderLimits};
use crate::store::inspect::SchemaState;

/// A longer transaction delays the change feed noticeably.
const HOLDER_WARNS_S: f64 = 60.0;
/// The maximum number of sessions in one finding.
const NAMED_MAX: usize = 5;

pub(super) fn change_feed(
    rows: &FindingBuilder,
    schema: Option<&SchemaState>,
    user: &str,
) -> Finding {
    let check = "change_feed";
    let Some(schema) = schema else { return rows.not_tried(check, "the schema is not up to date") };
    let Feed { holders, hidden_seconds } = &schema.feed;
    // A transaction of unknown age counts as old as the oldest hidden change.
    let is_old =
        |holder: &&FeedHolder| holder.age_seconds.unwrap_or(*hidden_seconds) > HOLDER_WARNS_S;
    let holders: Vec<&FeedHolder> =
        holders.iter().filter(|holder| !holder.is_ours).filter(is_old).collect();
    if holders.is_empty() {
        return rows.ok(check, "no transaction delays the change feed by more than a minute");
    }
    let named: Vec<String> =
        holders.iter().take(NAMED_MAX).map(|holder| named(holder, user)).collect();
    let more = match holders.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let problem = "Open transactions delay reporting.incident_changes, which shows no newer change until they end: ";
    rows.warning(check, format!("{problem}{}{more}", named.join("; ")))
}

/// The session, and the statement that ends it.
fn named(holder: &FeedHolder, user: &str) -> String {
    let shown = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or("unknown");
        text.chars().filter(|c| !c.is_control()).take(80).collect::<String>()
    };
    let age = holder.age_seconds.map_or_else(
        || format!("for an unknown time (to see it: GRANT pg_read_all_stats TO {user})"),
        |seconds| format!("for {seconds:.0} s"),
    );
    let role = shown(&holder.role);
    let database = shown(&holder.database);
    match (&holder.gid, holder.pid) {
        (Some(gid), _) => {
            let gid = gid.replace('\'', "''");
            format!(
                "prepared by {role} in database {database} {age}: run there: ROLLBACK PREPARED '{gid}'"
            )
        }
        (None, pid) => {
            let pid = pid.unwrap_or_default();
            let application = shown(&holder.application);
            format!(
                "pid {pid} of {role} (application {application}, database {database}) {age}: run SELECT pg_terminate_backend({pid})"
            )
        }
    }
}

pub(super) fn readers(rows: &FindingBuilder, schema: Option<&SchemaState>) -> Finding {
    let check = "readers";
    let Some(schema) = schema else { return rows.not_tried(check, "the schema is not up to date") };
    if schema.readers.is_empty() {
        return rows.ok(check, "no reader roles");
    }
    let those = |is_so: fn(&ReaderLimits) -> bool| -> Vec<&str> {
        schema
            .readers
            .iter()
            .filter(|reader| is_so(reader))
            .map(|reader| reader.role.as_str())
            .collect()
    };
    let (unlimited, unbounded) = (
        those(|reader| reader.has_no_connection_limit),
        those(|reader| reader.has_no_temp_file_limit),
    );
    let advice = match &unbounded[..] {
        [] => String::new(),
        [first, ..] => format!(
            "; {} may fill the disk with temporary files. As a superuser, run for each: ALTER ROLE {first} SET temp_file_limit = '2GB'",
            unbounded.join(", ")
        ),
    };
    match &unlimited[..] {
        [] => rows.ok(check, format!("every reader role ({}) has a connection limit{advice}", schema.readers.len())),
        [first, ..] => rows.warning(
            check,
            format!(
                "{} may take every connection of the server. Run for each: ALTER ROLE {first} CONNECTION LIMIT 10{advice}",
                unlimited.join(", ")
            ),
        ),
    }
}
