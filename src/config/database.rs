//! `[database]`: a server of the operator's, or our private one.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::secrets::SecretFiles;
use super::section::{Parsed, Report, Section};
use crate::postgres::EmbeddedSettings;

/// The private server allows 40 connections, and a few commands run beside the daemon.
const MOST_EMBEDDED_CONNECTIONS: u32 = 30;
const SSL_MODES: &str = "disable, allow, prefer, require, verify-ca, verify-full";
/// What sqlx understands in a URL. It would only log others, values and all.
const URL_PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where the incidents are stored.
#[derive(Debug, Clone)]
pub struct Database {
    /// The server.
    pub server: DatabaseServer,
    /// The most connections that this process opens.
    pub max_connections: u32,
    /// Whether a run that stored something sends `NOTIFY incident_sync_changes`.
    pub notify: bool,
}

/// Whose Postgres it is.
#[derive(Debug, Clone)]
pub enum DatabaseServer {
    /// Our private one, run as a child.
    Embedded(EmbeddedSettings),
    /// The one in `database.url`.
    Url(Box<DatabaseUrl>),
}

/// Connect options that keep their password to themselves.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

impl DatabaseUrl {
    /// For sqlx only: their `Debug` prints the password.
    pub fn connect_options(&self) -> &PgConnectOptions {
        &self.0
    }
}

/// `postgres://user@host:port/database?sslmode=...`
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, database) =
            (self.0.get_username(), self.0.get_database().unwrap_or(self.0.get_username()));
        let (host, mode) = (host_of(&self.0), ssl_mode_name(self.0.get_ssl_mode()));
        write!(f, "postgres://{user}@{host}:{}/{database}?sslmode={mode}", self.0.get_port())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads the section.
pub(super) fn read(
    mut section: Section,
    state_dir: &Path,
    secrets: &SecretFiles,
    report: &mut Report,
) -> Database {
    let (url_set, url_name) = (section.has("url"), section.name_of("url"));
    let url_in_file = url_set && !section.is_from_env("url");
    let url = section.parsed("url", parse_url);
    if url_in_file && let Parsed::Is(GivenUrl { inline_password: true, .. }) = &url {
        report.warnings.push(format!(
            "{url_name}: holds a password; move it into a file named by database.password_file"
        ));
    }
    let of_embedded = ["postgres_bin", "embedded_dir"];
    let of_url = ["password_file", "sslmode", "sslrootcert"];
    for key in if url_set { &of_embedded[..] } else { &of_url[..] } {
        if section.has(key) {
            let why = if url_set {
                "because database.url is set"
            } else {
                "because database.url is not set"
            };
            report.warnings.push(format!("{}: has no effect {why}", section.name_of(key)));
        }
    }

    let settings = EmbeddedSettings {
        dir: section.text("embedded_dir").map_or_else(|| state_dir.join("postgres"), PathBuf::from),
        postgres_bin: section.text("postgres_bin").map(PathBuf::from),
    };
    let password = section.parsed("password_file", |name| secrets.read(name)).ok();
    let ssl_mode = section.parsed("sslmode", |name| {
        PgSslMode::from_str(name).map_err(|_| format!("unknown mode; valid: {SSL_MODES}"))
    });
    let root_cert = section.parsed("sslrootcert", |name| {
        let path = secrets.folder.join(name);
        std::fs::File::open(&path).map(|_| path.clone()).map_err(|error| {
            format!(
                "cannot read {}: {error}; name a PEM file with the server's certificate authority",
                path.display()
            )
        })
    });
    let most = if url_set { 100 } else { MOST_EMBEDDED_CONNECTIONS };
    let max_connections = section.number("max_connections", 1..=most, 4);
    let notify = section.flag("notify", false);

    let server = match url.ok() {
        None => {
            section.default_is("embedded_dir", settings.dir.display());
            DatabaseServer::Embedded(settings)
        }
        Some(GivenUrl { mut options, ssl_mode: in_url, .. }) => {
            if let Some(password) = password {
                options = options.password(password.expose_secret());
            }
            if let Some(path) = root_cert.ok() {
                options = options.ssl_root_cert(path);
            }
            let (options, warning) = secure(options, ssl_mode.ok().or(in_url));
            let from = if in_url.is_some() { "database.url" } else { "default" };
            section.follows("sslmode", ssl_mode_name(options.get_ssl_mode()), from);
            report.warnings.extend(warning.map(|warning| format!("{url_name}: {warning}")));
            DatabaseServer::Url(Box::new(DatabaseUrl(options)))
        }
    };
    report.close(section);
    Database { server, max_connections, notify }
}

/// `database.url`, and what it said explicitly.
struct GivenUrl {
    options: PgConnectOptions,
    ssl_mode: Option<PgSslMode>,
    inline_password: bool,
}

/// No error repeats a part of the URL: any part may be a piece of the password.
fn parse_url(text: &str) -> Result<GivenUrl, String> {
    let form = "write it like postgres://user@host/database, special characters percent-encoded";
    let url = Url::parse(text).map_err(|error| format!("not a URL ({error}); {form}"))?;
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        return Err(format!("not a postgres:// URL; {form}"));
    }
    let known = |name: &str| URL_PARAMETERS.contains(&name) || name.starts_with("options[");
    if url.query_pairs().any(|(name, _)| !known(&name)) {
        return Err(format!(
            "has a parameter that is unknown; valid: {}",
            URL_PARAMETERS.join(", ")
        ));
    }
    let explicit = |names: &[&str]| url.query_pairs().any(|(name, _)| names.contains(&&*name));
    let options = PgConnectOptions::from_str(text).map_err(|_| {
        format!("has a parameter with a wrong value (sslmode may be {SSL_MODES}); {form}")
    })?;
    let ssl_mode = explicit(&["sslmode", "ssl-mode"]).then(|| options.get_ssl_mode());
    let inline_password = url.password().is_some() || explicit(&["password"]);
    Ok(GivenUrl { options: options.application_name("incident-sync"), ssl_mode, inline_password })
}

/// sqlx's own default silently falls back to plain text; to another machine we insist on its certificate.
fn secure(
    options: PgConnectOptions,
    explicit: Option<PgSslMode>,
) -> (PgConnectOptions, Option<String>) {
    let local = is_local(&options);
    let mode = explicit.unwrap_or(if local { PgSslMode::Prefer } else { PgSslMode::VerifyFull });
    let weak = !local && !matches!(mode, PgSslMode::VerifyFull);
    let warning = weak.then(|| {
        let (host, mode) = (host_of(&options), ssl_mode_name(mode));
        format!("sslmode {mode} does not prove that {host} is the right server; set sslmode to verify-full")
    });
    (options.ssl_mode(mode), warning)
}

fn host_of(options: &PgConnectOptions) -> String {
    options
        .get_socket()
        .map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string())
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = host_of(options);
    host.starts_with('/') || is_loopback_host(&host)
}

/// Whether a host name or address of a URL is this machine.
pub(super) fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || IpAddr::from_str(bare).is_ok_and(|address| address.is_loopback())
}

fn ssl_mode_name(mode: PgSslMode) -> &'static str {
    match mode {
        PgSslMode::Disable => "disable",
        PgSslMode::Allow => "allow",
        PgSslMode::Prefer => "prefer",
        PgSslMode::Require => "require",
        PgSslMode::VerifyCa => "verify-ca",
        PgSslMode::VerifyFull => "verify-full",
    }
}
