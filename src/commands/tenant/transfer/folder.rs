//! The folder of an export. Files are opened relative to the open folder, so that replacing the path has no effect.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::geteuid;

use super::cannot;
use crate::commands::exit::Failure;

/// An open folder.
#[derive(Debug)]
pub(in crate::commands::tenant) struct Folder {
    opened: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder for an export: a new one, or an empty one that only its owner can read.
    pub(in crate::commands::tenant) fn prepare(path: &Path) -> Result<Self, Failure> {
        // Without a trailing slash, which would make the system follow a link.
        let path: PathBuf = path.components().collect();
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created.map_err(|error| cannot("create", &path, &error))?,
        }
        let refused = |why: &str| {
            Failure::Configuration(format!("{} {why}. Choose a new folder", path.display()))
        };
        let about = fs::symlink_metadata(&path).map_err(|error| cannot("read", &path, &error))?;
        if !about.is_dir() {
            return Err(refused(if about.is_symlink() {
                "is a symbolic link"
            } else {
                "is not a folder"
            }));
        }
        let folder = Self::opened(path.clone(), OFlag::O_NOFOLLOW)?;
        let about =
            File::from(folder.opened.try_clone().map_err(|error| cannot("read", &path, &error))?)
                .metadata();
        let about = about.map_err(|error| cannot("read", &path, &error))?;
        if about.uid() != geteuid().as_raw() {
            return Err(refused(&format!(
                "is owned by user {}, who could read the export",
                about.uid()
            )));
        }
        let mode = about.permissions().mode() & 0o777;
        if mode != 0o700 {
            return Err(refused(&format!(
                "has mode {mode:04o}: the folder of an export needs mode 0700"
            )));
        }
        match fs::read_dir(&path).map(|mut entries| entries.next().is_some()) {
            Ok(false) => Ok(folder),
            Ok(true) => Err(refused("is not empty")),
            Err(error) => Err(cannot("read", &path, &error)),
        }
    }

    /// Opens a folder with an export.
    pub(in crate::commands::tenant) fn existing(path: &Path) -> Result<Self, Failure> {
        Self::opened(path.to_owned(), OFlag::empty())
    }

    fn opened(path: PathBuf, more: OFlag) -> Result<Self, Failure> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | more;
        match open(&path, flags, Mode::empty()) {
            Ok(opened) => Ok(Self { opened, path }),
            Err(error) => Err(cannot("open", &path, &error.into())),
        }
    }

    /// The path of a file in the folder, for messages.
    pub(in crate::commands::tenant) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Creates a file that only its owner can read.
    pub(in crate::commands::tenant) fn create(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.opened, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// Opens a regular file, not a link: reading a pipe or a device could block indefinitely.
    pub(in crate::commands::tenant) fn open(&self, name: &str) -> io::Result<File> {
        let not_regular = || io::Error::other("it is not a regular file");
        // Opening a device can have an effect.
        let about = fstatat(&self.opened, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(not_regular());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.opened, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
    }

    /// Makes the names of the files durable.
    pub(in crate::commands::tenant) fn sync(&self) -> io::Result<()> {
        File::from(self.opened.try_clone()?).sync_all()
    }
}
