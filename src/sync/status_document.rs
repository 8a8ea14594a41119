//! The state of the fleet as one JSON object: `status --json` and `/api/status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use crate::entra::Tenant;
use crate::entra::expiry::CredentialExpiry;
use crate::error::Owner;
use crate::store::status::Standing;
use crate::sync::problems::{Problem, cause, problems};
use crate::sync::retirement::RetirementNotice;
use crate::sync::tenant_state::{State, must_act};

/// What the object is made of. `T` is a tenant's row of the database.
pub struct StatusDocument<'a, T> {
    pub now: DateTime<Utc>,
    pub fleet: Vec<&'a Standing>,
    /// The part of the fleet that was asked for.
    pub shown: Vec<(&'a Standing, &'a T)>,
    pub configured: Vec<&'a Arc<Tenant>>,
    pub expiries: &'a [CredentialExpiry],
}

impl<T: Serialize> StatusDocument<'_, T> {
    pub fn to_json(&self) -> Value {
        let mut states = BTreeMap::<&str, usize>::new();
        let mut sources = BTreeMap::<&str, usize>::new();
        for tenant in &self.fleet {
            *states.entry(State::of(tenant).as_str()).or_default() += 1;
            if let Some(source) = tenant.source.as_deref().filter(|_| tenant.removed_at.is_none()) {
                *sources.entry(source).or_default() += 1;
            }
        }
        let found = problems(self.shown.iter().map(|(standing, _)| *standing));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "as_of": self.now,
            "states": states,
            "sources": sources,
            "problems": found.iter().map(problem).collect::<Vec<_>>(),
            "credentials": self.expiries.iter().map(credential).collect::<Vec<_>>(),
            "tenants": self.shown.iter().map(|(standing, row)| self.tenant(standing, row)).collect::<Vec<_>>(),
        })
    }

    /// The row of the database, with what follows from it.
    fn tenant(&self, standing: &Standing, row: &T) -> Value {
        let mut value = json!(row);
        value["state"] = State::of(standing).as_str().into();
        let action = must_act(standing).filter(|(owner, _)| *owner != Owner::Nobody.as_str());
        value["must_act"] = action
            .map(|(owner, what)| json!({ "owner": owner, "class": cause(standing), "what": what }))
            .into();
        // A time that has passed is not when the next attempt is due.
        value["next_attempt_at"] = json!(standing.next_attempt_at.filter(|time| *time > self.now));
        let configured = self.configured.iter().find(|each| each.id.0 == standing.tenant_id);
        value["retirement"] = RetirementNotice::of_tenant(configured.copied(), self.now);
        value
    }
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
