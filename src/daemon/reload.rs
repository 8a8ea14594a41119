//! Applies a changed configuration while the daemon runs: all of it at SIGHUP, `tenants_dir` automatically.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::{self, Config, ConfigError, ConfigErrors, Fingerprint, MainFile, TenantsDir};
use crate::context;
use crate::daemon::systemd::notify;
use crate::sync::engine::{ReloadTrigger, SyncEngine};
use crate::tenant::TenantId;

/// A change is applied when the directory has not changed for this long: files may arrive one by one or half written.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause between attempts to apply a partly invalid configuration. Attempts are repeated because a secret may
/// arrive after the file that names it.
const NEXT_ATTEMPT_MAX: Duration = Duration::from_secs(60);
/// Reading from a remote file system must not delay a stop or the next poll.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Reloads the configuration on request and when `tenants_dir` changes.
#[derive(Debug)]
pub struct Reloader {
    engine: Arc<SyncEngine>,
    file: Option<PathBuf>,
    wake: Arc<Notify>,
    /// The main file as of the last requested reload.
    main: MainFile,
    dir: Option<TenantsDir>,
    /// The directory when a change was last applied.
    applied: Option<Fingerprint>,
    /// The directory at the last attempt.
    attempted: Option<Fingerprint>,
    next_attempt: Option<NextAttempt>,
    /// The errors that were logged; the same ones are not logged again.
    logged_errors: Vec<ConfigError>,
    reading: Option<JoinHandle<Result<Config, ConfigErrors>>>,
}

#[derive(Debug, Clone, Copy)]
struct NextAttempt {
    scope: ReloadScope,
    at: Instant,
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadScope {
    /// Everything, on request.
    All,
    /// The files of `tenants_dir`.
    TenantsDir,
}

enum ReloadOutcome {
    Complete,
    /// Applied except for invalid files.
    Partial,
    /// The previous configuration stays; a retry may succeed.
    RetryLater,
    /// The previous configuration stays until the next request.
    Rejected,
}

impl Reloader {
    /// `config` is the active configuration.
    pub fn new(
        engine: Arc<SyncEngine>,
        file: Option<PathBuf>,
        wake: Arc<Notify>,
        config: &Config,
    ) -> Self {
        let dir = config.tenants_dir.clone();
        let applied = dir.as_ref().and_then(|dir| dir.as_read.clone());
        let mut reloader = Self {
            engine,
            file,
            wake,
            main: config.main.clone(),
            dir,
            attempted: applied.clone(),
            applied,
            next_attempt: None,
            logged_errors: Vec::new(),
            reading: None,
        };
        if !config.tenants_dir_errors.is_empty() {
            reloader.schedule_attempt(ReloadScope::TenantsDir);
        }
        set_rejected_files_gauge(&config.tenants_dir_errors);
        reloader.log_new_errors(
            &config.tenants_dir_errors,
            "Ignoring an invalid file in tenants_dir; its tenant is not synced until the file is valid",
        );
        reloader
    }

    pub async fn watch(mut self, mut hangup: Signal) {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = self.attempted.clone();
        loop {
            let is_requested = tokio::select! {
                hangup = hangup.recv() => match hangup {
                    Some(()) => true,
                    None => return,
                },
                _ = poll.tick() => false,
            };
            let now = self.fingerprint().await;
            let is_changed = now != self.attempted && now == last;
            last.clone_from(&now);
            if is_requested {
                notify(|| sd_notify::notify(&[NotifyState::Reloading])).await;
                self.attempt(ReloadScope::All, now).await;
                notify(|| sd_notify::notify(&[NotifyState::Ready])).await;
            } else if is_changed {
                let scope = self
                    .next_attempt
                    .take()
                    .map_or(ReloadScope::TenantsDir, |next_attempt| next_attempt.scope);
                self.attempt(scope, now).await;
            } else if let Some(next_attempt) =
                self.next_attempt.filter(|next_attempt| next_attempt.at <= Instant::now())
            {
                self.attempt(next_attempt.scope, now).await;
            } else if self.engine.removal_is_confirmed().await {
                self.attempt(ReloadScope::TenantsDir, now).await;
            }
        }
    }

    async fn attempt(&mut self, scope: ReloadScope, now: Option<Fingerprint>) {
        match self.reload(scope, &now).await {
            ReloadOutcome::Complete => self.next_attempt = None,
            ReloadOutcome::Partial => self.schedule_attempt(ReloadScope::TenantsDir),
            ReloadOutcome::RetryLater => self.schedule_attempt(scope),
            // Changes of the directory remain to be applied with the previous main file.
            ReloadOutcome::Rejected => return,
        }
        self.attempted = now;
        self.wake.notify_one();
    }

    fn schedule_attempt(&mut self, scope: ReloadScope) {
        let pause = self
            .next_attempt
            .filter(|next_attempt| next_attempt.scope == scope)
            .map_or(POLL_INTERVAL, |next_attempt| next_attempt.pause * 2)
            .min(NEXT_ATTEMPT_MAX);
        self.next_attempt = Some(NextAttempt { scope, at: Instant::now() + pause, pause });
    }

    /// In a thread for blocking calls, because the directory may be on a remote file system.
    async fn fingerprint(&self) -> Option<Fingerprint> {
        let dir = self.dir.clone()?;
        tokio::task::spawn_blocking(move || dir.fingerprint()).await.ok()?
    }

    /// One read at a time, so that a file system that hangs blocks one thread only. `None` while it hangs.
    async fn read(&mut self, scope: ReloadScope) -> Option<Result<Config, ConfigErrors>> {
        if let Some(stuck) = &mut self.reading {
            let _ = tokio::time::timeout(READ_TIMEOUT, stuck).await.ok()?;
        }
        let file = self.file.clone();
        let main = self.main.clone();
        let reading = self.reading.insert(tokio::task::spawn_blocking(move || match scope {
            ReloadScope::All => config::load(file.as_deref()),
            ReloadScope::TenantsDir => config::load_beside(file.as_deref(), &main),
        }));
        let read = tokio::time::timeout(READ_TIMEOUT, reading).await.ok()?;
        self.reading = None;
        read.ok()
    }

    /// Rejects an invalid main file as a whole, and an invalid file of the directory alone.
    async fn reload(&mut self, scope: ReloadScope, now: &Option<Fingerprint>) -> ReloadOutcome {
        let gauge = metrics::gauge!("incident_sync_config_reload_failed");
        let mut config = match self.read(scope).await {
            Some(Ok(config)) => config,
            Some(Err(errors)) => {
                gauge.set(1.0);
                if scope == ReloadScope::All {
                    self.logged_errors.clear();
                }
                self.log_new_errors(&errors.0, "Configuration rejected; keeping the previous one");
                return if scope == ReloadScope::All {
                    ReloadOutcome::Rejected
                } else {
                    ReloadOutcome::RetryLater
                };
            }
            None => {
                gauge.set(1.0);
                tracing::error!(
                    owner = "operator",
                    "Timed out reading the configuration; keeping the previous one"
                );
                return ReloadOutcome::RetryLater;
            }
        };
        self.keep_previous_tenants(&mut config);
        let trigger = match scope {
            ReloadScope::All => ReloadTrigger::OperatorRequest,
            ReloadScope::TenantsDir => ReloadTrigger::ChangedFiles(self.changed(&config, now)),
        };
        if let Err(error) = self.engine.reload(context::settings(&config), trigger).await {
            gauge.set(1.0);
            tracing::error!(error = %error, "Cannot apply the configuration; keeping the previous one");
            return ReloadOutcome::RetryLater;
        }
        gauge.set(0.0);
        set_rejected_files_gauge(&config.tenants_dir_errors);
        let is_logged = scope == ReloadScope::All
            || *now != self.applied
            || config.tenants_dir_errors != self.logged_errors;
        let message =
            "Ignoring an invalid file in tenants_dir; its tenant keeps its previous settings";
        self.log_new_errors(&config.tenants_dir_errors, message);
        if is_logged {
            let tenants = self.engine.settings().tenants.len();
            tracing::info!(tenants, "Configuration reloaded: {tenants} tenants");
        }
        for key in config.main.keys_for_restart(&self.main) {
            tracing::warn!(
                owner = "operator",
                "A change of {key} needs a restart: systemctl restart incident-sync"
            );
        }
        if scope == ReloadScope::All {
            for warning in &config.warnings {
                tracing::warn!(owner = "operator", "{warning}");
            }
        }
        let outcome = if config.tenants_dir_errors.is_empty() {
            ReloadOutcome::Complete
        } else {
            ReloadOutcome::Partial
        };
        self.main = config.main;
        self.dir = config.tenants_dir;
        self.applied.clone_from(now);
        outcome
    }

    /// The tenants of new and changed files.
    fn changed(&self, config: &Config, now: &Option<Fingerprint>) -> Vec<Uuid> {
        let before: HashSet<_> = self.applied.iter().flatten().collect();
        let changed = now.iter().flatten().filter(|file| !before.contains(file));
        let tenant_of =
            |path: &PathBuf| config.tenants_dir.as_ref()?.tenants.get(&path.display().to_string());
        changed.filter_map(|(path, ..)| tenant_of(path)).map(|id| id.0).collect()
    }

    /// Keeps the previous settings of tenants whose files became invalid. Other files with the same id or name are rejected;
    /// only the main file takes precedence.
    fn keep_previous_tenants(&self, config: &mut Config) {
        let Config { tenants, tenants_dir: Some(dir), tenants_dir_errors, .. } = config else {
            return;
        };
        let known = self.dir.as_ref().map(|dir| &dir.tenants);
        let running = self.engine.settings();
        let id_of = |error: &ConfigError| known.and_then(|known| known.get(&error.file)).copied();
        // Sorted, so that the same errors are reported in the same order.
        let kept: BTreeMap<String, TenantId> = tenants_dir_errors
            .iter()
            .filter_map(|error| Some((error.file.clone(), id_of(error)?)))
            .collect();
        for (file, id) in kept {
            let Some(tenant) = running.tenants.get(&id.0) else { continue };
            let (conflicting, others): (Vec<_>, Vec<_>) = std::mem::take(tenants)
                .into_iter()
                .partition(|other| other.id == id || other.name == tenant.name);
            *tenants = others;
            let files: Vec<Option<String>> =
                conflicting.iter().map(|other| file_of(&dir.tenants, other.id)).collect();
            if files.iter().any(Option::is_none) {
                tenants.extend(conflicting);
                continue;
            }
            for other in files.into_iter().flatten() {
                dir.tenants.remove(&other);
                let problem = format!(
                    "duplicate tenant id or name: {file} takes precedence while it exists. Remove one of the two"
                );
                tenants_dir_errors.push(ConfigError { file: other, key: "id".to_owned(), problem });
            }
            tenants.push(Arc::clone(tenant));
            dir.tenants.insert(file, id);
        }
    }

    fn log_new_errors(&mut self, errors: &[ConfigError], message: &'static str) {
        for error in errors.iter().filter(|error| !self.logged_errors.contains(error)) {
            tracing::error!(owner = "operator", error = %error, "{message}: {error}");
        }
        self.logged_errors = errors.to_vec();
    }
}

fn file_of(files: &HashMap<String, TenantId>, id: TenantId) -> Option<String> {
    files.iter().find(|(_, of)| **of == id).map(|(file, _)| file.clone())
}

fn set_rejected_files_gauge(errors: &[ConfigError]) {
    let files: HashSet<&str> = errors.iter().map(|error| error.file.as_str()).collect();
    metrics::gauge!("incident_sync_config_files_refused").set(files.len() as f64);
}
