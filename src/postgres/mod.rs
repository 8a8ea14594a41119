//! The private Postgres: the server programs of this machine, run as a child process on a directory of incident-sync.
//!
//! It listens on a Unix socket only, so it needs no port and conflicts with no other server. One process owns it, and short
//! commands of other processes are its guests, so that `status` works while the daemon runs. It ends with its owner: when the
//! owner is killed, the kernel signals the server (`PR_SET_PDEATHSIG`), and the next start recovers the data.

mod data_dir;
pub(crate) mod programs;
mod server;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use data_dir::io_message;
use data_dir::{Layout, SOCKET_PATH_MAX, open_private, prepare_dir};
use server::{Server, run_server};

/// The superuser that initdb creates, and the database.
const NAME: &str = "incident_sync";
/// How long a daemon waits for a command to finish with the database.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);
/// The time to stop a server, including SIGQUIT and SIGKILL.
const SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a command waits until the server of another process accepts it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// `[database]` of the private Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// For the data, the socket, the locks and the server's log.
    pub dir: PathBuf,
    /// The directory of `initdb` and `postgres`; `None` searches for it.
    pub postgres_bin: Option<PathBuf>,
}

/// How long the caller needs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Until the daemon stops: it must own the server.
    Daemon,
    /// For one command: it may be the guest of another process.
    Command,
}

/// Why the private Postgres cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server programs were found.
    #[error(
        "no PostgreSQL server programs (initdb, postgres) in {searched}. Install them with `apt-get install postgresql` \
         (Debian, Ubuntu), or set database.postgres_bin to their directory, or database.url to an existing server"
    )]
    NoPrograms { searched: String },
    /// Only programs of an unsupported version were found.
    #[error(
        "PostgreSQL {wanted} is required, but only {found} was found. Install it, or set database.postgres_bin to its \
         directory, or database.url to an existing server"
    )]
    WrongVersion { wanted: String, found: String },
    /// The account that runs the server for root cannot enter the directory.
    #[error(
        "user {user}, which runs PostgreSQL, cannot access {dir}: {parent} is closed to it. \
         Start the service that owns it, or set database.embedded_dir to another directory"
    )]
    Unreachable {
        /// The account that runs the server.
        user: String,
        /// The directory of the server.
        dir: PathBuf,
        parent: PathBuf,
    },
    /// The kernel's limit on socket addresses.
    #[error(
        "the socket path {path} has {length} bytes, and the system allows {SOCKET_PATH_MAX}. \
         Set database.embedded_dir to a shorter path"
    )]
    SocketPath {
        path: PathBuf,
        /// In bytes.
        length: usize,
    },
    /// Another process owns the server.
    #[error(
        "another incident-sync ({owner}) already runs on the embedded database in {dir}. Stop it first. \
         Several instances need a shared server in database.url"
    )]
    Busy {
        /// `pid N`, or `pid unknown`.
        owner: String,
        /// The directory of the server.
        dir: PathBuf,
    },
    /// Another process owns the server, which accepted no connection in time.
    #[error("the embedded database in {dir}, run by another incident-sync ({owner}), did not accept a connection in {} s", COMMAND_TIMEOUT.as_secs())]
    NoAnswer {
        /// `pid N`, or `pid unknown`.
        owner: String,
        /// The directory of the server.
        dir: PathBuf,
    },
    /// A server of an earlier process did not exit in time.
    #[error(
        "an earlier PostgreSQL (pid {pid}) still runs on {dir}. Stop it with `kill -QUIT {pid}`"
    )]
    Predecessor { pid: i32, dir: PathBuf },
    /// A command that needs existing data found none.
    #[error(
        "there is no database in {dir} yet. Start the service (systemctl start incident-sync), or run this command as root \
         (sudo) or as the service user"
    )]
    NoDatabase {
        /// The directory of the server.
        dir: PathBuf,
    },
    /// The data directory could not be created.
    #[error("initdb failed: {output}")]
    Initdb {
        /// The last lines of its output.
        output: String,
    },
    /// The server exited during its start.
    #[error("PostgreSQL exited during its start. The last lines of {log}:\n{tail}")]
    Ended {
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The server runs but accepts no connection.
    #[error(
        "PostgreSQL accepted no connection in time: {source}. The last lines of {log}:\n{tail}"
    )]
    NotReady {
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
        /// The error of the last attempt.
        source: sqlx::Error,
    },
    /// The database could not be created on the server.
    #[error("cannot create the database on the embedded PostgreSQL")]
    CreateDatabase(#[source] sqlx::Error),
    /// A file or process operation failed.
    #[error("cannot {doing} {path}: {}", io_message(source))]
    Io {
        /// The operation, as an infinitive.
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl EmbeddedError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// A running private Postgres, owned by this or another process. A drop without [`Embedded::stop`] shuts it down without
/// waiting.
#[derive(Debug)]
pub struct Embedded {
    layout: Layout,
    role: Role,
    /// Locked shared by each guest, and exclusively by the owner before it stops the server.
    guests: File,
}

#[derive(Debug)]
enum Role {
    /// The owner locks `dir/lock` as long as the server runs.
    Owner { server: Server, hold: Hold, _lock: File },
    /// A guest notices the server's exit by broken connections only; this channel never reports it.
    Guest { quiet: watch::Sender<bool> },
}

impl Embedded {
    /// Fails if the directory contains no database yet, and creates none: an empty database would look healthy.
    pub fn must_exist(settings: &EmbeddedSettings) -> Result<(), EmbeddedError> {
        let layout = Layout::of(&settings.dir)?;
        match fs::metadata(layout.version_file()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(EmbeddedError::NoDatabase { dir: layout.dir })
            }
            Err(error) => Err(EmbeddedError::io("read", &layout.dir)(error)),
        }
    }

    /// Starts the server, or joins that of another process if `hold` permits it. Creates a missing data directory and
    /// database.
    pub async fn start(settings: &EmbeddedSettings, hold: Hold) -> Result<Self, EmbeddedError> {
        let layout = Layout::of(&settings.dir)?;
        let account = prepare_dir(&layout)?;
        let open = |name: &str| {
            let path = layout.dir.join(name);
            open_private(&path, account.as_ref()).map_err(EmbeddedError::io("open", &path))
        };
        let lock = open("lock")?;
        let guests = open("guests")?;
        let lock_failed = EmbeddedError::io("lock", &layout.dir);

        let timeout = if hold == Hold::Daemon { DAEMON_TIMEOUT } else { COMMAND_TIMEOUT };
        let deadline = Instant::now() + timeout;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(lock_failed(error)),
            }
            if hold == Hold::Command && join(&layout, &guests).await {
                let (quiet, _) = watch::channel(false);
                return Ok(Self { layout, role: Role::Guest { quiet }, guests });
            }
            if Instant::now() > deadline {
                let owner = owner_in(&layout.dir.join("lock"));
                let dir = layout.dir;
                return Err(match hold {
                    Hold::Daemon => EmbeddedError::Busy { owner, dir },
                    Hold::Command => EmbeddedError::NoAnswer { owner, dir },
                });
            }
            sleep(Duration::from_millis(50)).await;
        }

        write_pid(&lock).map_err(lock_failed)?;
        let server = run_server(&lock, &layout, settings, account).await?;
        Ok(Self { layout, role: Role::Owner { server, hold, _lock: lock }, guests })
    }

    pub fn connect_options(&self) -> PgConnectOptions {
        self.layout.connect_options(NAME).application_name("incident-sync")
    }

    /// The shell command that opens this database in psql.
    pub fn psql_line(&self) -> String {
        format!("psql -h {} -U {NAME} {NAME}", shell_word(&self.layout.socket.to_string_lossy()))
    }

    /// Whether this process started the server and stops it.
    pub fn is_owner(&self) -> bool {
        matches!(self.role, Role::Owner { .. })
    }

    /// Becomes true when the server exits for any reason. Never for a guest.
    pub fn exited(&self) -> watch::Receiver<bool> {
        match &self.role {
            Role::Owner { server, .. } => server.exited.clone(),
            Role::Guest { quiet } => quiet.subscribe(),
        }
    }

    /// Shuts the server down and waits for its exit; a guest only disconnects. A command waits for its guests first.
    pub async fn stop(self) {
        let guests_timeout = match &self.role {
            Role::Owner { hold: Hold::Command, .. } => Duration::from_secs(60),
            Role::Owner { hold: Hold::Daemon, .. } | Role::Guest { .. } => Duration::from_secs(2),
        };
        self.stop_in(guests_timeout, Instant::now() + guests_timeout + SERVER_STOP_TIMEOUT).await;
    }

    /// Like [`Self::stop`], but kills the server shortly before the deadline.
    pub async fn stop_by(self, deadline: Instant) {
        let guests_timeout =
            deadline.saturating_duration_since(Instant::now() + SERVER_STOP_TIMEOUT);
        self.stop_in(guests_timeout.min(Duration::from_secs(2)), deadline).await;
    }

    async fn stop_in(self, guests_timeout: Duration, deadline: Instant) {
        let Role::Owner { server, .. } = &self.role else { return };
        let guests_deadline = Instant::now() + guests_timeout;
        // With this lock held, another process cannot become a guest: it waits for the lock of the owner.
        while self.guests.try_lock().is_err()
            && Instant::now() < guests_deadline
            && !server.has_exited()
        {
            sleep(Duration::from_millis(20)).await;
        }
        server.shut_down(deadline).await;
    }
}

fn write_pid(mut lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())
}

fn owner_in(lock: &Path) -> String {
    match fs::read_to_string(lock) {
        Ok(pid) if !pid.trim().is_empty() => format!("pid {}", pid.trim()),
        _ => "pid unknown".to_owned(),
    }
}

/// Becomes a guest, if the server accepts a connection.
async fn join(layout: &Layout, guests: &File) -> bool {
    if guests.try_lock_shared().is_err() {
        return false; // The owner is about to stop its server.
    }
    let options = layout.connect_options(NAME);
    if let Ok(Ok(connection)) = timeout(Duration::from_secs(2), options.connect()).await {
        // The connection was the check; an error at its end has no effect.
        let _ = connection.close().await;
        return true;
    }
    // The lock ends with the file at the latest.
    let _ = guests.unlock();
    false
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
