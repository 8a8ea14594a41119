//! Logs once a day that tenants use an API whose end is announced.

use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDate;

use crate::entra::expiry::now;
use crate::sync::engine::SyncEngine;
use crate::sync::retirement::{self, RetirementNotice};

/// The day changes between two ticks.
const POLL_INTERVAL: Duration = Duration::from_secs(3600);

pub async fn watch(engine: Arc<SyncEngine>) {
    let mut logged: Option<NaiveDate> = None;
    let mut tick = tokio::time::interval(POLL_INTERVAL);
    loop {
        tick.tick().await;
        let now = now();
        if logged == Some(now.date_naive()) {
            continue;
        }
        let Some(notice) = RetirementNotice::of(engine.settings().tenants.values(), now) else {
            continue;
        };
        logged = Some(now.date_naive());
        tracing::warn!(
            owner = "operator",
            source = retirement::source().as_str(),
            tenants = notice.tenants,
            days = notice.days_left,
            "{}",
            notice.describe()
        );
    }
}
