//! The server process: data directory, start, readiness, shutdown.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid, setsid};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::data_dir::{Account, Layout, PORT, check_reach, last_lines, open_private};
use super::programs::find_programs;
use super::{EmbeddedError, EmbeddedSettings, NAME};

/// The time until a started server responds.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// For a server that reports crash recovery, which replays up to `max_wal_size` of log.
const RECOVERY_LIMIT: Duration = Duration::from_secs(600);
/// The time for the server of a killed process to exit.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(30);
/// A fast shutdown writes a checkpoint. After this time it is aborted, and the next start replays the log.
const FAST_SHUTDOWN_LIMIT: Duration = Duration::from_secs(6);
/// The server's log is rotated above this size.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Starts the server and waits until it accepts connections to the database.
pub(super) async fn run_server(
    lock: &File,
    layout: &Layout,
    settings: &EmbeddedSettings,
    account: Option<Account>,
) -> Result<Server, EmbeddedError> {
    if let Some(account) = &account {
        check_reach(&layout.dir, account)?;
    }
    let programs = find_programs(settings.postgres_bin.as_deref(), layout.data_version())?;
    await_predecessor_exit(layout).await?;
    if layout.data_version().is_none() {
        init_data(lock, layout, &programs, account.as_ref()).await?;
    }
    make_socket_dir(layout, account.as_ref())
        .map_err(EmbeddedError::io("create", &layout.socket))?;

    if fs::metadata(&layout.log).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        let old = layout.dir.join("postgres.log.1");
        fs::rename(&layout.log, old).map_err(EmbeddedError::io("move", &layout.log))?;
    }
    let log = open_private(&layout.log, account.as_ref())
        .map_err(EmbeddedError::io("open", &layout.log))?;
    let log_start = log.metadata().map_err(EmbeddedError::io("read", &layout.log))?.len();

    let program = programs.join("postgres");
    let mut command = child(&program, account.as_ref(), Signal::SIGQUIT, None);
    command.arg("-D").arg(&layout.data).stderr(log).stdout(Stdio::null());
    for setting in server_settings(&layout.socket) {
        command.arg("-c").arg(setting);
    }
    let server = Server::spawn(command).await.map_err(EmbeddedError::io("run", &program))?;
    let connection = server.ready(layout, log_start).await?;
    create_database(connection).await.map_err(EmbeddedError::CreateDatabase)?;
    Ok(server)
}

/// Waits until no server of an earlier process runs on the data, then removes its lock files. Postgres trusts the pid in
/// `postmaster.pid`, which after a reboot or in a new container may belong to another process.
async fn await_predecessor_exit(layout: &Layout) -> Result<(), EmbeddedError> {
    let Ok(data) = layout.data.canonicalize() else { return Ok(()) };
    let deadline = Instant::now() + PREDECESSOR_LIMIT;
    while let Some(pid) = postgres_in(&data) {
        if Instant::now() > deadline {
            return Err(EmbeddedError::Predecessor { pid, dir: data });
        }
        sleep(Duration::from_millis(20)).await;
    }
    let socket = layout.socket.join(format!(".s.PGSQL.{PORT}"));
    let socket_lock = layout.socket.join(format!(".s.PGSQL.{PORT}.lock"));
    for stale in [layout.data.join("postmaster.pid"), socket, socket_lock] {
        match fs::remove_file(&stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(EmbeddedError::io("remove", &stale)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The pid of a Postgres process, postmaster or child, with this working directory.
pub(super) fn postgres_in(data: &Path) -> Option<i32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let here = fs::read_link(process.path().join("cwd")).ok()? == data;
        let postgres =
            fs::read_to_string(process.path().join("comm")).ok()?.starts_with("postgres");
        (here && postgres).then_some(pid)
    })
}

/// Creates the data directory under a temporary name, so that a killed first start leaves no incomplete one.
///
/// initdb ends with this process, but not the servers that it runs temporarily: they inherit the lock, which lasts as long
/// as they can write.
async fn init_data(
    lock: &File,
    layout: &Layout,
    programs: &Path,
    account: Option<&Account>,
) -> Result<(), EmbeddedError> {
    let new = layout.dir.join("data.new");
    if new.exists() {
        fs::remove_dir_all(&new).map_err(EmbeddedError::io("remove", &new))?;
    }
    let program = programs.join("initdb");
    let lock = lock.try_clone().map_err(EmbeddedError::io("share the lock of", &layout.dir))?;
    let mut command = child(&program, account, Signal::SIGKILL, Some(lock));
    command.arg("-D").arg(&new);
    // Trust suffices, because only the account of the server can enter the socket directory. Checksums detect bad disks.
    command.args([
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-k",
        "-U",
        NAME,
        "--no-instructions",
    ]);
    // The blocking thread waits for its child, so PDEATHSIG is not sent early.
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output =
        output.map_err(io::Error::other).flatten().map_err(EmbeddedError::io("run", &program))?;
    if !output.status.success() {
        return Err(EmbeddedError::Initdb {
            output: last_lines(&String::from_utf8_lossy(&output.stderr)),
        });
    }
    fs::rename(&new, &layout.data).map_err(EmbeddedError::io("move into place", &new))?;
    let synced = File::open(&layout.dir).and_then(|dir| dir.sync_all());
    synced.map_err(EmbeddedError::io("sync", &layout.dir))
}

/// Access to this directory is permission to connect.
fn make_socket_dir(layout: &Layout, account: Option<&Account>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(&layout.socket) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        created => created?,
    }
    match account {
        Some(account) => {
            std::os::unix::fs::lchown(&layout.socket, Some(account.uid), Some(account.gid))
        }
        None => Ok(()),
    }
}

fn server_settings(socket: &Path) -> Vec<String> {
    vec![
        "listen_addresses=".to_owned(),
        format!("port={PORT}"),
        // A list of paths; quotes for commas and spaces.
        format!("unix_socket_directories=\"{}\"", socket.to_string_lossy().replace('"', "\"\"")),
        "unix_socket_permissions=0700".to_owned(),
        // For the daemon's pool, a few commands and a BI tool.
        "max_connections=40".to_owned(),
        "shared_buffers=128MB".to_owned(),
        // A first sync writes for minutes; with a checkpoint for each gigabyte it would write the same pages repeatedly.
        "max_wal_size=2GB".to_owned(),
        // Compiling short statements costs more time than it saves.
        "jit=off".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        "log_destination=stderr".to_owned(),
        "logging_collector=off".to_owned(),
        // Statements and details of errors contain customer data.
        "log_min_error_statement=panic".to_owned(),
        "log_error_verbosity=terse".to_owned(),
    ]
}

/// A command in its own session, so that Ctrl-C in a terminal does not reach it. It gets `parent_death_signal` when the thread
/// that spawns it ends. It and its children keep `inherited` open.
fn child(
    program: &Path,
    account: Option<&Account>,
    parent_death_signal: Signal,
    inherited: Option<File>,
) -> Command {
    let mut command = Command::new(program);
    // PGPORT, PGDATA and similar variables apply to other servers.
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid); // For root this also clears the supplementary groups.
    }
    let parent = getpid();
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(parent_death_signal)?;
        if getppid() != parent {
            return Err(Errno::ESRCH.into()); // The parent ended before the line above.
        }
        setsid()?;
        if let Some(file) = &inherited {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "only std's pre_exec reaches the child before exec; the closure makes system calls only"
    )]
    unsafe {
        command.pre_exec(before_exec);
    }
    command
}

/// The postmaster, a child process.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) pid: Pid,
    pub(super) exited: watch::Receiver<bool>,
}

impl Server {
    /// PDEATHSIG is sent when the spawning *thread* ends, so a dedicated thread waits for the child.
    async fn spawn(mut command: Command) -> io::Result<Self> {
        let (started_sender, started) = oneshot::channel();
        let (exited_sender, exited) = watch::channel(false);
        std::thread::Builder::new().name("postgres".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    // The receiver is gone if the start was cancelled.
                    let _ = started_sender.send(Err(error));
                    return;
                }
            };
            let pid = Pid::from_raw(child.id().cast_signed());
            if started_sender.send(Ok(pid)).is_err() {
                // The start was cancelled meanwhile. A child that has exited needs no signal.
                let _ = kill(pid, Signal::SIGINT);
            }
            let status = child.wait();
            tracing::debug!(?status, "Embedded Postgres exited");
            exited_sender.send_replace(true);
        })?;
        let pid = started.await.map_err(io::Error::other).flatten()?;
        Ok(Self { pid, exited })
    }

    pub(super) fn has_exited(&self) -> bool {
        *self.exited.borrow()
    }

    fn signal(&self, signal: Signal) {
        if !self.has_exited() {
            // The process may have just exited, which needs no signal.
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits for the first connection that the server accepts.
    async fn ready(&self, layout: &Layout, log_start: u64) -> Result<PgConnection, EmbeddedError> {
        let options = layout.connect_options("postgres");
        let start = Instant::now();
        loop {
            let attempt = timeout(Duration::from_secs(5), options.connect()).await;
            let error = match attempt {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::PoolTimedOut,
            };
            let log = layout.log.clone();
            let tail = || layout.log_tail(log_start);
            if self.has_exited() {
                return Err(EmbeddedError::Ended { log, tail: tail() });
            }
            let limit = if is_recovering(&error) { RECOVERY_LIMIT } else { READY_LIMIT };
            if start.elapsed() > limit {
                return Err(EmbeddedError::NotReady { log, tail: tail(), source: error });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Requests a fast shutdown for as long as the deadline permits, then kills the server.
    pub(super) async fn shut_down(&self, deadline: Instant) {
        let forced = [
            // An immediate shutdown: the next start recovers the data.
            (Signal::SIGQUIT, Duration::from_secs(1)),
            // For a server that does not react, for example in a hanging system call.
            (Signal::SIGKILL, Duration::from_secs(1)),
        ];
        let reserved: Duration = forced.iter().map(|(_, limit)| *limit).sum();
        let fast_limit =
            deadline.saturating_duration_since(Instant::now() + reserved).min(FAST_SHUTDOWN_LIMIT);
        // Ends the sessions and writes a checkpoint.
        let fast = (Signal::SIGINT, fast_limit);
        let steps = std::iter::once(fast).chain(forced);
        let mut exited = self.exited.clone();
        for (signal, limit) in steps {
            self.signal(signal);
            if timeout(limit, exited.wait_for(|exited| *exited)).await.is_ok() {
                return;
            }
            tracing::warn!(%signal, "Embedded Postgres did not exit in time");
        }
    }
}

impl Drop for Server {
    /// For errors and panics; has no effect after a shutdown.
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
    }
}

/// `cannot_connect_now`: the server is alive and replays its log.
fn is_recovering(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "57P03")
}

async fn create_database(mut connection: PgConnection) -> sqlx::Result<()> {
    let query =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)");
    let exists: bool = query.bind(NAME).fetch_one(&mut connection).await?;
    if !exists {
        connection.execute("CREATE DATABASE incident_sync").await?;
    }
    connection.close().await
}
