//! Progress on a terminal; nothing where standard error is none.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::store::runs::Counts;

/// The lines of all tenants and the total.
#[derive(Debug, Clone)]
pub struct Progress {
    lines: MultiProgress,
    total: ProgressBar,
}

/// The line of one tenant.
#[derive(Debug, Clone)]
pub struct TenantProgress {
    line: ProgressBar,
    total: ProgressBar,
}

impl Progress {
    /// Shows `tenants` tenants on standard error, if it is a terminal.
    pub fn on_terminal(tenants: usize) -> Self {
        let lines = MultiProgress::new();
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} tenants, {elapsed} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let total = lines.add(ProgressBar::new(tenants as u64).with_style(style));
        Self { lines, total }
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self { total: lines.add(ProgressBar::hidden()), lines }
    }

    /// Begins a tenant's line.
    pub fn tenant(&self, name: &str) -> TenantProgress {
        let style = ProgressStyle::with_template("{spinner} {prefix:24!} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let line = self.lines.insert_before(
            &self.total,
            ProgressBar::new_spinner().with_style(style).with_prefix(name.to_owned()),
        );
        TenantProgress { line, total: self.total.clone() }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        self.total.finish_and_clear();
    }
}

impl TenantProgress {
    pub(crate) fn counted(&self, counts: &Counts) {
        let Counts { api_calls, incidents_seen, incidents_written, .. } = counts;
        self.line.set_message(format!(
            "{api_calls} pages, {incidents_seen} incidents, {incidents_written} written"
        ));
        self.line.tick();
    }

    pub(crate) fn waiting(&self, wait: Duration) {
        self.line.set_message(format!("waiting {:.1} s for quota", wait.as_secs_f64()));
        self.line.tick();
    }

    pub(crate) fn finished(&self) {
        self.line.finish_and_clear();
        self.total.inc(1);
    }
}
