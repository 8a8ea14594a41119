//! Notifications to systemd.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinError;

use crate::sync::engine::SyncEngine;

const NOTIFY_DEADLINE: Duration = Duration::from_secs(1);

/// Whether this process is the main process of a unit with a watchdog, such as the shipped one.
pub(crate) fn is_supervised() -> bool {
    sd_notify::watchdog_enabled().is_some()
}

/// Sets the text that `systemctl status` shows.
pub(crate) async fn show_status(text: String) {
    notify(move || sd_notify::notify(&[NotifyState::Status(&text)])).await;
}

/// Feeds the watchdog of systemd, which restarts the service when the runtime hangs or the dispatcher makes no progress.
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
                "The dispatcher makes no progress; systemd restarts the service unless it recovers"
            );
        }
        was_fresh = is_fresh;
        if !is_fresh {
            continue;
        }
        // One notification at a time; nothing waits for it.
        log_failure(
            tokio::task::spawn_blocking(|| sd_notify::notify(&[NotifyState::Watchdog])).await,
        );
    }
}

/// Notifies systemd, if present. Sending blocks while systemd does not read, which must not block the runtime.
pub(crate) async fn notify(send: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    if let Ok(result) =
        tokio::time::timeout(NOTIFY_DEADLINE, tokio::task::spawn_blocking(send)).await
    {
        log_failure(result);
    }
}

fn log_failure(result: Result<std::io::Result<()>, JoinError>) {
    if let Ok(Err(error)) = result {
        tracing::debug!(error = %error, "Cannot notify systemd");
    }
}
