//! What commands print: tables for people, JSON for scripts.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use console::Term;
use serde_json::{Value, json};

use crate::commands::exit::Failure;
use crate::config::{ConfigError, Setting};
use crate::doctor::{CheckResult, Finding};
use crate::entra::expiry::{self, CredentialExpiry};
use crate::error::Owner;
use crate::store::runs::Outcome;
use crate::store::status::{Standing, TenantStatus};
use crate::sync::engine::TenantResult;
use crate::sync::verify::Drift;
use crate::tenant::Tenant;

/// Sentences wrap at this width, or at that of a narrower terminal; narrower columns stay as they are.
const TABLE_WIDTH: u16 = 150;

/// Prints one or the other.
pub fn print(json: bool, value: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if json { print_line(format_args!("{value:#}")) } else { print_line(text()) }
}

/// Prints a line, or several.
pub fn print_line(text: impl Display) -> Result<(), Failure> {
    write_result(writeln!(std::io::stdout(), "{text}"))
}

/// How writing to standard output went. A reader that has gone, as behind `head`, is no failure.
pub fn write_result(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::NotDone(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// An empty table in our style.
pub fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let terminal = Term::stdout().size_checked();
    let width = terminal.map_or(TABLE_WIDTH, |(_, columns)| columns.min(TABLE_WIDTH));
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width);
    table.set_header(header);
    table
}

/// The summary of `sync`.
pub fn sync_table(results: &[TenantResult]) -> String {
    let mut table = table([
        "tenant",
        "outcome",
        "pages",
        "incidents",
        "written",
        "alerts",
        "rejected",
        "seconds",
        "who must act",
        "what",
    ]);
    for result in results {
        let counts = &result.report.counts;
        let (who, say) = result
            .diagnosis
            .as_ref()
            .map_or(("", ""), |diagnosis| (diagnosis.owner.as_str(), &*diagnosis.advice));
        table.add_row([
            result.tenant.name.clone(),
            result.outcome.as_str().to_owned(),
            counts.api_calls.to_string(),
            counts.incidents_seen.to_string(),
            counts.incidents_written.to_string(),
            counts.alerts_written.to_string(),
            counts.rejected.to_string(),
            format!("{:.1}", result.took.as_secs_f64()),
            who.to_owned(),
            say.to_owned(),
        ]);
    }
    table.to_string()
}

/// The summary of `sync --json`.
pub fn sync_json(results: &[TenantResult], left_out: &[&str], took: Duration) -> Value {
    let tenant = |result: &TenantResult| {
        let counts = &result.report.counts;
        json!({
            "tenant_id": result.tenant.id.0,
            "name": result.tenant.name,
            "outcome": result.outcome,
            "api_calls": counts.api_calls,
            "throttled": counts.throttled,
            "incidents_seen": counts.incidents_seen,
            "incidents_written": counts.incidents_written,
            "alerts_written": counts.alerts_written,
            "rejected": counts.rejected,
            "mistyped_fields": counts.mistyped_fields,
            "watermark": result.report.watermark,
            "seconds": result.took.as_secs_f64(),
            "error_class": result.diagnosis.as_ref().map(|diagnosis| diagnosis.class),
            "who_must_act": result.diagnosis.as_ref().map(|diagnosis| diagnosis.owner.as_str()),
            "advice": result.diagnosis.as_ref().map(|diagnosis| &*diagnosis.advice),
            "error": result.report.failure.as_ref().map(ToString::to_string),
        })
    };
    let tenants: Vec<Value> = results.iter().map(tenant).collect();
    json!({
        "ok": left_out.is_empty() && results.iter().all(|result| result.outcome == Outcome::Ok),
        "seconds": took.as_secs_f64(),
        "left_out": left_out,
        "tenants": tenants,
    })
}

/// `status --json`: what the database knows, what the table makes of it, and the ends of each tenant's credentials.
pub fn status_json(
    tenants: &[TenantStatus],
    configured: &[Arc<Tenant>],
    expiries: &[CredentialExpiry],
) -> Value {
    let of = |tenant: &TenantStatus| {
        let mut value = json!(tenant);
        value["state"] = State::of(&tenant.standing).as_str().into();
        value["must_act"] = must_act(&tenant.standing)
            .map(|(who, what)| json!({ "owner": who, "what": what }))
            .into();
        value["credentials"] = expiry::of_tenant(configured, tenant.standing.tenant_id, expiries);
        value
    };
    tenants.iter().map(of).collect()
}

/// The table of `status`.
pub fn status_table(tenants: &[TenantStatus]) -> String {
    let mut table = table([
        "tenant",
        "state",
        "data as of",
        "last run",
        "incidents",
        "open",
        "rejected",
        "late",
        "gaps",
        "failures",
        "who must act",
        "what",
    ]);
    for TenantStatus { standing, incidents, open_incidents, .. } in tenants {
        let (who, what) = must_act(standing).unwrap_or_default();
        table.add_row([
            standing.name.clone(),
            State::of(standing).as_str().to_owned(),
            data_as_of(standing),
            last_run(standing),
            incidents.to_string(),
            open_incidents.to_string(),
            standing.rejected.to_string(),
            standing.found_late.unwrap_or(0).to_string(),
            standing.gaps.to_string(),
            standing.consecutive_failures.unwrap_or(0).to_string(),
            who.to_owned(),
            what.to_owned(),
        ]);
    }
    table.to_string()
}

/// How old a tenant's data is.
pub fn data_as_of(tenant: &Standing) -> String {
    tenant
        .freshness_seconds
        .map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", age(seconds)))
}

/// Kind and outcome of a tenant's last run.
pub fn last_run(tenant: &Standing) -> String {
    let last_run = tenant.last_kind.as_deref().zip(tenant.last_outcome.as_deref());
    last_run.map_or_else(|| "none".to_owned(), |(kind, outcome)| format!("{kind} {outcome}"))
}

/// Who must act for a tenant, and what it is about; `None` where all is well or nobody wants it.
pub fn must_act(tenant: &Standing) -> Option<(&str, &str)> {
    match State::of(tenant) {
        State::Parked | State::Failing => {
            tenant.who_must_act.as_deref().zip(tenant.error_message.as_deref())
        }
        State::Stale if tenant.is_watermark_ahead => {
            Some((Owner::Operator.as_str(), OF_WATERMARK_AHEAD))
        }
        State::Stale => Some((Owner::Operator.as_str(), OF_STALE)),
        State::NeverRun => Some((Owner::Operator.as_str(), OF_NEVER_RUN)),
        State::Incomplete | State::FirstSync if tenant.gaps > 0 => {
            Some((Owner::Operator.as_str(), OF_GAPS))
        }
        State::Incomplete | State::FirstSync if tenant.rejected > 0 => {
            Some((Owner::Operator.as_str(), OF_REJECTED))
        }
        State::Incomplete | State::FirstSync | State::Ok | State::Disabled | State::Removed => None,
    }
}

/// What an operator does about a gap.
const OF_GAPS: &str = "The API fails to serve a part of the list; open a ticket with Microsoft with what defender.sync_gaps says of it";
/// What an operator does about the quarantine.
const OF_REJECTED: &str = "Incidents could not be decoded and wait in defender.rejected_payloads; install the newest version and run \
    incident-sync retry-rejected, else report the reason that stands there";
/// What an operator does about a poll that did not come.
const OF_STALE: &str = "Its poll is overdue although nothing failed; see whether the daemon runs, and whether sync.concurrency is enough";
/// What an operator does about a watermark in the future.
const OF_WATERMARK_AHEAD: &str = "The watermark lies in the future, set while a clock was wrong. The next run reads everything again; if this \
    stays, check the clock of the database server and run incident-sync sync --full for this tenant";
/// What an operator does about a tenant that only the configuration knows.
const OF_NEVER_RUN: &str = "No daemon has read that it is configured; start the service, or systemctl reload incident-sync if it runs";
/// Polls wait for a place, and a daemon restarts; neither takes that long.
const OVERDUE_SECONDS: f64 = 900.0;
/// Many that came together wait longer for each part of their history.
const OVERDUE_AT_FIRST: f64 = 3600.0;

/// How a tenant is; the worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It waits for somebody.
    Parked,
    /// Its last run failed.
    Failing,
    /// It is configured, but no daemon knows it yet.
    NeverRun,
    /// Nothing failed, but it was not read when it should have been, or its watermark lies in the future.
    Stale,
    /// The API fails to serve a part, or a part waits in quarantine.
    Incomplete,
    /// History is still being read.
    FirstSync,
    /// All is well.
    Ok,
    /// It is not to be read.
    Disabled,
    /// It left the configuration.
    Removed,
}

impl State {
    /// What the facts amount to.
    pub fn of(tenant: &Standing) -> Self {
        match tenant {
            Standing { removed_at: Some(_), .. } => Self::Removed,
            Standing { enabled: false, .. } => Self::Disabled,
            Standing { consecutive_failures: None, .. } => Self::NeverRun,
            Standing { parked_reason: Some(_), .. } => Self::Parked,
            Standing { error_class: Some(_), .. } => Self::Failing,
            Standing { is_watermark_ahead: true, .. } => Self::Stale,
            Standing { backfilled_at: None, overdue_seconds: Some(OVERDUE_AT_FIRST..), .. } => {
                Self::Stale
            }
            Standing { backfilled_at: None, .. } => Self::FirstSync,
            Standing { overdue_seconds: Some(OVERDUE_SECONDS..), .. } => Self::Stale,
            Standing { gaps: 1.., .. } | Standing { rejected: 1.., .. } => Self::Incomplete,
            _ => Self::Ok,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Failing => "failing",
            Self::NeverRun => "never run",
            Self::Stale => "stale",
            Self::Incomplete => "incomplete",
            Self::FirstSync => "first sync",
            Self::Ok => "ok",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
        }
    }
}

/// The table of `verify`. Each kind of drift with its first few examples.
pub fn drift_table(drifts: &[Drift]) -> String {
    const EXAMPLES: usize = 5;
    fn told<T: ToString>(found: &[T]) -> String {
        let examples: Vec<String> = found.iter().take(EXAMPLES).map(ToString::to_string).collect();
        match found.len() {
            0 => "0".to_owned(),
            few @ 1..=EXAMPLES => format!("{few}: {}", examples.join(", ")),
            many => format!("{many}: {}, ...", examples.join(", ")),
        }
    }
    let mut table = table([
        "tenant",
        "compared",
        "too recent",
        "missing",
        "older",
        "extra",
        "alerts",
        "rejected",
        "gaps",
        "who must act",
        "what",
    ]);
    for drift in drifts {
        table.add_row([
            drift.name.clone(),
            drift.compared.to_string(),
            drift.too_recent.to_string(),
            told(&drift.missing),
            told(&drift.older),
            told(&drift.extra),
            told(&drift.alerts),
            drift.rejected.to_string(),
            drift.gaps.to_string(),
            drift.who_must_act.unwrap_or_default().to_owned(),
            drift.failure.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// An age in its two largest units.
pub fn age(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds.max(0.0));
    let rounded = match whole.as_secs() {
        0..60 => whole.as_secs(),
        60..3600 => whole.as_secs() / 10 * 10,
        _ => whole.as_secs() / 60 * 60,
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

/// The table of `config show`.
pub fn settings_table(settings: &[Setting]) -> String {
    let mut table = table(["tenant", "key", "value", "from"]);
    for Setting { key, tenant, value, source } in settings {
        table.add_row([tenant.as_deref().unwrap_or_default(), key, value, source]);
    }
    table.to_string()
}

/// `config check --json`. Where the configuration is refused as a whole, nothing is known of its tenants.
pub fn config_json(
    file: Option<&Path>,
    tenants: Option<usize>,
    warnings: &[String],
    errors: &[ConfigError],
) -> Value {
    json!({ "ok": errors.is_empty(), "file": file, "tenants": tenants, "warnings": warnings, "errors": errors })
}

/// The table of `tenant list`.
pub fn tenant_table(tenants: &[std::sync::Arc<Tenant>]) -> String {
    let mut table = table(["tenant", "id", "enabled", "authority", "API", "labels"]);
    for tenant in tenants {
        let labels: Vec<String> =
            tenant.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.add_row([
            tenant.name.clone(),
            tenant.id.to_string(),
            if tenant.enabled { "yes" } else { "no" }.to_owned(),
            tenant.endpoints.authority.to_string(),
            tenant.endpoints.base_url.to_string(),
            labels.join(", "),
        ]);
    }
    table.to_string()
}

/// `tenant list --json`.
pub fn tenant_json(tenants: &[std::sync::Arc<Tenant>]) -> Value {
    let tenant = |tenant: &std::sync::Arc<Tenant>| {
        json!({
            "tenant_id": tenant.id.0,
            "name": tenant.name,
            "enabled": tenant.enabled,
            "authority": tenant.endpoints.authority.as_str(),
            "base_url": tenant.endpoints.base_url.as_str(),
            "labels": tenant.labels,
        })
    };
    Value::Array(tenants.iter().map(tenant).collect())
}

/// `check --json`.
pub fn check_json(findings: &[Finding]) -> Value {
    json!({ "ok": count(findings, CheckResult::Failure) == 0, "findings": findings })
}

fn count(findings: &[Finding], result: CheckResult) -> usize {
    findings.iter().filter(|finding| finding.result == result).count()
}

/// The table of `check`. What is the same for many hosts or tenants is one row, with the names of all for whom somebody must
/// act.
pub fn check_table(findings: &[Finding]) -> String {
    const NAMES: usize = 3;
    let mut table = table(["part", "check", "result", "who must act", "about", "what"]);
    let mut rows: Vec<Vec<&Finding>> = Vec::new();
    for finding in findings {
        match rows.iter_mut().find(|row| row[0].is_same_problem(finding)) {
            Some(row) => row.push(finding),
            None => rows.push(vec![finding]),
        }
    }
    // The order of the checks, and not that in which the hosts or tenants came.
    let place = |row: &[&Finding]| {
        findings.iter().position(|f| (f.group, f.check) == (row[0].group, row[0].check))
    };
    rows.sort_by_cached_key(|row| place(row));
    for row in &rows {
        let first = row[0];
        let is_wanted = matches!(first.result, CheckResult::Failure | CheckResult::Warning);
        let shown = if is_wanted { row.len() } else { NAMES };
        let mut about = row
            .iter()
            .take(shown)
            .map(|finding| finding.about.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        if row.len() > shown {
            about.push_str(", ...");
        }
        if row.len() > NAMES {
            about = format!("{} in all: {about}", row.len());
        }
        let error =
            first.error.as_ref().map_or_else(String::new, |error| format!(" ({})", error.text));
        table.add_row([
            first.group.as_str(),
            first.check,
            first.result.as_str(),
            first.who_must_act.unwrap_or_default(),
            &about,
            &format!("{}{error}", first.advice),
        ]);
    }
    let of = |result| count(findings, result);
    let (failures, warnings) = (of(CheckResult::Failure), of(CheckResult::Warning));
    let (not_tried, ok) = (of(CheckResult::NotTried), of(CheckResult::Ok));
    format!("{table}\nfailed: {failures}, warnings: {warnings}, not tried: {not_tried}, ok: {ok}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Group;
    use crate::error::SyncError;

    #[test]
    fn a_table_of_findings_names_everybody_for_whom_somebody_must_act() {
        let finding = |about: String, result, error: SyncError| Finding {
            group: Group::Tenants,
            check: "call",
            about,
            result,
            who_must_act: Some("nobody"),
            advice: error.diagnosis().advice.into_owned(),
            error: Some((&error).into()),
        };
        let api = |status, seconds| {
            let (code, target, hint) = (String::new(), String::new(), String::new());
            SyncError::Api {
                status,
                code,
                target,
                retry_after: Some(Duration::from_secs(seconds)),
                hint,
            }
        };
        let throttled =
            (1..=9).map(|n| finding(format!("slow-{n}"), CheckResult::Warning, api(429, n)));
        let failed =
            (1..=9).map(|n| finding(format!("lost-{n}"), CheckResult::Failure, api(404, 0)));
        let other =
            (1..=2).map(|n| finding(format!("shut-{n}"), CheckResult::Failure, api(403, 0)));
        let table = check_table(&throttled.chain(failed).chain(other).collect::<Vec<_>>());
        for name in (1..=9).flat_map(|n| [format!("slow-{n}"), format!("lost-{n}")]) {
            assert!(table.contains(&name), "{name}: {table}");
        }
        let rows = |word: &str| table.lines().filter(|line| line.contains(word)).count();
        assert_eq!(
            (rows("┆ warning "), rows("┆ FAILURE "), rows(" 9 in all: ")),
            (1, 2, 2),
            "{table}"
        );
        assert!(!table.contains("..."), "{table}");
    }

    #[test]
    fn an_age_is_told_in_two_units() {
        assert_eq!(age(7.9), "7s");
        assert_eq!(age(605.0), "10m");
        assert_eq!(age(7_384.0), "2h 3m");
        assert_eq!(age(-1.0), "0s");
    }
}
