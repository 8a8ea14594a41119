//! The server itself: its data directory, its start, its readiness, its end.

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

/// How long a started server may take until it answers at all.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Crash recovery replays up to `max_wal_size` of log; a server that says so is alive and may take longer.
const RECOVERY_LIMIT: Duration = Duration::from_secs(600);
/// How long the server of a killed predecessor may take to vanish.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(30);
/// A fast shutdown writes a checkpoint; one that takes longer is cut short, and the next start replays the log.
const FAST_SHUTDOWN_LIMIT: Duration = Duration::from_secs(6);
/// The server's log begins anew above this size.
const LARGEST_LOG: u64 = 16 * 1024 * 1024;

/// From the lock to a server that accepts connections to our database.
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
    outlive_predecessor(layout).await?;
    if layout.data_version().is_none() {
        init_data(lock, layout, &programs, account.as_ref()).await?;
    }
    make_socket_dir(layout, account.as_ref())
        .map_err(EmbeddedError::io("create", &layout.socket))?;

    if fs::metadata(&layout.log).is_ok_and(|log| log.len() > LARGEST_LOG) {
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

/// Waits until no server of an earlier process runs on the data, then clears what it left. Postgres itself trusts the
/// pid in `postmaster.pid`, which after a reboot or in a new container may be anybody's.
async fn outlive_predecessor(layout: &Layout) -> Result<(), EmbeddedError> {
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

/// A Postgres process that works in this directory: a postmaster or one of its children.
pub(super) fn postgres_in(data: &Path) -> Option<i32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let here = fs::read_link(process.path().join("cwd")).ok()? == data;
        let postgres =
            fs::read_to_string(process.path().join("comm")).ok()?.starts_with("postgres");
        (here && postgres).then_some(pid)
    })
}

/// Makes the data directory beside its final place, so that a killed first start leaves no half of one.
///
/// initdb dies with us, but not the servers that it runs for a moment: these keep the lock for as long as they can
/// still write here.
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
    // Trust is enough: only the account of the server can enter the socket's directory. Checksums find bad disks.
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
    // The blocking thread waits for its child, so PDEATHSIG cannot strike early.
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

/// Who may enter this directory may connect.
fn make_socket_dir(layout: &Layout, account: Option<&Account>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(&layout.socket) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
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
        // A list of paths: the quotes keep a comma or a space inside one.
        format!("unix_socket_directories=\"{}\"", socket.to_string_lossy().replace('"', "\"\"")),
        "unix_socket_permissions=0700".to_owned(),
        // The daemon's pool, a few commands and somebody's BI tool.
        "max_connections=40".to_owned(),
        "shared_buffers=128MB".to_owned(),
        // A first sync writes for minutes; a checkpoint for each gigabyte would write the same pages again and again.
        "max_wal_size=2GB".to_owned(),
        // Compiling our short statements costs more than it saves.
        "jit=off".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        "log_destination=stderr".to_owned(),
        "logging_collector=off".to_owned(),
        // Statements and details of errors hold customers' data.
        "log_min_error_statement=panic".to_owned(),
        "log_error_verbosity=terse".to_owned(),
    ]
}

/// A command in its own session (a terminal's Ctrl-C is for us alone) that gets `on_our_death` when the thread that
/// spawns it ends. It and its own children keep `inherits` open.
fn child(
    program: &Path,
    account: Option<&Account>,
    on_our_death: Signal,
    inherits: Option<File>,
) -> Command {
    let mut command = Command::new(program);
    // PGPORT, PGDATA and their like are meant for other servers.
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid); // As root this clears the supplementary groups too.
    }
    let we = getpid();
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(on_our_death)?;
        if getppid() != we {
            return Err(Errno::ESRCH.into()); // We died before the line above.
        }
        setsid()?;
        if let Some(file) = &inherits {
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

/// The postmaster that we started.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) pid: Pid,
    pub(super) exited: watch::Receiver<bool>,
}

impl Server {
    /// PDEATHSIG strikes when the spawning *thread* ends, so the child gets a thread that lives exactly as long as it.
    async fn spawn(mut command: Command) -> io::Result<Self> {
        let (tell_started, started) = oneshot::channel();
        let (tell_exited, exited) = watch::channel(false);
        std::thread::Builder::new().name("postgres".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(tell_started.send(Err(error))),
            };
            let pid = Pid::from_raw(child.id().cast_signed());
            if tell_started.send(Ok(pid)).is_err() {
                // The start was given up meanwhile; a child that is gone already needs no signal.
                let _ = kill(pid, Signal::SIGINT);
            }
            let status = child.wait();
            tracing::debug!(?status, "the embedded PostgreSQL ended");
            tell_exited.send_replace(true);
        })?;
        let pid = started.await.map_err(io::Error::other).flatten()?;
        Ok(Self { pid, exited })
    }

    pub(super) fn has_exited(&self) -> bool {
        *self.exited.borrow()
    }

    fn signal(&self, signal: Signal) {
        if !self.has_exited() {
            // It may end just now: there is nothing left to signal then.
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
            let (log, tail) = (layout.log.clone(), || layout.log_tail(log_start));
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

    /// Asks politely for as long as the deadline allows, and ends what is left.
    pub(super) async fn shut_down(&self, deadline: Instant) {
        let hard = [
            (Signal::SIGQUIT, Duration::from_secs(1)), // immediate: the next start recovers
            (Signal::SIGKILL, Duration::from_secs(1)), // a hung kernel call, perhaps
        ];
        let reserved: Duration = hard.iter().map(|(_, patience)| *patience).sum();
        let polite =
            deadline.saturating_duration_since(Instant::now() + reserved).min(FAST_SHUTDOWN_LIMIT);
        let fast = (Signal::SIGINT, polite); // end the sessions, write a checkpoint
        let steps = std::iter::once(fast).chain(hard);
        let mut exited = self.exited.clone();
        for (signal, patience) in steps {
            self.signal(signal);
            if timeout(patience, exited.wait_for(|exited| *exited)).await.is_ok() {
                return;
            }
            tracing::warn!(%signal, "the embedded PostgreSQL did not end in time");
        }
    }
}

impl Drop for Server {
    /// For errors and panics on the way; after `stop` of the private server there is nothing left to do.
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
