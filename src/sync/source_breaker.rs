//! The circuit breaker of an API: where it refuses every tenant, the API has ended, and not the consent of each customer.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::API_PROBE;
use crate::tenant::TenantId;

/// Refusals further apart have no common cause.
const WINDOW: Duration = Duration::from_secs(600);
/// Fewer tenants are no evidence: one of them may be its customer's matter, and the other one too.
const TENANTS_MIN: usize = 3;
/// Of the tenants tried since the first refusal. Below 100, because an API may end in one region after the other.
const REFUSED_PERCENT_MIN: usize = 90;

/// Whose matter a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The customer's: the API serves others, or the tenant was refused before.
    Tenant,
    /// No other tenant has shown yet whether the API serves it.
    Undecided,
    /// The API's.
    Retired {
        /// Whether this refusal decided it.
        is_new: bool,
    },
}

/// What one API answered, by tenant.
#[derive(Debug, Default)]
pub(super) struct SourceBreaker {
    /// Tenants that were served and then refused.
    refused: HashMap<TenantId, Refusal>,
    /// When the last run that succeeded began, of each other tenant.
    served: HashMap<TenantId, Instant>,
    /// Set while the API seems retired.
    retired: Option<Retired>,
}

#[derive(Debug)]
struct Refusal {
    since: Instant,
    last: Instant,
}

#[derive(Debug)]
struct Retired {
    /// `None` allows a probe immediately.
    last_probe: Option<Instant>,
}

impl SourceBreaker {
    /// Whether a tenant may be read; while the API seems retired, one run per interval.
    pub(super) fn permits_run(&mut self, now: Instant) -> bool {
        let Some(retired) = &mut self.retired else { return true };
        let is_due = retired.last_probe.is_none_or(|last| now - last >= API_PROBE);
        if is_due {
            retired.last_probe = Some(now);
        }
        is_due
    }

    /// Permits an immediate probe.
    pub(super) fn probe_now(&mut self) {
        if let Some(retired) = &mut self.retired {
            retired.last_probe = None;
        }
    }

    /// Continues after a restart with the tenants that the API refused before it. Returns whether they are enough.
    pub(super) fn resume(&mut self, tenants: usize) -> bool {
        let is_new = tenants >= TENANTS_MIN && self.retired.is_none();
        if is_new {
            self.retired = Some(Retired { last_probe: None });
        }
        is_new
    }

    /// Returns whether the API seemed retired until now. A run that began before a refusal proves nothing against it.
    pub(super) fn record_success(&mut self, tenant: TenantId, started: Instant) -> bool {
        self.served.insert(tenant, started);
        self.refused.remove(&tenant);
        let was_retired = self.retired.take().is_some();
        if was_retired {
            self.refused.clear();
        }
        was_retired
    }

    /// Judges a refusal. `was_served` is what the database knows about the tenant; `tenants` are read from this API in all.
    pub(super) fn record_refusal(
        &mut self,
        tenant: TenantId,
        was_served: bool,
        tenants: usize,
        now: Instant,
    ) -> Verdict {
        if self.retired.is_some() {
            return Verdict::Retired { is_new: false };
        }
        self.refused.retain(|_, refusal| now - refusal.since < WINDOW);
        let was_served = self.served.remove(&tenant).is_some() || was_served;
        if !was_served && !self.refused.contains_key(&tenant) {
            return Verdict::Tenant;
        }
        let refusal = self.refused.entry(tenant).or_insert(Refusal { since: now, last: now });
        refusal.last = now;
        if !self.is_most_refused() || tenants < TENANTS_MIN {
            return Verdict::Tenant;
        }
        if !self.are_last_answers_refusals() {
            return Verdict::Undecided;
        }
        self.retired = Some(Retired { last_probe: Some(now) });
        Verdict::Retired { is_new: true }
    }

    /// The tenants whose refusals have decided.
    pub(super) fn refused(&self) -> impl Iterator<Item = TenantId> {
        self.refused.keys().copied()
    }

    /// Of the tenants tried since the first refusal.
    fn is_most_refused(&self) -> bool {
        let refused = self.refused.len();
        let Some(since) = self.refused.values().map(|refusal| refusal.since).min() else {
            return false;
        };
        let served = self.served.values().filter(|at| **at >= since).count();
        refused * 100 >= (refused + served) * REFUSED_PERCENT_MIN
    }

    /// Whether enough tenants were refused since the last success.
    fn are_last_answers_refusals(&self) -> bool {
        let last_success = self.served.values().max();
        let later = self.refused.values().filter(|refusal| Some(&refusal.last) > last_success);
        later.count() >= TENANTS_MIN
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn id(number: u128) -> TenantId {
        TenantId(Uuid::from_u128(number))
    }

    /// Twenty tenants that were served at this time.
    fn served(at: Instant) -> SourceBreaker {
        let mut breaker = SourceBreaker::default();
        for number in 1..=20 {
            assert!(!breaker.record_success(id(number), at));
        }
        breaker
    }

    fn refuse(breaker: &mut SourceBreaker, number: u128, now: Instant) -> Verdict {
        breaker.record_refusal(id(number), false, 20, now)
    }

    #[test]
    fn third_new_refusal_without_success_is_retirement() {
        let began = Instant::now();
        let mut breaker = served(began);
        let now = began + 5 * MINUTE;
        assert_eq!(refuse(&mut breaker, 1, now), Verdict::Undecided);
        assert_eq!(refuse(&mut breaker, 1, now + MINUTE), Verdict::Undecided, "one tenant");
        assert_eq!(refuse(&mut breaker, 2, now + MINUTE), Verdict::Undecided);
        assert_eq!(refuse(&mut breaker, 3, now + MINUTE), Verdict::Retired { is_new: true });
        assert_eq!(refuse(&mut breaker, 4, now + MINUTE), Verdict::Retired { is_new: false });
        assert_eq!(breaker.refused().count(), 3);
    }

    #[test]
    fn refusal_beside_successes_is_the_tenants() {
        let began = Instant::now();
        let mut breaker = served(began);
        assert_eq!(refuse(&mut breaker, 1, began + MINUTE), Verdict::Undecided);
        breaker.record_success(id(2), began + MINUTE);
        for number in 3..=8 {
            let verdict = refuse(&mut breaker, number, began + 2 * MINUTE);
            assert_eq!(verdict, Verdict::Tenant, "{number}");
        }
        assert_eq!(refuse(&mut breaker, 1, began + 2 * MINUTE), Verdict::Tenant);
    }

    #[test]
    fn nine_of_ten_refused_are_retirement() {
        let began = Instant::now();
        let mut breaker = served(began);
        refuse(&mut breaker, 1, began + MINUTE);
        breaker.record_success(id(20), began + MINUTE);
        let verdicts: Vec<Verdict> =
            (2..=9).map(|number| refuse(&mut breaker, number, began + 2 * MINUTE)).collect();
        let (last, before) = verdicts.split_last().unwrap();
        assert_eq!(*last, Verdict::Retired { is_new: true });
        assert!(before.iter().all(|verdict| *verdict == Verdict::Tenant), "{before:?}");
    }

    #[test]
    fn success_after_refusals_delays_the_verdict() {
        let began = Instant::now();
        let mut breaker = SourceBreaker::default();
        for number in 1..=40 {
            breaker.record_success(id(number), began);
        }
        for number in 1..=2 {
            assert_eq!(refuse(&mut breaker, number, began + MINUTE), Verdict::Undecided);
        }
        // Ten percent are not reached, but the API serves a tenant after most refusals.
        for number in 3..=20 {
            breaker
                .refused
                .insert(id(number), Refusal { since: began + MINUTE, last: began + MINUTE });
        }
        breaker.record_success(id(40), began + 2 * MINUTE);
        assert_eq!(refuse(&mut breaker, 21, began + 3 * MINUTE), Verdict::Undecided);
    }

    #[test]
    fn old_refusals_and_known_ones_do_not_count() {
        let began = Instant::now();
        let mut breaker = served(began);
        for (number, minute) in [(1, 1), (2, 7), (3, 13), (4, 19)] {
            assert_eq!(refuse(&mut breaker, number, began + minute * MINUTE), Verdict::Undecided);
        }
        // After the window the refusal is the tenant's.
        assert_eq!(refuse(&mut breaker, 1, began + 20 * MINUTE), Verdict::Tenant);
        let mut breaker = SourceBreaker::default();
        for number in 1..=9 {
            let verdict = breaker.record_refusal(id(number), false, 20, began);
            assert_eq!(verdict, Verdict::Tenant, "{number} was refused before the start");
        }
        for (number, expected) in [
            (1, Verdict::Undecided),
            (2, Verdict::Undecided),
            (3, Verdict::Retired { is_new: true }),
        ] {
            assert_eq!(breaker.record_refusal(id(number), true, 20, began), expected);
        }
    }

    #[test]
    fn two_tenants_are_never_retirement() {
        let began = Instant::now();
        let mut breaker = SourceBreaker::default();
        for number in [1, 2, 1, 2] {
            assert_eq!(breaker.record_refusal(id(number), true, 2, began), Verdict::Tenant);
        }
    }

    #[test]
    fn retired_api_is_probed_three_times_an_hour() {
        let began = Instant::now();
        let mut breaker = SourceBreaker::default();
        assert!(breaker.permits_run(began));
        assert!(breaker.resume(3) && !breaker.resume(3));
        let permitted = |breaker: &mut SourceBreaker, from: u32| {
            (from..from + 60).filter(|minute| breaker.permits_run(began + *minute * MINUTE)).count()
        };
        assert_eq!(permitted(&mut breaker, 0), 3);
        breaker.probe_now();
        assert_eq!(permitted(&mut breaker, 41), 3, "a request of an operator counts");
        assert!(breaker.record_success(id(1), began) && breaker.permits_run(began));
        assert!(!breaker.resume(2));
    }
}
