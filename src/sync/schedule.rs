//! Cron lines become due times, and a few coarse ticks that wake the dispatcher.
//!
//! One scheduler job for each tenant loses runs (the scheduler's channel holds 200) and overlaps with itself. So the due
//! time of each tenant is a row in Postgres, and a tick only wakes the dispatcher, which reads the rows.
//!
//! The scheduler plans its ticks by the wall clock and falls silent when that is set back. The dispatcher therefore reads the
//! rows every few seconds as well, and the ticks are started again.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use croner::Cron;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::config::cron;

/// When each kind of run is due. Cron lines with seconds, in UTC.
#[derive(Debug, Clone)]
pub struct Schedule {
    poll: Cron,
    open: Cron,
    reconcile: Cron,
}

impl Schedule {
    /// Reads three cron lines, which the configuration has checked.
    pub fn new(poll: &str, open: &str, reconcile: &str) -> Result<Self, croner::errors::CronError> {
        Ok(Self {
            poll: cron::parse(poll)?,
            open: cron::parse(open)?,
            reconcile: cron::parse(reconcile)?,
        })
    }

    /// The next poll after `time`.
    pub fn next_poll(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.poll.find_next_occurrence(&time, false).ok()
    }

    /// The next reading of open incidents after `time`.
    pub fn next_open(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.open.find_next_occurrence(&time, false).ok()
    }

    /// The next reconciliation after `time`.
    pub fn next_reconcile(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.reconcile.find_next_occurrence(&time, false).ok()
    }
}

/// Starts the ticks: each wakes `wake`. They end when the scheduler is dropped or shut down.
pub async fn start_ticks(
    lines: [&str; 3],
    wake: &Arc<Notify>,
) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    for line in lines {
        let wake = Arc::clone(wake);
        scheduler.add(Job::new(line, move |_, _| wake.notify_one())?).await?;
    }
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use chrono::SubsecRound;

    use super::*;

    #[test]
    fn due_times_follow_the_lines_in_utc() {
        let schedule = Schedule::new("0 */5 * * * *", "0 20 * * * *", "0 30 3 * * *").unwrap();
        let at = DateTime::from_str("2026-11-23T10:00:00Z").unwrap();
        assert_eq!(schedule.next_poll(at), DateTime::from_str("2026-11-23T10:05:00Z").ok());
        assert_eq!(schedule.next_open(at), DateTime::from_str("2026-11-23T10:20:00Z").ok());
        assert_eq!(schedule.next_reconcile(at), DateTime::from_str("2026-11-24T03:30:00Z").ok());
        assert!(Schedule::new("every minute", "0 20 * * * *", "0 30 3 * * *").is_err());
    }

    #[test]
    fn day_and_weekday_must_both_match() {
        let schedule = Schedule::new("0 30 3 1 * MON", "0 0 0 13 * FRI", "0 0 0 * * SUN").unwrap();
        let at = DateTime::from_str("2026-11-23T10:00:00Z").unwrap();
        assert_eq!(schedule.next_poll(at), DateTime::from_str("2027-02-01T03:30:00Z").ok());
        assert_eq!(schedule.next_open(at), DateTime::from_str("2027-08-13T00:00:00Z").ok());
        assert_eq!(schedule.next_reconcile(at), DateTime::from_str("2026-11-29T00:00:00Z").ok());
    }

    #[tokio::test]
    async fn ticks_come_when_runs_are_due() {
        // The scheduler reads the clock itself. None of these lines is due more than once a day.
        // croner carries the fraction of a second over.
        let now = DateTime::<Utc>::from(std::time::SystemTime::now()).trunc_subsecs(0);
        for line in ["0 30 3 1 * MON", "0 0 0 13 * FRI", "0 0 12 * * MON-FRI", "0 0 0 29 2 *"] {
            let mut scheduler = JobScheduler::new().await.unwrap();
            let job = scheduler.add(Job::new(line, |_, _| ()).unwrap()).await.unwrap();
            scheduler.start().await.unwrap();
            let tick = scheduler.next_tick_for_job(job).await.unwrap().unwrap();
            let schedule = Schedule::new(line, line, line).unwrap();
            assert_eq!(schedule.next_poll(now), Some(tick), "{line}");
        }
    }
}
