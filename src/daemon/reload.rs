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
use crate::daemon::systemd::{notify, status_line};
use crate::sync::engine::{ReloadTrigger, SyncEngine};
use crate::tenant::TenantId;

/// A change is applied when the directory has not changed for this long: files may arrive one by one or half written.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause between attempts to apply a partly invalid configuration: a secret may arrive after the file that
/// names it.
const NEXT_ATTEMPT_MAX: Duration = Duration::from_secs(60);
/// Reading from a remote file system must not delay a stop or the next poll.
const READ_PATIENCE: Duration = Duration::from_secs(20);

/// Reads the configuration again when something changed.
#[derive(Debug)]
pub struct Reloader {
    engine: Arc<SyncEngine>,
    file: Option<PathBuf>,
    wake: Arc<Notify>,
    /// The main file as of the last requested reload.
    main: MainFile,
    dir: Option<TenantsDir>,
    /// The directory as of the last applied change, and of the last attempt.
    taken_over: Option<Fingerprint>,
    tried: Option<Fingerprint>,
    next_attempt: Option<NextAttempt>,
    /// The errors that were logged; the same ones are not logged again.
    refused: Vec<ConfigError>,
    reading: Option<JoinHandle<Result<Config, ConfigErrors>>>,
}

/// A further attempt.
#[derive(Debug, Clone, Copy)]
struct NextAttempt {
    of: ReloadScope,
    at: Instant,
    pause: Duration,
}

/// How much is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadScope {
    /// Everything, on request.
    All,
    /// The files of `tenants_dir`.
    TenantsDir,
}

enum ReloadOutcome {
    /// Applied completely.
    Complete,
    /// Applied except for invalid files.
    Partial,
    /// The previous one stays; retrying may help.
    RetryLater,
    /// The previous one stays until the next request.
    Refused,
}

impl Reloader {
    /// `config` is the configuration in force.
    pub fn new(
        engine: Arc<SyncEngine>,
        file: Option<PathBuf>,
        wake: Arc<Notify>,
        config: &Config,
    ) -> Self {
        let (main, dir) = (config.main.clone(), config.tenants_dir.clone());
        let taken_over = dir.as_ref().and_then(|dir| dir.as_read.clone());
        let tried = taken_over.clone();
        let (next_attempt, refused, reading) = (None, Vec::new(), None);
        let mut reloader = Self {
            engine,
            file,
            wake,
            main,
            dir,
            taken_over,
            tried,
            next_attempt,
            refused,
            reading,
        };
        if !config.refused.is_empty() {
            reloader.try_again(ReloadScope::TenantsDir);
        }
        count_refused(&config.refused);
        reloader.log_refused(
            &config.refused,
            "Ignoring an invalid file in tenants_dir; its tenant is not synchronized until the file is valid",
        );
        reloader
    }

    pub async fn watch(mut self, mut hangup: Signal) {
        let mut look = tokio::time::interval(POLL_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = self.tried.clone();
        loop {
            let is_asked = tokio::select! {
                hangup = hangup.recv() => match hangup {
                    Some(()) => true,
                    None => return,
                },
                _ = look.tick() => false,
            };
            let now = self.fingerprint().await;
            let is_changed = now != self.tried && now == last;
            last.clone_from(&now);
            if is_asked {
                notify(|| sd_notify::notify(&[NotifyState::Reloading])).await;
                self.attempt(ReloadScope::All, now).await;
                notify(|| sd_notify::notify(&[NotifyState::Ready])).await;
            } else if is_changed {
                let scope = self
                    .next_attempt
                    .take()
                    .map_or(ReloadScope::TenantsDir, |next_attempt| next_attempt.of);
                self.attempt(scope, now).await;
            } else if let Some(next_attempt) =
                self.next_attempt.filter(|next_attempt| next_attempt.at <= Instant::now())
            {
                self.attempt(next_attempt.of, now).await;
            }
        }
    }

    async fn attempt(&mut self, scope: ReloadScope, now: Option<Fingerprint>) {
        match self.reload(scope, &now).await {
            ReloadOutcome::Complete => self.next_attempt = None,
            ReloadOutcome::Partial => self.try_again(ReloadScope::TenantsDir),
            ReloadOutcome::RetryLater => self.try_again(scope),
            // The changes in the directory are still to be tried without the invalid main file.
            ReloadOutcome::Refused => return,
        }
        self.tried = now;
        self.wake.notify_one();
    }

    fn try_again(&mut self, of: ReloadScope) {
        let pause = self
            .next_attempt
            .filter(|next_attempt| next_attempt.of == of)
            .map_or(POLL_INTERVAL, |next_attempt| next_attempt.pause * 2)
            .min(NEXT_ATTEMPT_MAX);
        self.next_attempt = Some(NextAttempt { of, at: Instant::now() + pause, pause });
    }

    /// Blocking, because the directory may be on a remote file system.
    async fn fingerprint(&self) -> Option<Fingerprint> {
        let dir = self.dir.clone()?;
        tokio::task::spawn_blocking(move || dir.fingerprint()).await.ok()?
    }

    /// One read at a time: a file system that hangs must not take a thread with each attempt. `None` while it hangs.
    async fn read(&mut self, scope: ReloadScope) -> Option<Result<Config, ConfigErrors>> {
        if let Some(stuck) = &mut self.reading {
            drop(tokio::time::timeout(READ_PATIENCE, stuck).await.ok()?);
        }
        let (file, main) = (self.file.clone(), self.main.clone());
        let reading = self.reading.insert(tokio::task::spawn_blocking(move || match scope {
            ReloadScope::All => config::load(file.as_deref()),
            ReloadScope::TenantsDir => config::load_beside(file.as_deref(), &main),
        }));
        let read = tokio::time::timeout(READ_PATIENCE, reading).await.ok()?;
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
                    self.refused.clear();
                }
                self.log_refused(&errors.0, "Configuration rejected; keeping the previous one");
                return if scope == ReloadScope::All {
                    ReloadOutcome::Refused
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
        self.keep_refused(&mut config);
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
        count_refused(&config.refused);
        let is_news =
            scope == ReloadScope::All || *now != self.taken_over || config.refused != self.refused;
        let message =
            "Ignoring an invalid file in tenants_dir; its tenant keeps its previous settings";
        self.log_refused(&config.refused, message);
        let status = status_line(&config.tenants);
        notify(move || sd_notify::notify(&[NotifyState::Status(&status)])).await;
        if is_news {
            tracing::info!(
                tenants = config.tenants.len(),
                "Configuration reloaded; changes of [database], [http], [http_client] and the call limits need a restart"
            );
        }
        if scope == ReloadScope::All {
            for warning in &config.warnings {
                tracing::warn!(owner = "operator", "{warning}");
            }
        }
        let taken = if config.refused.is_empty() {
            ReloadOutcome::Complete
        } else {
            ReloadOutcome::Partial
        };
        (self.main, self.dir) = (config.main, config.tenants_dir);
        self.taken_over.clone_from(now);
        taken
    }

    /// The tenants whose files have come or changed.
    fn changed(&self, config: &Config, now: &Option<Fingerprint>) -> Vec<Uuid> {
        let before: HashSet<_> = self.taken_over.iter().flatten().collect();
        let changed = now.iter().flatten().filter(|file| !before.contains(file));
        let of =
            |path: &PathBuf| config.tenants_dir.as_ref()?.tenants.get(&path.display().to_string());
        changed.filter_map(|(path, ..)| of(path)).map(|id| id.0).collect()
    }

    /// A tenant whose file became invalid keeps its previous settings. Another file with its id or name is refused; only
    /// the main file takes precedence.
    fn keep_refused(&self, config: &mut Config) {
        let Config { tenants, tenants_dir: Some(dir), refused, .. } = config else { return };
        let known = self.dir.as_ref().map(|dir| &dir.tenants);
        let running = self.engine.settings();
        let id_of = |error: &ConfigError| known.and_then(|known| known.get(&error.file)).copied();
        // Sorted, so that the same errors are reported in the same order.
        let kept: BTreeMap<String, TenantId> =
            refused.iter().filter_map(|error| Some((error.file.clone(), id_of(error)?))).collect();
        for (file, id) in kept {
            let Some(tenant) = running.tenants.get(&id.0) else { continue };
            let (rivals, others): (Vec<_>, Vec<_>) = std::mem::take(tenants)
                .into_iter()
                .partition(|other| other.id == id || other.name == tenant.name);
            *tenants = others;
            let files: Vec<Option<String>> =
                rivals.iter().map(|rival| file_of(&dir.tenants, rival.id)).collect();
            if files.iter().any(Option::is_none) {
                tenants.extend(rivals);
                continue;
            }
            for rival in files.into_iter().flatten() {
                dir.tenants.remove(&rival);
                let problem = format!(
                    "duplicate tenant id or name: {file} takes precedence while it exists. Remove one of the two"
                );
                refused.push(ConfigError { file: rival, key: "id".to_owned(), problem });
            }
            tenants.push(Arc::clone(tenant));
            dir.tenants.insert(file, id);
        }
    }

    fn log_refused(&mut self, refused: &[ConfigError], what: &'static str) {
        for error in refused.iter().filter(|error| !self.refused.contains(error)) {
            tracing::error!(owner = "operator", error = %error, "{what}");
        }
        self.refused = refused.to_vec();
    }
}

fn file_of(files: &HashMap<String, TenantId>, id: TenantId) -> Option<String> {
    files.iter().find(|(_, of)| **of == id).map(|(file, _)| file.clone())
}

fn count_refused(refused: &[ConfigError]) {
    let files: HashSet<&str> = refused.iter().map(|error| error.file.as_str()).collect();
    metrics::gauge!("incident_sync_config_files_refused").set(files.len() as f64);
}
