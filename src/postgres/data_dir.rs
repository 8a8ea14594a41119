//! The directory of the private Postgres: its files and their owner.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Uid, User, geteuid};
use sqlx::postgres::PgConnectOptions;

use super::{EmbeddedError, NAME};

/// Only part of the socket's file name: no port is opened.
pub(super) const PORT: u16 = 5432;
/// `sun_path` has 108 bytes, the last one zero.
pub(super) const SOCKET_PATH_MAX: usize = 107;

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
        if length > SOCKET_PATH_MAX {
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

    /// Written by Postgres into each data directory.
    pub(super) fn version_file(&self) -> PathBuf {
        self.data.join("PG_VERSION")
    }

    /// The version of existing data.
    pub(super) fn data_version(&self) -> Option<u32> {
        fs::read_to_string(self.version_file()).ok()?.trim().parse().ok()
    }

    /// The last lines of the log after its first `from` bytes.
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

/// The account that runs the server for root, because Postgres does not run as root.
#[derive(Debug)]
pub(super) struct Account {
    name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Creates the directory and returns the account for the server; `None` is the current one.
pub(super) fn prepare_dir(layout: &Layout) -> Result<Option<Account>, EmbeddedError> {
    let dir = &layout.dir;
    if !dir.exists() {
        let created = DirBuilder::new().recursive(true).mode(0o755).create(dir);
        created.map_err(EmbeddedError::io("create", dir))?;
        let closed = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
        closed.map_err(EmbeddedError::io("restrict access to", dir))?;
    }
    if !geteuid().is_root() {
        return Ok(None);
    }
    let account = server_account(layout).map_err(EmbeddedError::io("find an account for", dir))?;
    let here = fs::metadata(dir).map_err(EmbeddedError::io("read", dir))?;
    if here.uid() != account.uid {
        let given = std::os::unix::fs::lchown(dir, Some(account.uid), Some(account.gid));
        given.map_err(EmbeddedError::io("change the owner of", dir))?;
    }
    Ok(Some(account))
}

/// The owner of the existing directory or its parent: root may run a command on the database of the daemon's service account,
/// and files that root creates in a service's state directory must belong to the service. Otherwise `postgres`, which the
/// packages create, or `nobody`.
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

/// Reports a closed parent directory by name, because initdb would only report "permission denied". Guests do not need the
/// access: root can enter `/var/lib/private`, where systemd keeps the state of services with a dynamic user.
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
            return Err(EmbeddedError::Unreachable {
                user: account.name.clone(),
                dir: dir.to_owned(),
                parent: parent.to_owned(),
            });
        }
    }
    Ok(())
}

/// Opens a file for appending; creates it if it is missing. The directory may belong to a less trusted account, so no link is
/// followed, and the owner is changed only for a file that was just created.
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

/// The error of the system, with advice if access was denied.
pub(crate) fn io_message(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}. Run this command as root (sudo) or as the service user")
        }
        _ => error.to_string(),
    }
}

/// The last ten lines.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
