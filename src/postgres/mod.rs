//! The private Postgres: the machine's own server programs, run as our child on a directory of ours.
//!
//! It listens on a Unix socket only, so it takes no port and meets no other server. One process owns it and the short
//! commands of other processes are its guests, so that `status` works beside the daemon. It lives as long as its owner:
//! a killed owner takes it along (`PR_SET_PDEATHSIG`), and the next start recovers whatever that left behind.

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

pub(crate) use data_dir::answer;
use data_dir::{LONGEST_SOCKET_PATH, Layout, open_private, prepare_dir};
use server::{Server, run_server};

/// The superuser that initdb makes, and the database that we make.
const NAME: &str = "incident_sync";
/// How long a daemon waits for a command to finish with the database.
const DAEMON_WAITS: Duration = Duration::from_secs(60);
/// How long a server may take to end, the hard way included.
const SERVER_ENDS: Duration = Duration::from_secs(8);
/// How long a command waits until the server of another process accepts it.
const COMMAND_WAITS: Duration = Duration::from_secs(30);

/// Where the private Postgres lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Holds the data, the socket, the locks and the server's log.
    pub dir: PathBuf,
    /// Where `initdb` and `postgres` are; searched for when absent.
    pub postgres_bin: Option<PathBuf>,
}

/// How long the caller needs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Until it is told to stop: it must own the server.
    Daemon,
    /// For one command: it may be the guest of another process.
    Command,
}

/// Why the private Postgres cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Nothing to run.
    #[error(
        "no PostgreSQL server programs (initdb, postgres) in {searched}; install them with `apt-get install postgresql` \
         (Debian, Ubuntu), or set database.postgres_bin to their directory, or database.url to a server of your own"
    )]
    NoPrograms {
        /// Where we looked.
        searched: String,
    },
    /// Only servers of the wrong version.
    #[error(
        "PostgreSQL {wanted} is needed, but found {found}; install it, or set database.postgres_bin to its directory, \
         or database.url to a server of your own"
    )]
    WrongVersion {
        /// What would do.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// We are root, Postgres may not be, and the account that it gets cannot enter the directory.
    #[error(
        "user {user}, as whom PostgreSQL runs, cannot reach {dir}: {parent} is closed to it; \
         start the service that it belongs to, or set database.embedded_dir to another place"
    )]
    Unreachable {
        /// The account that runs the server.
        user: String,
        /// The directory of the server.
        dir: PathBuf,
        /// What is in the way.
        parent: PathBuf,
    },
    /// The kernel's limit on socket addresses.
    #[error(
        "the socket path {path} has {length} bytes and the system allows {LONGEST_SOCKET_PATH}; \
         set database.embedded_dir to a shorter path"
    )]
    SocketPath {
        /// The path that is too long.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// Another process owns the server.
    #[error(
        "another incident-sync ({owner}) already runs on the embedded database in {dir}; stop it first; \
         several instances need a shared server in database.url"
    )]
    Busy {
        /// `pid N`, as far as it is known.
        owner: String,
        /// The directory of the server.
        dir: PathBuf,
    },
    /// Another process owns the server, but we cannot be its guest.
    #[error("the embedded database in {dir}, run by another incident-sync ({owner}), did not accept a connection in {} s", COMMAND_WAITS.as_secs())]
    NoAnswer {
        /// `pid N`, as far as it is known.
        owner: String,
        /// The directory of the server.
        dir: PathBuf,
    },
    /// A server that an earlier process left does not go away.
    #[error(
        "an earlier PostgreSQL (pid {pid}) still runs on {dir}; end it with `kill -QUIT {pid}`"
    )]
    Predecessor {
        /// The process that is in the way.
        pid: i32,
        /// The data directory.
        dir: PathBuf,
    },
    /// A command that only has a use for what is there found nothing.
    #[error(
        "there is no database in {dir} yet; start the service (systemctl start incident-sync), or run this as root (sudo) or \
         as the service's user"
    )]
    NoDatabase {
        /// The directory of the server.
        dir: PathBuf,
    },
    /// The new data directory could not be made.
    #[error("initdb failed: {output}")]
    Initdb {
        /// The last lines that it printed.
        output: String,
    },
    /// The server ended while it started.
    #[error("PostgreSQL ended while it started; the last lines of {log}:\n{tail}")]
    Ended {
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The server runs but does not let us in.
    #[error(
        "PostgreSQL accepted no connection in time: {source}; the last lines of {log}:\n{tail}"
    )]
    NotReady {
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
        /// What the last attempt met.
        source: sqlx::Error,
    },
    /// Our database could not be made on it.
    #[error("cannot create the database on the embedded PostgreSQL")]
    CreateDatabase(#[source] sqlx::Error),
    /// A file or process operation failed.
    #[error("cannot {doing} {path}: {}", answer(source))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl EmbeddedError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// A running private Postgres, ours or that of another process. Dropped without [`Embedded::stop`] it is still shut
/// down, but nobody waits for it.
#[derive(Debug)]
pub struct Embedded {
    layout: Layout,
    role: Role,
    /// Held shared by each guest; the owner takes it exclusively before it stops the server.
    guests: File,
}

#[derive(Debug)]
enum Role {
    /// The owner keeps `dir/lock` as long as the server runs.
    Owner { server: Server, hold: Hold, _lock: File },
    /// A guest hears nothing of the server's end but broken connections; the sender keeps its channel quiet.
    Guest { quiet: watch::Sender<bool> },
}

impl Embedded {
    /// Refuses a directory in which nobody has made a database, and leaves it alone: an empty one would look as if all were well.
    pub fn must_exist(settings: &EmbeddedSettings) -> Result<(), EmbeddedError> {
        let layout = Layout::of(&settings.dir)?;
        match fs::metadata(layout.version_file()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(EmbeddedError::NoDatabase { dir: layout.dir })
            }
            Err(error) => Err(EmbeddedError::io("look into", &layout.dir)(error)),
        }
    }

    /// Starts the server, or joins the one of another process if `hold` allows it. Makes the data directory and the
    /// database when they are missing.
    pub async fn start(settings: &EmbeddedSettings, hold: Hold) -> Result<Self, EmbeddedError> {
        let layout = Layout::of(&settings.dir)?;
        let account = prepare_dir(&layout)?;
        let open = |name: &str| {
            let path = layout.dir.join(name);
            open_private(&path, account.as_ref()).map_err(EmbeddedError::io("open", &path))
        };
        let (lock, guests) = (open("lock")?, open("guests")?);
        let lock_failed = EmbeddedError::io("lock", &layout.dir);

        let patience = if hold == Hold::Daemon { DAEMON_WAITS } else { COMMAND_WAITS };
        let deadline = Instant::now() + patience;
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
                let (owner, dir) = (owner_in(&layout.dir.join("lock")), layout.dir);
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

    /// How to connect.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.layout.connect_options(NAME).application_name("incident-sync")
    }

    /// The shell line that opens this database in psql.
    pub fn psql_line(&self) -> String {
        format!("psql -h {} -U {NAME} {NAME}", shell_word(&self.layout.socket.to_string_lossy()))
    }

    /// Whether this process started the server and stops it.
    pub fn is_owner(&self) -> bool {
        matches!(self.role, Role::Owner { .. })
    }

    /// Becomes true when our server has ended, asked or not. A guest's never does.
    pub fn exited(&self) -> watch::Receiver<bool> {
        match &self.role {
            Role::Owner { server, .. } => server.exited.clone(),
            Role::Guest { quiet } => quiet.subscribe(),
        }
    }

    /// Shuts our server down and waits until it is gone; a guest only leaves. A command lets its guests finish first.
    pub async fn stop(self) {
        let guests_finish = match &self.role {
            Role::Owner { hold: Hold::Command, .. } => Duration::from_secs(60),
            Role::Owner { hold: Hold::Daemon, .. } | Role::Guest { .. } => Duration::from_secs(2),
        };
        self.stop_in(guests_finish, Instant::now() + guests_finish + SERVER_ENDS).await;
    }

    /// The same, but whatever still runs shortly before the deadline is killed.
    pub async fn stop_by(self, deadline: Instant) {
        let guests_finish = deadline.saturating_duration_since(Instant::now() + SERVER_ENDS);
        self.stop_in(guests_finish.min(Duration::from_secs(2)), deadline).await;
    }

    async fn stop_in(self, guests_finish: Duration, deadline: Instant) {
        let Role::Owner { server, .. } = &self.role else { return };
        let patience = Instant::now() + guests_finish;
        // From here on a newcomer cannot become a guest: it waits for our lock and owns the server itself.
        while self.guests.try_lock().is_err() && Instant::now() < patience && !server.has_exited() {
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

/// Whether we are now a guest: counted as one, and let in by the server.
async fn join(layout: &Layout, guests: &File) -> bool {
    if guests.try_lock_shared().is_err() {
        return false; // The owner is about to stop its server.
    }
    let options = layout.connect_options(NAME);
    if let Ok(Ok(connection)) = timeout(Duration::from_secs(2), options.connect()).await {
        // The connection was the proof; a failed goodbye changes nothing.
        let _ = connection.close().await;
        return true;
    }
    // A lock that cannot be released ends with the file, at the latest.
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
