//! The only place that waits after a failure. The diagnosis decides what is retried and when.

use std::time::Duration;

use backon::{ConstantBuilder, ExponentialBuilder, Retryable};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorClass, Retry, SyncError};

/// A longer announced pause ends the run, so that another tenant can use its slot.
const LONGEST_PAUSE_WITHIN_A_RUN: Duration = Duration::from_secs(30);

/// How temporary failures are retried within a run.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The first pause; doubled each time, with jitter.
    pub first_pause: Duration,
    /// Tries after the first.
    pub retries: usize,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first_pause: Duration::from_secs(1), retries: 3 }
    }
}

/// Does `work` until it succeeds, fails for longer than a run may wait, or `stop` fires.
pub async fn with_retries<T, F>(
    retry_policy: RetryPolicy,
    stop: &CancellationToken,
    work: impl FnMut() -> F,
) -> Result<T, SyncError>
where
    F: Future<Output = Result<T, SyncError>>,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(retry_policy.first_pause)
        .with_max_times(retry_policy.retries)
        .with_jitter();
    let attempts = work
        .retry(backoff)
        .when(|error| is_retried_within_run(error) && !stop.is_cancelled())
        .adjust(|error, pause| match (error.diagnosis().retry, pause) {
            (Retry::After(asked), Some(pause)) => Some(pause.max(asked)),
            (_, pause) => pause,
        });
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(SyncError::Stopped),
        result = attempts => result,
    }
}

/// Does work that must not be omitted until it succeeds or its time is over; once only while the process stops, or if Postgres
/// can never run the statement. The first failure is logged, because the last one may be a minute later.
pub async fn retry_until<F>(
    what: &str,
    patience: Duration,
    stop: &CancellationToken,
    work: impl FnMut() -> F,
) -> Result<(), SyncError>
where
    F: Future<Output = Result<(), SyncError>>,
{
    let began = Instant::now();
    let mut is_logged = false;
    let log = |error: &SyncError, _| {
        if !std::mem::replace(&mut is_logged, true) {
            let diagnosis = error.diagnosis();
            tracing::warn!(error = %error, class = diagnosis.class.as_str(), owner = diagnosis.owner.as_str(), advice = &*diagnosis.advice, "{what}: waiting for the database");
        }
    };
    let backoff = ConstantBuilder::default().with_delay(Duration::from_secs(2)).without_max_times();
    work.retry(backoff)
        .when(|error| {
            let is_permanent = error.diagnosis().class == ErrorClass::DatabaseStatement;
            !is_permanent && began.elapsed() < patience && !stop.is_cancelled()
        })
        .notify(log)
        .await
}

/// Does `work` until it succeeds, fails with an error that is not `transient`, or `patience` is over. A requested pause is
/// waited for within `patience`.
pub async fn retry_within<T, F>(
    patience: Duration,
    stop: &CancellationToken,
    transient: impl Fn(&SyncError) -> bool,
    work: impl FnMut() -> F,
) -> Result<T, SyncError>
where
    F: Future<Output = Result<T, SyncError>>,
{
    let began = Instant::now();
    let attempts = work
        .retry(slow_backoff())
        .when(|error| began.elapsed() < patience && transient(error))
        .adjust(|error, pause| match (error.diagnosis().retry, pause) {
            (Retry::After(asked), Some(pause)) => {
                Some(pause.max(asked.min(patience.saturating_sub(began.elapsed()))))
            }
            (_, pause) => pause,
        });
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(SyncError::Stopped),
        result = attempts => result,
    }
}

/// Entra treats fifteen identical token requests within five minutes as a loop (AADSTS50196).
fn slow_backoff() -> ExponentialBuilder {
    let builder = ExponentialBuilder::default().with_min_delay(Duration::from_secs(2));
    builder.with_max_delay(Duration::from_secs(30)).without_max_times()
}

pub(crate) fn is_retried_within_run(error: &SyncError) -> bool {
    match error.diagnosis().retry {
        Retry::Now => true,
        Retry::After(pause) => pause <= LONGEST_PAUSE_WITHIN_A_RUN,
        Retry::WithNewToken | Retry::NextRun | Retry::OnceFixed => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Peer;

    const POLICY: RetryPolicy = RetryPolicy { first_pause: Duration::from_nanos(1), retries: 3 };

    async fn tries(error: SyncError) -> usize {
        let count = AtomicUsize::new(0);
        let work = || {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err::<(), _>(error.clone()))
        };
        assert!(with_retries(POLICY, &CancellationToken::new(), work).await.is_err());
        count.into_inner()
    }

    #[tokio::test]
    async fn only_transient_errors_are_retried_within_run() {
        let api = |status, seconds: Option<u64>| {
            SyncError::of_status(status, seconds.map(Duration::from_secs))
        };
        assert_eq!(
            tries(SyncError::Transport { peer: Peer::Entra, what: String::new(), fault: None })
                .await,
            4
        );
        let database = |sqlstate: &str| SyncError::Database {
            step: "writing a page",
            sqlstate: Some(sqlstate.to_owned()),
            what: String::new(),
            fault: None,
        };
        assert_eq!(tries(database("57P01")).await, 4);
        // A row too large for Postgres does not get smaller.
        assert_eq!(tries(database("54000")).await, 1);
        assert_eq!(tries(api(500, None)).await, 4);
        assert_eq!(tries(api(429, Some(0))).await, 4);
        assert_eq!(tries(api(429, Some(31))).await, 1);
        assert_eq!(tries(api(429, None)).await, 1);
        assert_eq!(tries(api(400, None)).await, 1);
        assert_eq!(tries(api(403, None)).await, 1);
    }

    #[test]
    fn slow_backoff_tries_14_times_in_five_minutes() {
        let mut asked_at = Duration::ZERO;
        let pauses = backon::BackoffBuilder::build(slow_backoff());
        let within = pauses.take_while(|pause| {
            asked_at += *pause;
            asked_at <= Duration::from_secs(300)
        });
        assert_eq!(1 + within.count(), 14);
    }

    #[tokio::test]
    async fn pause_within_patience_is_waited_out() {
        let began = Instant::now();
        let throttled = || SyncError::Entra {
            status: 429,
            error: String::new(),
            codes: vec![],
            retry_after: Some(Duration::from_secs(3)),
            details: Box::default(),
        };
        let count = AtomicUsize::new(0);
        let work = || {
            let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
            std::future::ready(if is_first { Err(throttled()) } else { Ok(()) })
        };
        retry_within(Duration::from_secs(60), &CancellationToken::new(), |_| true, work)
            .await
            .unwrap();
        assert!(
            began.elapsed() >= Duration::from_secs(3) && count.into_inner() == 2,
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test]
    async fn stop_ends_the_retries() {
        let stop = CancellationToken::new();
        stop.cancel();
        let result = with_retries(RetryPolicy::default(), &stop, || {
            std::future::ready(Err::<(), _>(SyncError::LeaseLost))
        })
        .await;
        assert!(matches!(result, Err(SyncError::Stopped)));
    }
}
