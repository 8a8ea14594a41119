//! The directory of the private Postgres: what lies where in it, and whose it is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Uid, User, geteuid};
use sqlx::postgres::PgConnectOptions;

use super::{EmbeddedError, NAME};

/// Names the socket file only: nothing listens on a port.
pub(super) const PORT: u16 = 5432;
/// `sun_path` holds 108 bytes, the last of them zero.
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

/// The files in the directory.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) data: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) log: PathBuf,
}

impl Layout {
    pub(super) fn of(dir: &Path) -> Result<Self, EmbeddedError> {
        let dir = std::path::absolute(dir).map_err(EmbeddedError::io("resolve", dir))?;
        let socket = dir.join("socket");
        let path = socket.join(format!(".s.PGSQL.{PORT}"));
        let length = path.as_os_str().len();
        if length > LONGEST_SOCKET_PATH {
            return Err(EmbeddedError::SocketPath { path, length });
        }
        Ok(Self { data: dir.join("data"), log: dir.join("postgres.log"), socket, dir })
    }

    pub(super) fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.socket)
            .port(PORT)
            .username(NAME)
            .database(database)
    }

    /// Postgres writes it into each data directory.
    pub(super) fn version_file(&self) -> PathBuf {
        self.data.join("PG_VERSION")
    }

    /// The version that made the data, if there is any.
    pub(super) fn data_version(&self) -> Option<u32> {
        fs::read_to_string(self.version_file()).ok()?.trim().parse().ok()
    }

    /// The last lines that the server wrote since its log had `from` bytes.
    pub(super) fn log_tail(&self, from: u64) -> String {
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
pub(super) struct Account {
    name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Makes the directory and says as whom the server must run; `None` is as ourselves.
pub(super) fn prepare_dir(layout: &Layout) -> Result<Option<Account>, EmbeddedError> {
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
    Ok(Some(account))
}

/// What exists already stays with its owner: root may look into the database of the daemon's service account, and what
/// root makes in a service's state directory must be the service's. Else `postgres`, which the packages make, or
/// `nobody`.
fn server_account(layout: &Layout) -> io::Result<Account> {
    let nearest = [Some(layout.data.as_path()), Some(layout.dir.as_path()), layout.dir.parent()];
    let mut owners = nearest.into_iter().flatten().filter_map(|path| fs::metadata(path).ok());
    if let Some(owned) = owners.find(|meta| meta.uid() != 0) {
        let user = User::from_uid(Uid::from_raw(owned.uid()))?;
        let name = user.map_or_else(|| owned.uid().to_string(), |user| user.name);
        return Ok(Account { name, uid: owned.uid(), gid: owned.gid() });
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() });
        }
    }
    Err(io::Error::other("neither user postgres nor user nobody exists"))
}

/// Tells a closed parent directory now and by name, where initdb would only say "permission denied". A guest needs no
/// such way: root enters `/var/lib/private`, where systemd keeps what belongs to a service's passing account.
pub(super) fn check_reach(dir: &Path, account: &Account) -> Result<(), EmbeddedError> {
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
pub(super) fn open_private(path: &Path, account: Option<&Account>) -> io::Result<File> {
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

/// What the system answered, and what to do where it denies us a file of the service.
pub(crate) fn answer(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}; run this as root (sudo) or as the service's user")
        }
        _ => error.to_string(),
    }
}

/// What is worth telling of a log.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
