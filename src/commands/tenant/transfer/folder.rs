//! The folder of an export, held open: its files are reached through the open folder, so that nobody who may change the path
//! to it puts another one in its place meanwhile.

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
pub(super) struct Folder {
    opened: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// A folder to write an export into: made if it is absent, else empty, ours and closed to everybody else.
    pub(super) fn prepare(path: &Path) -> Result<Self, Failure> {
        // Without a slash at its end, behind which a link would be followed.
        let path: PathBuf = path.components().collect();
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|error| cannot("make", &path, &error))?,
        }
        let refused = |why: &str| {
            Failure::Configuration(format!("{} {why}. Name a new folder", path.display()))
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
                "belongs to user {}, who could read the export",
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

    /// A folder to read an export from.
    pub(super) fn existing(path: &Path) -> Result<Self, Failure> {
        Self::opened(path.to_owned(), OFlag::empty())
    }

    fn opened(path: PathBuf, more: OFlag) -> Result<Self, Failure> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | more;
        match open(&path, flags, Mode::empty()) {
            Ok(opened) => Ok(Self { opened, path }),
            Err(error) => Err(cannot("open", &path, &error.into())),
        }
    }

    /// The path of a file in it, for messages.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new file that nobody else may read.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.opened, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// A file to read, which is regular and no link: a pipe without a writer would be waited for, and a device read for ever.
    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        let not_regular = || io::Error::other("it is not a regular file");
        // To open a device can already have an effect.
        let about = fstatat(&self.opened, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(not_regular());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.opened, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
    }

    /// Lets the names of its files survive a crash.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::from(self.opened.try_clone()?).sync_all()
    }
}
