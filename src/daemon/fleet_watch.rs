//! Looks at all tenants twice a minute: for `systemctl status`, for the metric of their states, and so that the status page
//! knows the last state when the database goes away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::daemon::http::status_page::StatusPage;
use crate::daemon::systemd::show_status;
use crate::sync::engine::SyncEngine;
use crate::sync::tenant_state::State;

const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// After a start the states change quickly.
const FIRST_INTERVALS: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];

pub async fn watch(engine: Arc<SyncEngine>, page: Arc<StatusPage>) {
    let mut intervals = FIRST_INTERVALS.into_iter();
    loop {
        let status = match page.refresh().await {
            Ok(states) => {
                for (state, count) in &states {
                    metrics::gauge!("incident_sync_tenants", "state" => state.as_str())
                        .set(*count as f64);
                }
                summary(&states)
            }
            Err(_) => {
                let tenants = engine.settings().tenants.len();
                format!("The database does not answer; {tenants} tenants configured")
            }
        };
        show_status(status).await;
        tokio::time::sleep(intervals.next().unwrap_or(POLL_INTERVAL)).await;
    }
}

/// Such as "200 tenants: 2 parked, 198 ok".
fn summary(states: &BTreeMap<State, usize>) -> String {
    let counts: Vec<String> = states
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(state, count)| format!("{count} {}", state.as_str()))
        .collect();
    let tenants: usize = states.values().sum();
    if counts.is_empty() {
        "0 tenants".to_owned()
    } else {
        format!("{tenants} tenants: {}", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lists_worst_state_first() {
        let states = State::ALL.map(|state| (state, usize::from(state == State::Ok) * 198));
        let mut states: BTreeMap<State, usize> = states.into_iter().collect();
        states.insert(State::Parked, 2);
        assert_eq!(summary(&states), "200 tenants: 2 parked, 198 ok");
        assert_eq!(summary(&BTreeMap::new()), "0 tenants");
    }
}
