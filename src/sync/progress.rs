//! Reports how far runs have come, to an observer that the caller chooses: the daemon has none, commands draw bars.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::store::runs::Counts;

/// A step of one tenant's run.
#[derive(Debug)]
pub enum ProgressEvent<'a> {
    /// A page was read or stored.
    Counted(&'a Counts),
    /// The run waits this long for the tenant's quota.
    Waiting(Duration),
    Finished,
}

type Begin = dyn Fn(&str) -> TenantProgress + Send + Sync;
type Show = dyn Fn(&ProgressEvent<'_>) + Send + Sync;

/// Creates an observer for each tenant, by its name.
#[derive(Clone)]
pub struct Progress(Option<Arc<Begin>>);

/// Observes the run of one tenant.
#[derive(Clone)]
pub struct TenantProgress(Arc<Show>);

impl Progress {
    pub fn new(begin: impl Fn(&str) -> TenantProgress + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(begin)))
    }

    /// Discards every event.
    pub fn hidden() -> Self {
        Self(None)
    }

    pub fn tenant(&self, name: &str) -> TenantProgress {
        match &self.0 {
            Some(begin) => begin(name),
            None => TenantProgress::new(|_| {}),
        }
    }
}

impl TenantProgress {
    pub fn new(show: impl Fn(&ProgressEvent<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(show))
    }

    pub(crate) fn counted(&self, counts: &Counts) {
        (self.0)(&ProgressEvent::Counted(counts));
    }

    pub(crate) fn waiting(&self, wait: Duration) {
        (self.0)(&ProgressEvent::Waiting(wait));
    }

    pub(crate) fn finished(&self) {
        (self.0)(&ProgressEvent::Finished);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.0.is_some()).finish()
    }
}

impl fmt::Debug for TenantProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantProgress")
    }
}
