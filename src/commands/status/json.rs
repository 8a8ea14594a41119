//! The status as one JSON object.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::FleetStatus;
use crate::entra::expiry::CredentialExpiry;
use crate::store::status::TenantStatus;
use crate::sync::problems::{Problem, cause, problems};
use crate::sync::retirement::RetirementNotice;
use crate::sync::tenant_state::{State, must_act};

pub(super) fn of(status: &FleetStatus<'_>) -> Value {
    let mut states = BTreeMap::<&str, usize>::new();
    let mut sources = BTreeMap::<&str, usize>::new();
    for TenantStatus { standing, .. } in status.fleet {
        *states.entry(State::of(standing).as_str()).or_default() += 1;
        if let Some(source) = standing.source.as_deref().filter(|_| standing.removed_at.is_none()) {
            *sources.entry(source).or_default() += 1;
        }
    }
    let found = problems(status.shown.iter().map(|tenant| &tenant.standing));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "as_of": status.now,
        "states": states,
        "sources": sources,
        "problems": found.iter().map(problem).collect::<Vec<_>>(),
        "credentials": status.expiries.iter().map(credential).collect::<Vec<_>>(),
        "tenants": status.shown.iter().map(|each| tenant(status, each)).collect::<Vec<_>>(),
    })
}

fn problem(problem: &Problem<'_>) -> Value {
    let names: Vec<&str> = problem.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    json!({ "owner": problem.owner, "class": problem.class, "what": problem.advice, "tenants": names })
}

fn credential(expiry: &CredentialExpiry) -> Value {
    let CredentialExpiry { credential_id, kind, expires, problem, .. } = expiry;
    json!({
        "client_id": credential_id.client_id,
        "name": credential_id.name,
        "tenant": credential_id.owner,
        "kind": kind,
        "expires": expires,
        "problem": problem,
    })
}

/// The row of the database, with what follows from it.
fn tenant(status: &FleetStatus<'_>, tenant: &TenantStatus) -> Value {
    let standing = &tenant.standing;
    let mut value = json!(tenant);
    value["state"] = State::of(standing).as_str().into();
    let action = must_act(standing).filter(|(owner, _)| *owner != "nobody");
    value["must_act"] = action
        .map(|(owner, what)| json!({ "owner": owner, "class": cause(standing), "what": what }))
        .into();
    // A time that has passed is not when the next attempt is due.
    let next_attempt = standing.next_attempt_at.filter(|time| *time > status.now);
    value["next_attempt_at"] = json!(next_attempt);
    let configured = status.configured.iter().find(|each| each.id.0 == standing.tenant_id);
    value["retirement"] = RetirementNotice::of_tenant(configured, status.now);
    value
}
