//! The private Postgres: the machine's own server programs, run as our child on a directory of ours.
//!
//! It listens on a Unix socket only, so it takes no port and meets no other server. One process owns it and the short
//! commands of other processes are its guests, so that `status` works beside the daemon. It lives as long as its owner:
//! a killed owner takes it along (`PR_SET_PDEATHSIG`), and the next start recovers whatever that left behind.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, geteuid, getpid, getppid, setsid};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// The superuser that initdb makes, and the database that we make.
const NAME: &str = "incident_sync";
/// Names the socket file only: nothing listens on a port.
const PORT: u16 = 5432;
/// The oldest server whose SQL we use.
const OLDEST_MAJOR: u32 = 15;
/// `sun_path` holds 108 bytes, the last of them zero.
const LONGEST_SOCKET_PATH: usize = 107;
/// How long a started server may take until it answers at all.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Crash recovery replays up to `max_wal_size` of log; a server that says so is alive and may take longer.
const RECOVERY_LIMIT: Duration = Duration::from_secs(600);
/// How long a daemon waits for a command to finish with the database.
const DAEMON_WAITS: Duration = Duration::from_secs(60);
/// How long a command waits until the server of another process accepts it.
const COMMAND_WAITS: Duration = Duration::from_secs(30);
/// How long the server of a killed predecessor may take to vanish.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(30);
/// A fast shutdown writes a checkpoint; one that takes longer is cut short, and the next start replays the log. The
/// daemon promises to be gone 10 s after SIGTERM.
const FAST_SHUTDOWN_LIMIT: Duration = Duration::from_secs(6);
/// The server's log begins anew above this size.
const LARGEST_LOG: u64 = 16 * 1024 * 1024;

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
         set database.embedded_dir to another place, or open that directory with `chmod o+x`"
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
    #[error("an earlier PostgreSQL (pid {pid}) still runs on {dir}; end it with `kill -QUIT {pid}`")]
    Predecessor {
        /// The process that is in the way.
        pid: i32,
        /// The data directory.
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
    #[error("PostgreSQL accepted no connection in time: {source}; the last lines of {log}:\n{tail}")]
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
    #[error("cannot {doing} {path}: {source}")]
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
        let server = run_server(&layout, settings, account).await?;
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
        let Role::Owner { server, hold, .. } = &self.role else { return };
        let patience = if *hold == Hold::Daemon { Duration::from_secs(2) } else { Duration::from_secs(60) };
        let deadline = Instant::now() + patience;
        // From here on a newcomer cannot become a guest: it waits for our lock and owns the server itself.
        while self.guests.try_lock().is_err() && Instant::now() < deadline && !server.has_exited() {
            sleep(Duration::from_millis(20)).await;
        }
        server.shut_down().await;
    }
}

/// The files in the directory.
#[derive(Debug)]
struct Layout {
    dir: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Layout {
    fn of(dir: &Path) -> Result<Self, EmbeddedError> {
        let dir = std::path::absolute(dir).map_err(EmbeddedError::io("resolve", dir))?;
        let socket = dir.join("socket");
        let path = socket.join(format!(".s.PGSQL.{PORT}"));
        let length = path.as_os_str().len();
        if length > LONGEST_SOCKET_PATH {
            return Err(EmbeddedError::SocketPath { path, length });
        }
        Ok(Self { data: dir.join("data"), log: dir.join("postgres.log"), socket, dir })
    }

    fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.socket).port(PORT).username(NAME).database(database)
    }

    /// The version that made the data, if there is any.
    fn data_version(&self) -> Option<u32> {
        fs::read_to_string(self.data.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// The last lines that the server wrote since its log had `from` bytes.
    fn log_tail(&self, from: u64) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.read_to_end(&mut text)
        });
        match read {
            Ok(_) => last_lines(&String::from_utf8_lossy(&text)),
            Err(error) => format!("(unreadable: {error})"),
        }
    }
}

/// The account that runs the server when we are root, because Postgres refuses to be root.
#[derive(Debug)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

/// Makes the directory and says as whom the server must run; `None` is as ourselves.
fn prepare_dir(layout: &Layout) -> Result<Option<Account>, EmbeddedError> {
    let dir = &layout.dir;
    if !dir.exists() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
        made.map_err(EmbeddedError::io("create", dir))?;
        let closed = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
        closed.map_err(EmbeddedError::io("close", dir))?;
    }
    if !geteuid().is_root() {
        return Ok(None);
    }
    let account = server_account(layout).map_err(EmbeddedError::io("find an account for", dir))?;
    let here = fs::metadata(dir).map_err(EmbeddedError::io("read", dir))?;
    if here.uid() != account.uid {
        let given = std::os::unix::fs::lchown(dir, Some(account.uid), Some(account.gid));
        given.map_err(EmbeddedError::io("give away", dir))?;
    }
    check_reach(dir, &account)?;
    Ok(Some(account))
}

/// Existing data stays with its owner (root may look into the database of the daemon's service account); new data goes
/// to `postgres`, which the packages make, or to `nobody`.
fn server_account(layout: &Layout) -> io::Result<Account> {
    if let Ok(data) = fs::metadata(&layout.data)
        && data.uid() != 0
    {
        let user = User::from_uid(Uid::from_raw(data.uid()))?;
        let name = user.map_or_else(|| data.uid().to_string(), |user| user.name);
        return Ok(Account { name, uid: data.uid(), gid: data.gid() });
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() });
        }
    }
    Err(io::Error::other("neither user postgres nor user nobody exists"))
}

/// Tells a closed parent directory now and by name, where initdb would only say "permission denied".
fn check_reach(dir: &Path, account: &Account) -> Result<(), EmbeddedError> {
    let real = dir.canonicalize().map_err(EmbeddedError::io("resolve", dir))?;
    for parent in real.ancestors().skip(1) {
        let meta = fs::metadata(parent).map_err(EmbeddedError::io("read", parent))?;
        let bit = match () {
            () if meta.uid() == account.uid => 0o100,
            () if meta.gid() == account.gid => 0o010,
            () => 0o001,
        };
        if meta.mode() & bit == 0 {
            let (user, dir) = (account.name.clone(), dir.to_owned());
            return Err(EmbeddedError::Unreachable { user, dir, parent: parent.to_owned() });
        }
    }
    Ok(())
}

/// Opens a file of ours for appending, made if missing. The directory may belong to an account that is less trusted
/// than we are, so no link is followed and only a file that we have just made is given away.
fn open_private(path: &Path, account: Option<&Account>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            if let Some(account) = account {
                std::os::unix::fs::fchown(&file, Some(account.uid), Some(account.gid))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
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

/// From the lock to a server that accepts connections to our database.
async fn run_server(
    layout: &Layout,
    settings: &EmbeddedSettings,
    account: Option<Account>,
) -> Result<Server, EmbeddedError> {
    let programs = find_programs(settings.postgres_bin.as_deref(), layout.data_version())?;
    outlive_predecessor(layout).await?;
    if layout.data_version().is_none() {
        init_data(layout, &programs, account.as_ref()).await?;
    }
    make_socket_dir(layout, account.as_ref()).map_err(EmbeddedError::io("create", &layout.socket))?;

    if fs::metadata(&layout.log).is_ok_and(|log| log.len() > LARGEST_LOG) {
        let old = layout.dir.join("postgres.log.1");
        fs::rename(&layout.log, old).map_err(EmbeddedError::io("move", &layout.log))?;
    }
    let log = open_private(&layout.log, account.as_ref()).map_err(EmbeddedError::io("open", &layout.log))?;
    let log_start = log.metadata().map_err(EmbeddedError::io("read", &layout.log))?.len();

    let program = programs.join("postgres");
    let mut command = child(&program, account.as_ref(), Signal::SIGQUIT);
    command.arg("-D").arg(&layout.data).stderr(log).stdout(Stdio::null());
    for setting in server_settings(&layout.socket) {
        command.arg("-c").arg(setting);
    }
    let server = Server::spawn(command).await.map_err(EmbeddedError::io("run", &program))?;
    let connection = server.ready(layout, log_start).await?;
    create_database(connection).await.map_err(EmbeddedError::CreateDatabase)?;
    Ok(server)
}

/// Directories that packages put server programs in, newest version first, then those of `PATH`.
fn program_dirs() -> Vec<PathBuf> {
    let mut versioned: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            versioned.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    versioned.sort_by(|a, b| b.cmp(a));
    let mut dirs: Vec<PathBuf> = versioned.into_iter().map(|(_, dir)| dir).collect();
    dirs.extend(["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    // The one look at the environment outside of config: where programs are is not a setting of ours.
    dirs.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    dirs
}

/// The directory of `initdb` and `postgres`. Existing data can be served by the version that made it only.
fn find_programs(configured: Option<&Path>, data_version: Option<u32>) -> Result<PathBuf, EmbeddedError> {
    let dirs = configured.map_or_else(program_dirs, |dir| vec![dir.to_owned()]);
    let mut found = Vec::new();
    for dir in dirs.iter().filter(|dir| dir.join("initdb").exists() && dir.join("postgres").exists()) {
        let version = major_version(&dir.join("postgres"));
        match (version, data_version) {
            (Some(version), Some(data)) if version == data => return Ok(dir.clone()),
            (Some(version), None) if version >= OLDEST_MAJOR => return Ok(dir.clone()),
            _ => {
                let version = version.map_or_else(|| "an unknown version".to_owned(), |v| v.to_string());
                found.push(format!("{version} in {}", dir.display()));
            }
        }
    }
    if found.is_empty() {
        let searched = configured.map_or_else(
            || "/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, PATH".to_owned(),
            |dir| format!("{} (database.postgres_bin)", dir.display()),
        );
        return Err(EmbeddedError::NoPrograms { searched });
    }
    let wanted = data_version.map_or_else(
        || format!("{OLDEST_MAJOR} or newer"),
        |version| format!("{version}, which made the existing data,"),
    );
    Err(EmbeddedError::WrongVersion { wanted, found: found.join(", ") })
}

/// Reads `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split("(PostgreSQL) ").nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
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
fn postgres_in(data: &Path) -> Option<i32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let here = fs::read_link(process.path().join("cwd")).ok()? == data;
        let postgres = fs::read_to_string(process.path().join("comm")).ok()?.starts_with("postgres");
        (here && postgres).then_some(pid)
    })
}

/// Makes the data directory beside its final place, so that a killed first start leaves no half of one.
async fn init_data(layout: &Layout, programs: &Path, account: Option<&Account>) -> Result<(), EmbeddedError> {
    let new = layout.dir.join("data.new");
    if new.exists() {
        fs::remove_dir_all(&new).map_err(EmbeddedError::io("remove", &new))?;
    }
    let program = programs.join("initdb");
    let mut command = child(&program, account, Signal::SIGKILL);
    command.arg("-D").arg(&new);
    // Trust is enough: only the account of the server can enter the socket's directory. Checksums find bad disks.
    command.args(["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-k", "-U", NAME, "--no-instructions"]);
    // The blocking thread waits for its child, so PDEATHSIG cannot strike early.
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.map_err(io::Error::other).flatten().map_err(EmbeddedError::io("run", &program))?;
    if !output.status.success() {
        return Err(EmbeddedError::Initdb { output: last_lines(&String::from_utf8_lossy(&output.stderr)) });
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
        Some(account) => std::os::unix::fs::lchown(&layout.socket, Some(account.uid), Some(account.gid)),
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
/// spawns it ends.
fn child(program: &Path, account: Option<&Account>, on_our_death: Signal) -> Command {
    let mut command = Command::new(program);
    // PGPORT, PGDATA and their like are meant for other servers.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
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
struct Server {
    pid: Pid,
    exited: watch::Receiver<bool>,
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

    fn has_exited(&self) -> bool {
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

    async fn shut_down(&self) {
        let steps = [
            (Signal::SIGINT, FAST_SHUTDOWN_LIMIT), // fast: end the sessions, write a checkpoint
            (Signal::SIGQUIT, Duration::from_secs(2)), // immediate: the next start recovers
            (Signal::SIGKILL, Duration::from_millis(1_000)), // a hung kernel call, perhaps
        ];
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
    /// For errors and panics on the way; after [`Embedded::stop`] there is nothing left to do.
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
    }
}

/// `cannot_connect_now`: the server is alive and replays its log.
fn is_recovering(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "57P03")
}

async fn create_database(mut connection: PgConnection) -> sqlx::Result<()> {
    let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)");
    let exists: bool = query.bind(NAME).fetch_one(&mut connection).await?;
    if !exists {
        connection.execute("CREATE DATABASE incident_sync").await?;
    }
    connection.close().await
}

/// What is worth telling of a log.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that the server's account can reach, whatever the umask is.
    fn open_tempdir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn settings(dir: &tempfile::TempDir) -> EmbeddedSettings {
        EmbeddedSettings { dir: dir.path().join("postgres"), postgres_bin: None }
    }

    async fn count(embedded: &Embedded) -> i64 {
        let mut connection = embedded.connect_options().connect().await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap()
    }

    async fn make_table(embedded: &Embedded) {
        let mut connection = embedded.connect_options().connect().await.unwrap();
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 7) AS n").await.unwrap();
    }

    #[tokio::test]
    async fn data_outlives_the_server() {
        let dir = open_tempdir();
        let settings = settings(&dir);
        let first = Embedded::start(&settings, Hold::Daemon).await.unwrap();
        assert!(first.is_owner());
        make_table(&first).await;
        let mut exited = first.exited();
        assert!(!*exited.borrow_and_update());
        first.stop().await;
        assert!(*exited.borrow(), "the server is gone when stop returns");
        assert_eq!(postgres_in(&settings.dir.join("data").canonicalize().unwrap()), None);

        let second = Embedded::start(&settings, Hold::Command).await.unwrap();
        assert_eq!(count(&second).await, 7);
        assert_eq!(
            second.psql_line(),
            format!("psql -h {}/socket -U incident_sync incident_sync", settings.dir.display())
        );
        second.stop().await;
    }

    #[tokio::test]
    async fn a_guest_sees_the_owner_s_data_and_leaves_the_server_running() {
        let dir = open_tempdir();
        let owner = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
        make_table(&owner).await;
        let guest = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
        assert!(!guest.is_owner());
        assert_eq!(count(&guest).await, 7);
        guest.stop().await;
        assert_eq!(count(&owner).await, 7);
        owner.stop().await;
    }

    #[tokio::test]
    async fn a_command_that_owns_the_server_waits_for_its_guests() {
        let dir = open_tempdir();
        let owner = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
        make_table(&owner).await;
        let guest = Embedded::start(&settings(&dir), Hold::Command).await.unwrap();
        let exited = owner.exited();
        let stopping = tokio::spawn(owner.stop());
        sleep(Duration::from_millis(300)).await;
        assert!(!*exited.borrow());
        assert_eq!(count(&guest).await, 7);
        guest.stop().await;
        stopping.await.unwrap();
        assert!(*exited.borrow());
    }

    #[tokio::test]
    async fn a_crashed_server_is_noticed_and_its_leftovers_hinder_nobody() {
        let dir = open_tempdir();
        let owner = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
        make_table(&owner).await;
        let Role::Owner { server, .. } = &owner.role else { panic!("the first is the owner") };
        kill(server.pid, Signal::SIGKILL).unwrap();
        owner.exited().wait_for(|exited| *exited).await.unwrap();
        let data = owner.layout.data.clone();
        drop(owner);
        // As after a reboot: the pid in the stale file is alive, but somebody else's.
        let stale = fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let lines: Vec<&str> = stale.lines().skip(1).collect();
        fs::write(data.join("postmaster.pid"), format!("1\n{}\n", lines.join("\n"))).unwrap();

        let next = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
        assert_eq!(count(&next).await, 7);
        next.stop().await;
    }

    #[tokio::test]
    async fn a_dropped_server_shuts_down_and_the_next_start_waits_for_it() {
        let dir = open_tempdir();
        let dropped = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
        make_table(&dropped).await;
        drop(dropped);
        let next = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
        assert_eq!(count(&next).await, 7);
        next.stop().await;
    }

    #[tokio::test]
    async fn a_half_made_data_directory_is_made_anew() {
        let dir = open_tempdir();
        fs::create_dir_all(settings(&dir).dir.join("data.new/base")).unwrap();
        let embedded = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap();
        make_table(&embedded).await;
        embedded.stop().await;
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_shows_its_log() {
        let dir = open_tempdir();
        Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap().stop().await;
        fs::write(settings(&dir).dir.join("data/postgresql.conf"), "work_mem = lots\n").unwrap();
        let error = Embedded::start(&settings(&dir), Hold::Daemon).await.unwrap_err().to_string();
        assert!(error.contains("work_mem"), "{error}");
    }

    #[tokio::test]
    async fn errors_name_the_cure() {
        let dir = open_tempdir();
        let no_programs = EmbeddedSettings { postgres_bin: Some(dir.path().to_owned()), ..settings(&dir) };
        let error = Embedded::start(&no_programs, Hold::Daemon).await.unwrap_err().to_string();
        assert!(error.contains("apt-get install postgresql") && error.contains("database.url"), "{error}");

        let long = EmbeddedSettings { dir: dir.path().join("x".repeat(100)), postgres_bin: None };
        let error = Embedded::start(&long, Hold::Daemon).await.unwrap_err().to_string();
        assert!(error.contains("database.embedded_dir"), "{error}");

        if geteuid().is_root() {
            let closed = tempfile::tempdir().unwrap();
            fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
            let error = Embedded::start(&settings(&closed), Hold::Daemon).await.unwrap_err().to_string();
            assert!(error.contains(&format!("{} is closed", closed.path().display())), "{error}");
        }
    }

    #[test]
    fn a_shell_takes_the_psql_line_as_it_is() {
        assert_eq!(shell_word("/var/lib/x"), "/var/lib/x");
        assert_eq!(shell_word("/home/o'neil/my dir"), r"'/home/o'\''neil/my dir'");
    }
}
