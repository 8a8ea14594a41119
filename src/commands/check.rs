//! The command `check`: the doctor.

use clap::Args;
use serde_json::{Value, json};

use crate::commands::args::TenantFilter;
use crate::commands::exit::Failure;
use crate::commands::output::{self, print};
use crate::commands::progress::ProgressBars;
use crate::config::{Config, ConfigErrors};
use crate::doctor::{self, CheckResult, Finding, Group};

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    filter: TenantFilter,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(config: &Config, args: CheckArgs) -> Result<(), Failure> {
    let tenants = args.filter.select(config)?;
    let bars = ProgressBars::new(tenants.len());
    let findings = doctor::all(config, &tenants, &bars.observer()).await;
    bars.clear();
    print(args.json, &as_json(&findings), || table(&findings))?;
    let mut failed =
        findings.iter().filter(|finding| finding.result == CheckResult::Failure).peekable();
    if failed.peek().is_none() {
        return Ok(());
    }
    if failed.any(|finding| finding.group == Group::Database) {
        return Err(Failure::Database("a check of the database failed".to_owned()));
    }
    Err(Failure::Tenant)
}

/// Reports an invalid configuration, with which every other command fails.
pub(crate) fn refused(errors: &ConfigErrors, args: &CheckArgs) -> Failure {
    let findings = doctor::of_rejected(errors);
    let printed = print(args.json, &as_json(&findings), || table(&findings));
    printed.err().unwrap_or_else(|| Failure::Configuration(errors.to_string()))
}

fn as_json(findings: &[Finding]) -> Value {
    json!({ "ok": count(findings, CheckResult::Failure) == 0, "findings": findings })
}

fn count(findings: &[Finding], result: CheckResult) -> usize {
    findings.iter().filter(|finding| finding.result == result).count()
}

/// Merges equal findings of several hosts or tenants into one row. A problem lists all of their names.
fn table(findings: &[Finding]) -> String {
    const NAMES: usize = 3;
    let mut table = output::table(["part", "check", "result", "who must act", "about", "what"]);
    let mut rows: Vec<Vec<&Finding>> = Vec::new();
    for finding in findings {
        match rows.iter_mut().find(|row| row[0].is_same_problem(finding)) {
            Some(row) => row.push(finding),
            None => rows.push(vec![finding]),
        }
    }
    // In the order of the checks, not of the hosts or tenants.
    let order = |row: &[&Finding]| {
        findings.iter().position(|f| (f.group, f.check) == (row[0].group, row[0].check))
    };
    rows.sort_by_cached_key(|row| order(row));
    for row in &rows {
        let first = row[0];
        let is_problem = matches!(first.result, CheckResult::Failure | CheckResult::Warning);
        let shown = if is_problem { row.len() } else { NAMES };
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
    let failures = of(CheckResult::Failure);
    let warnings = of(CheckResult::Warning);
    let not_tried = of(CheckResult::NotTried);
    let ok = of(CheckResult::Ok);
    format!("{table}\nfailed: {failures}, warnings: {warnings}, not tried: {not_tried}, ok: {ok}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::SyncError;

    #[test]
    fn table_names_every_tenant_with_a_problem() {
        let finding = |about: String, result, error: SyncError| Finding {
            group: Group::Tenants,
            check: "call",
            about,
            result,
            who_must_act: Some("nobody"),
            advice: error.diagnosis().advice.into_owned(),
            error: Some((&error).into()),
        };
        let api =
            |status, seconds| SyncError::of_status(status, Some(Duration::from_secs(seconds)));
        let throttled =
            (1..=9).map(|n| finding(format!("slow-{n}"), CheckResult::Warning, api(429, n)));
        let failed =
            (1..=9).map(|n| finding(format!("lost-{n}"), CheckResult::Failure, api(404, 0)));
        let other =
            (1..=2).map(|n| finding(format!("shut-{n}"), CheckResult::Failure, api(403, 0)));
        let table = table(&throttled.chain(failed).chain(other).collect::<Vec<_>>());
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
}
