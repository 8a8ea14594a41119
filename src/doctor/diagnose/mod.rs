//! Turns facts into findings: what is wrong and who has to fix it. Pure; the probes collect the facts.

use chrono::{DateTime, Utc};

use super::network::{Egress, Host};
use super::{CheckResult, Facts, Finding, Group};
use crate::entra::expiry::CredentialExpiry;
use crate::error::{ErrorClass, SyncError};
use crate::sync::fleet_change;
use crate::sync::retirement::{self, RetirementNotice};

mod database;
mod network;
mod sessions;
mod tenant;
mod unreachable;

pub use unreachable::unreachable_database;

/// All findings, in the order in which the steps depend on each other.
pub fn diagnose(facts: &Facts, now: DateTime<Utc>) -> Vec<Finding> {
    let mut rows = configuration(facts);
    rows.extend(facts.retirement.as_ref().map(retirement));
    rows.extend(connectivity(&facts.expiries, &facts.egress, &facts.hosts, now));
    rows.extend(database::findings(&facts.database));
    rows.extend(facts.tenants.iter().flat_map(|probe| tenant::findings(probe, &facts.tenants)));
    rows
}

/// Findings on the application's credentials and the network path to Microsoft.
pub fn connectivity(
    expiries: &[CredentialExpiry],
    egress: &Egress,
    hosts: &[Host],
    now: DateTime<Utc>,
) -> Vec<Finding> {
    let mut rows: Vec<Finding> = expiries.iter().map(|expiry| credential(expiry, now)).collect();
    rows.extend(network::proxy(egress));
    rows.extend(hosts.iter().flat_map(|host| network::host(host, egress, now)));
    rows
}

/// Builds the findings of one group about one subject.
struct FindingBuilder<'a> {
    group: Group,
    about: &'a str,
}

impl FindingBuilder<'_> {
    fn row(
        &self,
        check: &'static str,
        result: CheckResult,
        who: Option<&'static str>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            group: self.group,
            check,
            about: self.about.to_owned(),
            result,
            who_must_act: who,
            advice: advice.into(),
            error: None,
        }
    }

    fn ok(&self, check: &'static str, advice: impl Into<String>) -> Finding {
        self.row(check, CheckResult::Ok, None, advice)
    }

    fn warning(&self, check: &'static str, advice: impl Into<String>) -> Finding {
        self.row(check, CheckResult::Warning, Some(OPERATOR), advice)
    }

    fn failure(&self, check: &'static str, advice: impl Into<String>) -> Finding {
        self.row(check, CheckResult::Failure, Some(OPERATOR), advice)
    }

    fn not_tried(&self, check: &'static str, because: &str) -> Finding {
        self.row(check, CheckResult::NotTried, None, because)
    }

    /// From the diagnosis of the error. A pause is not a failure, because no call was made.
    fn error(&self, check: &'static str, error: &SyncError) -> Finding {
        let diagnosis = error.diagnosis();
        let result = match error {
            SyncError::Paused { .. } | SyncError::EntraHold { .. } => CheckResult::NotTried,
            _ if diagnosis.class == ErrorClass::Throttled => CheckResult::Warning,
            _ => CheckResult::Failure,
        };
        let row = self.row(check, result, Some(diagnosis.owner.as_str()), diagnosis.advice);
        Finding { error: Some(error.into()), ..row }
    }
}

const OPERATOR: &str = "operator";

fn configuration(facts: &Facts) -> Vec<Finding> {
    let facts = &facts.configuration;
    let rows = FindingBuilder { group: Group::Configuration, about: &facts.file };
    let mut all = vec![match (facts.tenants, &facts.missing) {
        (_, Some(missing)) => {
            let advice = fleet_change::held_back(missing.names.len(), missing.of);
            rows.failure("file", format!("{advice}. Missing: {}", missing.names.join(", ")))
        }
        (0, None) => rows.warning(
            "file",
            "valid, but no tenant is configured; add [[tenants]] with id and name",
        ),
        (count, None) => rows.ok("file", format!("valid, {count} tenants")),
    }];
    all.push(if facts.open_to_writers.is_empty() {
        rows.ok("permissions", "permissions are safe")
    } else {
        let problem = "writable by other users, who could redirect secrets";
        let paths = facts.open_to_writers.join(" ");
        rows.warning("permissions", format!("{problem}; run chmod go-w {paths}"))
    });
    if !facts.closed_to_service.is_empty() {
        let advice = "Not readable by the service user. Move any secret into a separate file, then run: chmod go+rX";
        all.push(
            rows.warning("readable", format!("{advice} {}", facts.closed_to_service.join(" "))),
        );
    }
    all.extend(facts.warnings.iter().map(|warning| rows.warning("advice", warning.clone())));
    all
}

/// One row for all tenants.
fn retirement(notice: &RetirementNotice) -> Finding {
    let rows = FindingBuilder { group: Group::Configuration, about: retirement::source().as_str() };
    rows.warning("retirement", notice.describe())
}

fn credential(expiry: &CredentialExpiry, now: DateTime<Utc>) -> Finding {
    let about = expiry.credential_id.owner.as_ref().unwrap_or(&expiry.credential_id.client_id);
    let rows = FindingBuilder { group: Group::Credentials, about };
    let description = expiry.describe(now);
    match expiry.stage(now) {
        Some(0) => rows.failure("expiry", description),
        Some(_) => rows.warning("expiry", format!("{description}; renew it")),
        None if expiry.problem.is_some() => rows.warning("expiry", description),
        None => rows.ok("expiry", description),
    }
}

#[cfg(test)]
mod tests;
