//! The problems of a fleet: tenants that share a cause stand together, so that `status` and the status page name each cause once.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::error::Owner;
use crate::store::status::Standing;
use crate::sync::tenant_state::{State, must_act};

/// A shorter common text says too little; the first tenant's text stands for it.
const SHORTEST_ADVICE: usize = 20;

/// A cause, and the tenants that it affects.
#[derive(Debug)]
pub struct Problem<'a> {
    /// The worst state of the tenants.
    pub state: State,
    pub owner: &'a str,
    /// The class of the error, or what else is wrong.
    pub class: &'a str,
    /// What failed and what to do, without what differs between the tenants.
    pub advice: String,
    /// Worst state first, then the oldest data.
    pub tenants: Vec<&'a Standing>,
}

impl Problem<'_> {
    /// Whether it ends without an action.
    pub fn recovers(&self) -> bool {
        self.owner == Owner::Nobody.as_str()
    }

    /// Whether the owner is the customer, so that each tenant is a task of its own.
    pub fn is_of_customers(&self) -> bool {
        self.owner == Owner::CustomerAdmin.as_str()
    }
}

/// The problems: first those that need an action, the operator's before the customers', and among these the worst and most shared.
pub fn problems<'a>(tenants: impl IntoIterator<Item = &'a Standing>) -> Vec<Problem<'a>> {
    let mut causes = BTreeMap::<(&str, &str), Vec<&Standing>>::new();
    for tenant in tenants {
        if let Some((owner, _)) = must_act(tenant) {
            causes.entry((owner, cause(tenant))).or_default().push(tenant);
        }
    }
    let mut problems: Vec<Problem<'a>> = causes
        .into_iter()
        .map(|((owner, class), mut tenants)| {
            tenants.sort_by(|left, right| worst_first(left, right));
            let state = State::of(tenants[0]);
            Problem { state, owner, class, advice: shared_advice(&tenants), tenants }
        })
        .collect();
    problems.sort_by_key(|problem| {
        let customers_last = problem.is_of_customers();
        (problem.recovers(), customers_last, problem.state, Reverse(problem.tenants.len()))
    });
    problems
}

/// By state, then the oldest data, then the name.
pub fn worst_first(left: &Standing, right: &Standing) -> std::cmp::Ordering {
    let age = |tenant: &Standing| tenant.freshness_seconds.unwrap_or(f64::INFINITY);
    State::of(left)
        .cmp(&State::of(right))
        .then_with(|| age(right).total_cmp(&age(left)))
        .then_with(|| left.name.cmp(&right.name))
        .then_with(|| left.tenant_id.cmp(&right.tenant_id))
}

/// The class of the last error, or what is wrong without one.
pub fn cause(tenant: &Standing) -> &str {
    match State::of(tenant) {
        State::Parked | State::Failing => tenant.error_class.as_deref().unwrap_or("unknown"),
        State::Missing => "missing_tenant",
        State::NeverRun => "never_run",
        State::Stale if tenant.is_watermark_ahead => "watermark_in_future",
        State::Stale => "poll_overdue",
        _ if tenant.gaps > 0 => "gaps",
        _ => "quarantine",
    }
}

/// What the texts of the tenants have in common: trace ids and the like differ. Parentheses that the cut leaves open are closed.
fn shared_advice(tenants: &[&Standing]) -> String {
    let mut texts = tenants.iter().filter_map(|tenant| Some(must_act(tenant)?.1));
    let first = texts.next().unwrap_or_default();
    let shared = texts.fold(first, |shared, text| &shared[..common_prefix(shared, text)]);
    if shared.len() == first.len() {
        return first.to_owned();
    }
    let end = shared.rfind(" (").or_else(|| shared.rfind(' ')).unwrap_or_default();
    let shared = shared[..end].trim_end_matches([' ', ',', ';', ':']);
    if shared.len() < SHORTEST_ADVICE {
        return first.to_owned();
    }
    let open = shared.matches('(').count().saturating_sub(shared.matches(')').count());
    format!("{shared}{}", ")".repeat(open))
}

/// The length of the common beginning, in bytes.
fn common_prefix(left: &str, right: &str) -> usize {
    let differ = left.char_indices().zip(right.chars()).find(|((_, a), b)| a != b);
    differ.map_or(left.len().min(right.len()), |((at, _), _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(name: &str, class: &str, owner: &str, text: &str) -> Standing {
        Standing {
            name: name.to_owned(),
            enabled: true,
            consecutive_failures: Some(1),
            parked_reason: Some(class.to_owned()),
            error_class: Some(class.to_owned()),
            error_message: Some(text.to_owned()),
            who_must_act: Some(owner.to_owned()),
            ..Standing::default()
        }
    }

    fn consent(name: &str, trace: &str) -> Standing {
        let text = format!("Consent is missing (Entra answered AADSTS65001 (trace id {trace}))");
        parked(name, "consent_missing", "customer_admin", &text)
    }

    #[test]
    fn tenants_of_one_cause_form_one_problem() {
        let fleet = [
            consent("b", "0000aaaa"),
            parked("c", "credential_refused", "operator", "Entra refuses the secret"),
            consent("a", "0000bbbb"),
            parked("d", "credential_refused", "operator", "Entra refuses the secret"),
            parked("e", "throttled", "nobody", "Microsoft requested a pause"),
            Standing {
                enabled: true,
                consecutive_failures: Some(0),
                backfilled_at: Some(chrono::DateTime::UNIX_EPOCH),
                ..Standing::default()
            },
        ];
        let found = problems(&fleet);
        let names = |problem: &Problem| {
            problem.tenants.iter().map(|tenant| tenant.name.clone()).collect::<Vec<_>>().join(" ")
        };
        let shown: Vec<_> =
            found.iter().map(|each| (each.class, each.owner, names(each))).collect();
        assert_eq!(
            shown,
            [
                ("credential_refused", "operator", "c d".to_owned()),
                ("consent_missing", "customer_admin", "a b".to_owned()),
                ("throttled", "nobody", "e".to_owned()),
            ]
        );
        assert_eq!(found[1].advice, "Consent is missing (Entra answered AADSTS65001)");
        assert!(found[2].recovers() && !found[0].recovers());
    }

    #[test]
    fn advice_without_common_beginning_is_the_first() {
        let one = parked("a", "x", "operator", "First text of all");
        let other = parked("b", "x", "operator", "Another text");
        assert_eq!(problems([&one, &other])[0].advice, "First text of all");
        let long = parked("a", "x", "operator", "The same long beginning of both: ü1");
        let both = parked("b", "x", "operator", "The same long beginning of both: ö2");
        assert_eq!(problems([&long, &both])[0].advice, "The same long beginning of both");
    }
}
