//! The configuration: one TOML file, one file for each tenant if wanted, the environment on top.
//!
//! All mistakes of a load are told at once, each with file, key and cure. The environment is read here and nowhere else.

mod credentials;
pub mod cron;
mod database;
mod environment;
mod errors;
mod http_client;
mod retention;
mod secrets;
mod section;
mod tenants;
mod tenants_dir;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::{FileFormat, Map, Source, Value};
use nix::fcntl::OFlag;
use nix::unistd::{User, geteuid};
use uuid::Uuid;

pub use database::{Database, DatabaseServer, DatabaseUrl};
pub use errors::{ConfigError, ConfigErrors};
pub use section::Setting;
pub use tenants::OnboardingDefaults;
pub(crate) use tenants::is_printable_name;
pub use tenants_dir::{Fingerprint, TenantsDir};

use crate::defender::{CALLS_PER_HOUR, CALLS_PER_MINUTE};
use crate::entra::Tenant;
use crate::http_client::Route;
use crate::postgres::answer;
use secrets::SecretFiles;
use section::{Report, Section};
use tenants::TenantsSection;

/// Read when neither the command line nor the environment names a file.
const DEFAULT_FILE: &str = "/etc/incident-sync/incident-sync.toml";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The API keeps no incident longer.
const RETENTION_DAYS: u32 = 180;

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// The file that it came from, if there was one.
    pub file: Option<PathBuf>,
    /// `[database]`
    pub database: Database,
    /// `[schedule]`
    pub schedule: Schedule,
    /// `[sync]`
    pub sync: Sync,
    /// `[http]`
    pub http: Http,
    /// `[http_client]`
    pub http_client: Route,
    /// The main file as it was read.
    pub main: MainFile,
    /// The list and the directory of tenants together, disabled ones included.
    pub tenants: Vec<Arc<Tenant>>,
    /// `tenants_dir`, and which tenant each of its files is.
    pub tenants_dir: Option<TenantsDir>,
    /// What is wrong with files of `tenants_dir`, which were left out.
    pub refused: Vec<ConfigError>,
    /// What tenants get that are not configured yet.
    pub onboarding: OnboardingDefaults,
    /// Each key that is set or has a default, as it holds.
    pub settings: Vec<Setting>,
    /// What works but should not stay so: whole sentences for the log.
    pub warnings: Vec<String>,
}

/// A main file that was accepted. It may hold secrets.
#[derive(Clone)]
pub struct MainFile(Map<String, Value>);

impl std::fmt::Debug for MainFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MainFile")
    }
}

/// When what runs: cron lines with seconds, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// New and changed incidents of every tenant.
    pub poll: String,
    /// The open incidents again, whose alerts may have changed without them.
    pub open_incidents: String,
    /// The last days again, whatever changed.
    pub reconcile: String,
}

/// How much is read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Tenants in flight.
    pub concurrency: usize,
    /// How far a poll reaches back behind what is stored.
    pub overlap: Duration,
    /// How far a first sync reaches back.
    pub lookback: Duration,
    /// The budget of one application in one tenant.
    pub calls_per_minute: u32,
    /// The same over an hour.
    pub calls_per_hour: u32,
    /// How far a reconciliation reaches back.
    pub reconcile_days: u32,
}

/// The listener for health, metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// A loopback address: nothing there asks who you are.
    pub listen: SocketAddr,
}

/// Variables of the environment by name; a parameter so that tests need not change the process's own.
type Variables = HashMap<String, String>;

/// Loads and checks everything. `file` is what the command line named; else `$INCIDENT_SYNC_CONFIG`, else the file in
/// `/etc` if there is one, else the defaults.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigErrors> {
    load_with(file, None, &process_environment())
}

/// The same with the files of `tenants_dir` and those with secrets as they are now, and the main file as it was: nobody has
/// asked for what it may say meanwhile.
pub fn load_beside(file: Option<&Path>, main: &MainFile) -> Result<Config, ConfigErrors> {
    load_with(file, Some(main), &process_environment())
}

/// The file that [`load`] reads.
pub fn file(named: Option<&Path>) -> Option<PathBuf> {
    find_file(named, &process_environment())
}

/// `http.listen` alone, as far as it can be read: a daemon that refused the rest of a new file lives on, and is asked there.
pub fn listen(file: Option<&Path>) -> SocketAddr {
    listen_with(file, &process_environment())
}

/// The same for a daemon at work: its files may hang, as on a file server that is away.
///
/// # Panics
/// When a load panics.
pub async fn load_apart(file: Option<PathBuf>) -> Result<Config, ConfigErrors> {
    let load = tokio::task::spawn_blocking(move || load(file.as_deref()));
    load.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

impl Config {
    /// The tenant of this name or id.
    pub fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        let id = name.parse::<Uuid>().ok();
        self.tenants.iter().find(|tenant| tenant.name == name || Some(tenant.id.0) == id)
    }
}

/// Where state is kept: systemd's `$STATE_DIRECTORY`, `/var/lib/incident-sync` for root, else below the home directory.
pub fn state_dir() -> PathBuf {
    state_dir_of(&process_environment(), geteuid().is_root())
}

fn process_environment() -> Variables {
    std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value))).collect()
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

fn state_dir_of(environment: &Variables, is_root: bool) -> PathBuf {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    if let Some(first) =
        variable("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').find(|dir| !dir.is_empty()))
    {
        return PathBuf::from(first);
    }
    if is_root {
        return PathBuf::from("/var/lib/incident-sync");
    }
    if let Some(dir) = variable("XDG_STATE_HOME") {
        return Path::new(dir).join("incident-sync");
    }
    let home = variable("HOME").map(PathBuf::from);
    // A service account without HOME still has a line in the password database.
    let home = home
        .or_else(|| Some(User::from_uid(geteuid()).ok()??.dir))
        .unwrap_or_else(|| PathBuf::from("/"));
    home.join(".local/state/incident-sync")
}

fn listen_with(file: Option<&Path>, environment: &Variables) -> SocketAddr {
    let file = find_file(file, environment);
    let mut tree = file.and_then(|file| parse_file(&file).ok()).unwrap_or_default();
    environment::overlay(&mut tree, environment);
    read_http(Section::new("", "", "", tree).table("http"), &mut Report::default()).listen
}

/// One wrong file of `tenants_dir` must not end the service for all the others.
fn load_with(
    file: Option<&Path>,
    main: Option<&MainFile>,
    environment: &Variables,
) -> Result<Config, ConfigErrors> {
    let mut refused = Vec::new();
    loop {
        let mut report = Report::default();
        let found = read(file, main, environment, &refused, &mut report);
        let dir = report.tenants_dir.clone();
        if let (Some(found), true) = (found, report.is_clean()) {
            return Ok(Config {
                refused,
                warnings: report.warnings,
                settings: report.settings,
                ..found
            });
        }
        let errors = report.into_errors().0;
        let is_of_dir = |error: &ConfigError| {
            dir.is_some() && Path::new(&error.file).parent() == dir.as_deref()
        };
        // The main file may lie there too, and is not left out.
        let is_told =
            |error: &ConfigError| refused.iter().any(|told: &ConfigError| told.file == error.file);
        let can_go_on = errors.iter().all(|error| is_of_dir(error) && !is_told(error));
        refused.extend(errors);
        if !can_go_on {
            return Err(ConfigErrors(refused));
        }
    }
}

/// One attempt, without the files that were refused.
fn read(
    file: Option<&Path>,
    main: Option<&MainFile>,
    environment: &Variables,
    refused: &[ConfigError],
    report: &mut Report,
) -> Option<Config> {
    let file = find_file(file, environment);
    let parsed = match (main, file.as_deref()) {
        (Some(MainFile(tree)), _) => Ok(tree.clone()),
        (None, Some(file)) => parse_file(file),
        (None, None) => Ok(Map::new()),
    };
    let mut tree = parsed.map_err(|error| report.error(error)).ok()?;
    let main = MainFile(tree.clone());
    for error in environment::overlay(&mut tree, environment) {
        report.error(error);
    }
    let label = file
        .as_ref()
        .map_or_else(|| "built-in defaults".to_owned(), |file| file.display().to_string());
    let mut root = Section::new(&label, "", "", tree);
    let folder = file
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/etc/incident-sync"))
        .to_owned();
    let credentials =
        environment.get("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let secrets = SecretFiles { credentials, folder };

    let state_dir = state_dir_of(environment, geteuid().is_root());
    let database = database::read(root.table("database"), &state_dir, &secrets, report);
    let schedule = read_schedule(root.table("schedule"), report);
    let sync = read_sync(root.table("sync"), report);
    let http = read_http(root.table("http"), report);
    let http_client = http_client::read(root.table("http_client"), &secrets, report);
    let kept = retention::read(root.table("retention"), &sync, report);
    let TenantsSection { tenants, dir: tenants_dir, onboarding } =
        tenants::read(&mut root, &secrets, kept, refused, report);
    report.close(root);
    let (refused, warnings, settings) = (Vec::new(), Vec::new(), Vec::new());
    Some(Config {
        file,
        database,
        schedule,
        sync,
        http,
        http_client,
        main,
        tenants,
        tenants_dir,
        refused,
        onboarding,
        settings,
        warnings,
    })
}

fn find_file(named: Option<&Path>, environment: &Variables) -> Option<PathBuf> {
    let from_environment = || {
        environment.get("INCIDENT_SYNC_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
    let file = named.map(Path::to_owned).or_else(from_environment).or_else(default)?;
    // Absolute, so that a reload finds it from any working directory.
    Some(std::path::absolute(&file).unwrap_or(file))
}

/// The table in one TOML file.
fn parse_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    parse_file_if(path, |_| Ok(()))
}

/// The table in one TOML file that passes `check`. What is looked at is the very file that is read.
fn parse_file_if(
    path: &Path,
    check: impl FnOnce(&Metadata) -> Result<(), String>,
) -> Result<Map<String, Value>, ConfigError> {
    let wrong =
        |problem| ConfigError { file: path.display().to_string(), key: String::new(), problem };
    let cannot_read = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => wrong(format!(
            "cannot read the file: {}. If only the service cannot read it, move any secret into a separate file, then run: chmod go+r {}",
            answer(&error),
            path.display()
        )),
        _ => wrong(format!("cannot read it: {error}")),
    };
    // Else a pipe without a writer would be waited for.
    let flags = OFlag::O_NONBLOCK.bits();
    let mut file =
        File::options().read(true).custom_flags(flags).open(path).map_err(cannot_read)?;
    check(&file.metadata().map_err(cannot_read)?).map_err(wrong)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(cannot_read)?;
    let parsed = config::File::from_str(&text, FileFormat::Toml).collect();
    parsed.map_err(|error| wrong(without_source_line(&error.to_string())))
}

/// A syntax error without the line that it quotes, which may hold a secret: position and message are enough.
fn without_source_line(error: &str) -> String {
    let quoted = |line: &str| {
        line.trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start()
            .starts_with('|')
    };
    let kept: Vec<&str> =
        error.lines().map(str::trim).filter(|line| !line.is_empty() && !quoted(line)).collect();
    kept.join(": ")
}

fn read_schedule(mut section: Section, report: &mut Report) -> Schedule {
    let mut line = |key, default: &str| {
        let line = section.parsed(key, cron::check).ok().unwrap_or_else(|| default.to_owned());
        section.default_is(key, default);
        line
    };
    let schedule = Schedule {
        poll: line("poll", "0 */5 * * * *"),
        open_incidents: line("open_incidents", "0 20 * * * *"),
        reconcile: line("reconcile", "0 30 3 * * *"),
    };
    report.close(section);
    schedule
}

fn read_sync(mut section: Section, report: &mut Report) -> Sync {
    let day = Duration::ZERO..=DAY;
    let sync = Sync {
        concurrency: section.number("concurrency", 1..=1_000, 16) as usize,
        overlap: section.duration("overlap", day, 10 * MINUTE),
        lookback: section.duration("lookback", MINUTE..=RETENTION_DAYS * DAY, RETENTION_DAYS * DAY),
        calls_per_minute: section.number("calls_per_minute", 1..=1_000_000, CALLS_PER_MINUTE),
        calls_per_hour: section.number("calls_per_hour", 1..=1_000_000, CALLS_PER_HOUR),
        reconcile_days: section.number("reconcile_days", 1..=RETENTION_DAYS, 7),
    };
    for (key, set, documented) in [
        ("calls_per_minute", sync.calls_per_minute, CALLS_PER_MINUTE),
        ("calls_per_hour", sync.calls_per_hour, CALLS_PER_HOUR),
    ] {
        if set > documented {
            let place = section.name_of(key);
            report.warnings.push(format!(
                "{place}: {set} is above the {documented} that Microsoft allows; expect throttling"
            ));
        }
    }
    report.close(section);
    sync
}

fn read_http(mut section: Section, report: &mut Report) -> Http {
    let listen = section.parsed("listen", |text| match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(_) => {
            Err("not a loopback address; listen on 127.0.0.1 and put a proxy with authentication before it".to_owned())
        }
        Err(_) => Err("not an address with port; write it like 127.0.0.1:9464".to_owned()),
    });
    let default = SocketAddr::from(([127, 0, 0, 1], 9464));
    section.default_is("listen", default);
    report.close(section);
    Http { listen: listen.ok().unwrap_or(default) }
}
