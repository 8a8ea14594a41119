//! `[database]`: the operator's server or the private one.

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

/// The private server allows 40 connections; commands need some of them while the daemon runs.
const EMBEDDED_CONNECTIONS_MAX: u32 = 30;
const SSL_MODES: &str = "disable, allow, prefer, require, verify-ca, verify-full";
/// The parameters that sqlx supports in a URL. It ignores others and logs their values.
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
    pub server: DatabaseServer,
    /// Connections of this process; every instance opens as many.
    pub max_connections: u32,
    /// Whether a run that stored something sends `NOTIFY incident_sync_changes`.
    pub notify: bool,
}

#[derive(Debug, Clone)]
pub enum DatabaseServer {
    /// A private server, run as a child process.
    Embedded(EmbeddedSettings),
    /// The one in `database.url`.
    Url(Box<DatabaseUrl>),
}

/// Connect options whose `Debug` and `Display` omit the password.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

impl DatabaseUrl {
    /// For sqlx only: the `Debug` of these options prints the password.
    pub fn connect_options(&self) -> &PgConnectOptions {
        &self.0
    }
}

/// `postgres://user@host:port/database?sslmode=...`
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.0.get_username();
        let database = self.0.get_database().unwrap_or(user);
        let host = host_of(&self.0);
        let mode = ssl_mode_name(self.0.get_ssl_mode());
        write!(f, "postgres://{user}@{host}:{}/{database}?sslmode={mode}", self.0.get_port())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn read(
    mut section: Section,
    state_dir: &Path,
    secrets: &SecretFiles,
    report: &mut Report,
) -> Database {
    let url_set = section.has("url");
    let url_name = section.name_of("url");
    let url_in_file = url_set && !section.is_from_env("url");
    let url = section.parsed("url", parse_url);
    if url_in_file && let Parsed::Is(ParsedUrl { inline_password: true, .. }) = &url {
        report.warnings.push(format!(
            "{url_name}: contains a password; move it into a file and set database.password_file"
        ));
    }
    let embedded_keys = ["postgres_bin", "embedded_dir"];
    let url_keys = ["password_file", "sslmode", "sslrootcert"];
    for key in if url_set { &embedded_keys[..] } else { &url_keys[..] } {
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
    let limit = if url_set { 100 } else { EMBEDDED_CONNECTIONS_MAX };
    let max_connections = section.number("max_connections", 1..=limit, 4);
    let notify = section.flag("notify", false);

    let server = match url.ok() {
        None => {
            section.add_default("embedded_dir", settings.dir.display());
            DatabaseServer::Embedded(settings)
        }
        Some(ParsedUrl { mut options, ssl_mode: in_url, .. }) => {
            if let Some(password) = password {
                options = options.password(password.expose_secret());
            }
            if let Some(path) = root_cert.ok() {
                options = options.ssl_root_cert(path);
            }
            let (options, warning) = secure(options, ssl_mode.ok().or(in_url));
            let from = if in_url.is_some() { "database.url" } else { "default" };
            section.add_derived("sslmode", ssl_mode_name(options.get_ssl_mode()), from);
            report.warnings.extend(warning.map(|warning| format!("{url_name}: {warning}")));
            DatabaseServer::Url(Box::new(DatabaseUrl(options)))
        }
    };
    report.close(section);
    Database { server, max_connections, notify }
}

/// `database.url` with its explicit settings.
struct ParsedUrl {
    options: PgConnectOptions,
    ssl_mode: Option<PgSslMode>,
    inline_password: bool,
}

/// No error repeats a part of the URL, because any part may contain the password.
fn parse_url(text: &str) -> Result<ParsedUrl, String> {
    let form = "write it like postgres://user@host/database, special characters percent-encoded";
    let url = Url::parse(text).map_err(|error| format!("not a URL ({error}); {form}"))?;
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        return Err(format!("not a postgres:// URL; {form}"));
    }
    let known = |name: &str| URL_PARAMETERS.contains(&name) || name.starts_with("options[");
    if url.query_pairs().any(|(name, _)| !known(&name)) {
        return Err(format!("has an unknown parameter; valid: {}", URL_PARAMETERS.join(", ")));
    }
    let explicit = |names: &[&str]| url.query_pairs().any(|(name, _)| names.contains(&&*name));
    let options = PgConnectOptions::from_str(text).map_err(|_| {
        format!("has a parameter with an invalid value (sslmode may be {SSL_MODES}); {form}")
    })?;
    let ssl_mode = explicit(&["sslmode", "ssl-mode"]).then(|| options.get_ssl_mode());
    let inline_password = url.password().is_some() || explicit(&["password"]);
    Ok(ParsedUrl { options: options.application_name("incident-sync"), ssl_mode, inline_password })
}

/// The default of sqlx falls back to plain text silently. A remote server must present a valid certificate.
fn secure(
    options: PgConnectOptions,
    explicit: Option<PgSslMode>,
) -> (PgConnectOptions, Option<String>) {
    let local = is_local(&options);
    let mode = explicit.unwrap_or(if local { PgSslMode::Prefer } else { PgSslMode::VerifyFull });
    let weak = !local && !matches!(mode, PgSslMode::VerifyFull);
    let warning = weak.then(|| {
        format!(
            "sslmode {} does not verify the identity of {}; set sslmode to verify-full",
            ssl_mode_name(mode),
            host_of(&options)
        )
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
