//! What systemd is told of us.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinError;

use crate::sync::engine::SyncEngine;
use crate::tenant::Tenant;

const NOTIFY_DEADLINE: Duration = Duration::from_secs(1);

/// What `systemctl status` shows.
pub(crate) fn status_line(tenants: &[Arc<Tenant>]) -> String {
    format!("synchronising {} tenants", tenants.iter().filter(|tenant| tenant.enabled).count())
}

/// systemd restarts us when this stops: when the runtime hangs, and when the dispatcher makes no progress.
pub(crate) async fn feed_watchdog(engine: Arc<SyncEngine>) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval(period / 2);
    let mut was_fresh = true;
    loop {
        tick.tick().await;
        let is_fresh = engine.beat().is_fresh();
        if was_fresh && !is_fresh {
            tracing::error!(
                owner = "developers",
                "the dispatcher makes no progress; the watchdog of systemd is not fed until it does, and will restart the service"
            );
        }
        was_fresh = is_fresh;
        if !is_fresh {
            continue;
        }
        // One at a time, however long it takes: nobody waits for it.
        told(tokio::task::spawn_blocking(|| sd_notify::notify(&[NotifyState::Watchdog])).await);
    }
}

/// Tells systemd, where there is one. Sending blocks while it does not listen: that must not stop the runtime, nor us for
/// long.
pub(crate) async fn notify(tell: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    if let Ok(result) =
        tokio::time::timeout(NOTIFY_DEADLINE, tokio::task::spawn_blocking(tell)).await
    {
        told(result);
    }
}

fn told(result: Result<std::io::Result<()>, JoinError>) {
    if let Ok(Err(error)) = result {
        tracing::debug!(error = %error, "systemd was not told");
    }
}
