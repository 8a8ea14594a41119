//! Waiting for a state, with a limit.

use std::time::{Duration, Instant};

/// Longer than any step takes, even beside other builds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is a value. A failure names what never came.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, look: impl AsyncFn() -> bool) {
    eventually(what, async || look().await.then_some(())).await;
}
