//! The status as CSV, for spreadsheets and for the people who talk to the customers.

use super::FleetStatus;
use crate::commands::consent_url;
use crate::commands::exit::Failure;
use crate::commands::output::write_result;
use crate::error::Owner;
use crate::store::status::TenantStatus;
use crate::sync::problems::cause;
use crate::sync::tenant_state::{State, must_act};

const HEADER: [&str; 12] = [
    "tenant",
    "tenant_id",
    "state",
    "owner",
    "class",
    "what",
    "consent_url",
    "source",
    "last_success_at",
    "incidents",
    "open_incidents",
    "consecutive_failures",
];

pub(super) fn write(status: &FleetStatus<'_>) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(std::io::stdout());
    let rows = status.shown.iter().map(|tenant| row(status, tenant));
    let written = writer
        .write_record(HEADER)
        .and_then(|()| rows.into_iter().try_for_each(|row| writer.write_record(&row)));
    let written = written.map_err(|error| match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => std::io::Error::other(format!("{other:?}")),
    });
    write_result(written.and_then(|()| writer.flush()))
}

fn row(status: &FleetStatus<'_>, tenant: &TenantStatus) -> [String; 12] {
    let standing = &tenant.standing;
    let problem = must_act(standing);
    let (owner, what) = problem.unwrap_or_default();
    let configured = status.configured.iter().find(|each| each.id.0 == standing.tenant_id);
    let link = configured
        .filter(|_| owner == Owner::CustomerAdmin.as_str())
        .and_then(|tenant| consent_url::link_of(tenant).ok());
    [
        inert(&standing.name),
        standing.tenant_id.to_string(),
        State::of(standing).as_str().to_owned(),
        owner.to_owned(),
        problem.map_or("", |_| cause(standing)).to_owned(),
        inert(what),
        link.map_or_else(String::new, |link| link.to_string()),
        standing.source.clone().unwrap_or_default(),
        standing.last_success_at.map_or_else(String::new, |time| time.to_rfc3339()),
        tenant.incidents.to_string(),
        tenant.open_incidents.to_string(),
        standing.consecutive_failures.unwrap_or(0).to_string(),
    ]
}

/// Spreadsheets run a text that begins like a formula.
fn inert(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}
