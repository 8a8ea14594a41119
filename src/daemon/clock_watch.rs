//! Notices a wall clock that was set: this machine's, by which the scheduler plans its ticks, or the database's, by which
//! tenants are due.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_cron_scheduler::JobScheduler;

use crate::entra::expiry;
use crate::sync::engine::SyncEngine;
use crate::sync::schedule;

const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// NTP corrects smaller differences gradually, and a look at the database's clock takes part of a second.
const STEP_MIN: TimeDelta = TimeDelta::seconds(2);
/// A look that took longer does not show what the clock was at which moment.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A clock at its last look.
#[derive(Debug, Default)]
struct WallClock {
    seen: Option<(DateTime<Utc>, Instant)>,
}

impl WallClock {
    /// By how much the clock was set since the last look.
    fn look(&mut self, shows: DateTime<Utc>, at: Instant) -> Option<TimeDelta> {
        let (shown, seen) = self.seen.replace((shows, at))?;
        let elapsed = TimeDelta::from_std(at - seen).unwrap_or(TimeDelta::MAX);
        Some(shows - shown - elapsed).filter(|step| step.abs() >= STEP_MIN)
    }
}

/// Starts the ticks again and computes due times again when a clock was set.
pub async fn watch(
    engine: Arc<SyncEngine>,
    wake: Arc<Notify>,
    lines: [String; 3],
    mut ticks: JobScheduler,
) {
    let (mut machine, mut database) = (WallClock::default(), WallClock::default());
    let mut is_outdated = false;
    let mut tick = tokio::time::interval(POLL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let of_machine = machine.look(expiry::now(), Instant::now());
        let of_database = database_clock(&engine).await.and_then(|shows| {
            let (time, at) = shows;
            database.look(time, at)
        });
        if of_machine.is_none() && of_database.is_none() && !is_outdated {
            continue;
        }
        if let Some(steps) = describe(of_machine, of_database) {
            tracing::warn!(owner = "operator", "{steps}; the schedule is computed again");
        }
        if of_machine.is_some() {
            ticks = restarted(ticks, &lines, &wake).await;
        }
        let store = &engine.services().store;
        // While the database is unreachable, due times stay as they are.
        is_outdated = engine.settings().apply_schedule(store).await.is_err();
        wake.notify_one();
    }
}

/// The time and when it was read; `None` while the database is slow or unreachable, which the dispatcher reports.
async fn database_clock(engine: &SyncEngine) -> Option<(DateTime<Utc>, Instant)> {
    let asked = Instant::now();
    let clock = engine.services().store.clock().await.ok()?;
    (asked.elapsed() < LOOK_MAX).then(|| (clock.now(), Instant::now()))
}

/// The ticks by the clock as it is now. If they do not start, the dispatcher still looks every few seconds.
async fn restarted(
    mut ticks: JobScheduler,
    lines: &[String; 3],
    wake: &Arc<Notify>,
) -> JobScheduler {
    let [poll, open, reconcile] = lines;
    match schedule::start_ticks([poll, open, reconcile], wake).await {
        Ok(started) => {
            // It ends when it is dropped, too.
            let _ = ticks.shutdown().await;
            started
        }
        Err(error) => {
            tracing::error!(owner = "developers", error = %error, "Cannot start the schedule again; runs start up to 5 s late");
            ticks
        }
    }
}

/// What was set, and by how much.
fn describe(machine: Option<TimeDelta>, database: Option<TimeDelta>) -> Option<String> {
    let by = |step: TimeDelta| {
        let direction = if step < TimeDelta::zero() { "back" } else { "forward" };
        let seconds = (step.abs() + TimeDelta::milliseconds(500)).num_seconds();
        format!("{direction} by {seconds} s")
    };
    Some(match (machine.map(by), database.map(by)) {
        (None, None) => return None,
        (Some(machine), None) => format!("The clock of this machine was set {machine}"),
        (None, Some(database)) => format!("The clock of the database was set {database}"),
        (Some(machine), Some(database)) => {
            format!("The clock of this machine was set {machine}, that of the database {database}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_is_the_difference_to_monotonic_time() {
        let mut clock = WallClock::default();
        let began: DateTime<Utc> = "2026-11-23T12:00:00Z".parse().unwrap();
        let at = Instant::now();
        let mut look = |wall: i64, monotonic: u64| {
            clock.look(began + TimeDelta::seconds(wall), at + Duration::from_secs(monotonic))
        };
        assert_eq!(look(0, 0), None);
        assert_eq!(look(5, 5), None);
        // A slow look, and a clock that is corrected gradually.
        assert_eq!(look(11, 10), None);
        assert_eq!(look(-585, 15), Some(TimeDelta::seconds(-601)));
        assert_eq!(look(-580, 20), None);
        assert_eq!(look(6_625, 25), Some(TimeDelta::seconds(7_200)));
        // A machine that slept: monotonic time stands still.
        assert_eq!(look(10_225, 25), Some(TimeDelta::seconds(3_600)));
    }

    #[test]
    fn steps_are_described_with_clock_and_direction() {
        let seconds = TimeDelta::seconds;
        assert_eq!(describe(None, None), None);
        for (machine, database, text) in [
            (Some(seconds(-600)), None, "The clock of this machine was set back by 600 s"),
            (None, Some(seconds(7_200)), "The clock of the database was set forward by 7200 s"),
            (
                Some(seconds(-600)),
                Some(seconds(-601)),
                "The clock of this machine was set back by 600 s, that of the database back by 601 s",
            ),
        ] {
            assert_eq!(describe(machine, database).as_deref(), Some(text));
        }
    }
}
