//! Progress bars on standard error, if it is a terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::store::runs::Counts;
use crate::sync::progress::{Progress, ProgressEvent, TenantProgress};

/// One line for each running tenant, and one for the total.
#[derive(Debug, Clone)]
pub(crate) struct ProgressBars {
    lines: MultiProgress,
    total: ProgressBar,
}

impl ProgressBars {
    pub(crate) fn new(tenants: usize) -> Self {
        let lines = MultiProgress::new();
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} tenants, {elapsed} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let total = lines.add(ProgressBar::new(tenants as u64).with_style(style));
        Self { lines, total }
    }

    /// Adds a line for each tenant that starts and removes it when the tenant has finished.
    pub(crate) fn observer(&self) -> Progress {
        let bars = self.clone();
        Progress::new(move |name| bars.tenant(name))
    }

    pub(crate) fn clear(&self) {
        self.total.finish_and_clear();
    }

    fn tenant(&self, name: &str) -> TenantProgress {
        let style = ProgressStyle::with_template("{spinner} {prefix:24!} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let spinner = ProgressBar::new_spinner().with_style(style).with_prefix(name.to_owned());
        let line = self.lines.insert_before(&self.total, spinner);
        let total = self.total.clone();
        TenantProgress::new(move |event| show(event, &line, &total))
    }
}

fn show(event: &ProgressEvent<'_>, line: &ProgressBar, total: &ProgressBar) {
    match event {
        ProgressEvent::Counted(counts) => {
            let Counts { api_calls, incidents_seen, incidents_written, .. } = counts;
            line.set_message(format!(
                "{api_calls} pages, {incidents_seen} incidents, {incidents_written} written"
            ));
            line.tick();
        }
        ProgressEvent::Waiting(wait) => {
            line.set_message(format!("waiting {:.1} s for quota", wait.as_secs_f64()));
            line.tick();
        }
        ProgressEvent::Finished => {
            line.finish_and_clear();
            total.inc(1);
        }
    }
}
