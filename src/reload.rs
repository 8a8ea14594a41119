//! Takes a changed configuration over while the daemon runs: all of it at SIGHUP, `tenants_dir` by itself.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::Notify;

use crate::config::{self, Config, ConfigError, Fingerprint, TenantsDir};
use crate::pass::Engine;
use crate::setup;
use crate::systemd::{notify, status_line};
use crate::tenant::TenantId;

/// A change is taken over when the directory has looked the same for so long: files may come one after the other, and
/// one may be half written.
const LOOK: Duration = Duration::from_secs(2);

/// Reads the configuration again when something changed.
#[derive(Debug)]
pub struct Reloader {
    engine: Arc<Engine>,
    file: Option<PathBuf>,
    wake: Arc<Notify>,
    dir: Option<TenantsDir>,
    /// How the directory looked before it was read.
    taken_over: Option<Fingerprint>,
    /// What was told of its files: not again while nothing changes in that.
    refused: Vec<ConfigError>,
}

impl Reloader {
    /// What runs now is what `config` says.
    pub fn new(engine: Arc<Engine>, file: Option<PathBuf>, wake: Arc<Notify>, config: &Config) -> Self {
        let dir = config.tenants_dir.clone();
        let taken_over = dir.as_ref().and_then(|dir| dir.as_read.clone());
        let mut reloader = Self { engine, file, wake, dir, taken_over, refused: Vec::new() };
        reloader.tell(&config.refused);
        reloader
    }

    /// Never ends, but when signals do.
    pub async fn watch(mut self, mut hangup: Signal) {
        let mut look = tokio::time::interval(LOOK);
        let mut last = self.taken_over.clone();
        loop {
            let is_asked = tokio::select! {
                hangup = hangup.recv() => match hangup {
                    Some(()) => true,
                    None => return,
                },
                _ = look.tick() => false,
            };
            let now = self.fingerprint().await;
            let is_changed = now != self.taken_over && now == last;
            last.clone_from(&now);
            if is_asked || is_changed {
                notify(|| sd_notify::notify(&[NotifyState::Reloading])).await;
                self.reload().await;
                self.taken_over = now;
                notify(|| sd_notify::notify(&[NotifyState::Ready])).await;
                self.wake.notify_one();
            }
        }
    }

    /// The directory may be far away.
    async fn fingerprint(&self) -> Option<Fingerprint> {
        let dir = self.dir.clone()?;
        tokio::task::spawn_blocking(move || dir.fingerprint()).await.ok()?
    }

    /// A bad configuration is refused, and the old one goes on; a bad file of the directory is refused alone.
    async fn reload(&mut self) {
        let gauge = metrics::gauge!("incident_sync_config_reload_failed");
        let mut config = match config::load(self.file.as_deref()) {
            Ok(config) => config,
            Err(errors) => {
                gauge.set(1.0);
                for error in errors.0 {
                    tracing::error!(who = "operator", error = %error, "the configuration is refused; the old one goes on");
                }
                return;
            }
        };
        self.keep_refused(&mut config);
        match self.engine.reload(setup::settings(&config)).await {
            Ok(()) => {
                gauge.set(0.0);
                self.tell(&config.refused);
                let status = status_line(&config.tenants);
                notify(move || sd_notify::notify(&[NotifyState::Status(&status)])).await;
                tracing::info!(
                    tenants = config.tenants.len(),
                    "the configuration was read again; [database], [http], [http_client] and the call limits need a restart"
                );
                self.dir = config.tenants_dir;
            }
            Err(error) => {
                gauge.set(1.0);
                tracing::error!(error = %error, "the configuration could not be taken over; the old one goes on");
            }
        }
    }

    /// A tenant whose file is wrong goes on as it was, if it was there before; a newcomer that took its name has to wait.
    fn keep_refused(&self, config: &mut Config) {
        let known = self.dir.as_ref().map(|dir| &dir.tenants);
        let running = self.engine.settings();
        let mut kept = HashMap::<String, TenantId>::new();
        for error in &config.refused {
            let id = known.and_then(|known| known.get(&error.file));
            let Some(tenant) = id.and_then(|id| running.tenants.get(&id.0)) else { continue };
            if config.tenants.iter().any(|other| other.id == tenant.id) {
                continue;
            }
            kept.insert(error.file.clone(), tenant.id);
            config.tenants.retain(|other| other.name != tenant.name);
            config.tenants.push(Arc::clone(tenant));
        }
        if let Some(dir) = &mut config.tenants_dir {
            dir.tenants.extend(kept);
        }
    }

    fn tell(&mut self, refused: &[ConfigError]) {
        let files: HashSet<&str> = refused.iter().map(|error| error.file.as_str()).collect();
        metrics::gauge!("incident_sync_config_files_refused").set(files.len() as f64);
        for error in refused.iter().filter(|error| !self.refused.contains(error)) {
            tracing::error!(
                who = "operator", error = %error,
                "a file of tenants_dir is refused; its tenant goes on as it was, if there was one, and so do all others"
            );
        }
        self.refused = refused.to_vec();
    }
}
