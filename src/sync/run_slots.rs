//! Limits the runs in progress. A run that waits for its peer or for the end of a pause takes no slot: hanging, slow and
//! throttled tenants do not delay other tenants.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A run that waits longer than this for a page frees its slot; most pages take a tenth of it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Limit of runs in progress, waiting ones included, as a multiple of the configured concurrency: sockets and leases have
/// limits.
const WAITING_FACTOR: usize = 4;

/// The runs of this process that wait.
#[derive(Debug, Default)]
pub struct RunSlots {
    waiting: AtomicUsize,
    released: Notify,
}

impl RunSlots {
    /// Does `work`; if it takes long, another run may start meanwhile.
    pub async fn release_while<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
            return done;
        }
        let _waits = WaitingGuard::begin(self);
        work.await
    }

    /// How many runs may start if `concurrency` are configured and `in_flight` have not ended.
    pub fn free(&self, concurrency: usize, in_flight: usize) -> usize {
        let working = in_flight.saturating_sub(self.waiting.load(Ordering::Relaxed));
        let most = (concurrency * WAITING_FACTOR).saturating_sub(in_flight);
        concurrency.saturating_sub(working).min(most)
    }

    /// Returns when a run has started to wait.
    pub async fn released(&self) {
        self.released.notified().await;
    }
}

/// Counts a run as waiting until this is dropped, also if the run is cancelled.
struct WaitingGuard<'a>(&'a RunSlots);

impl<'a> WaitingGuard<'a> {
    fn begin(slots: &'a RunSlots) -> Self {
        slots.waiting.fetch_add(1, Ordering::Relaxed);
        slots.released.notify_one();
        Self(slots)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn released_slot_is_free_until_the_wait_ends() {
        let slots = RunSlots::default();
        assert_eq!((slots.free(3, 0), slots.free(3, 2), slots.free(3, 3)), (3, 1, 0));
        slots.release_while(std::future::ready(())).await;
        assert_eq!(slots.free(3, 3), 0);
        let looked = Notify::new();
        let look = async {
            slots.released().await;
            assert_eq!((slots.free(3, 3), slots.free(3, 12)), (1, 0));
            looked.notify_one();
        };
        tokio::join!(slots.release_while(looked.notified()), look);
        assert_eq!(slots.free(3, 3), 0);
    }
}
