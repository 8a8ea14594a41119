//! A wall clock of its own for a process, by libfaketime. Monotonic time stays real.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use chrono::{DateTime, Utc};

/// What processes started with it read as the time. It can be set while they run.
pub(crate) struct FakeClock {
    library: PathBuf,
    /// The offset, read at each look at the clock.
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is right so far; `None` where the Debian package `faketime` is not installed (`scripts/test` and
    /// `.ci/run` install it).
    pub(crate) fn install(folder: &Path) -> Option<Self> {
        let Some(library) = library() else {
            eprintln!("SKIPPED: libfaketime is missing; install it: apt-get install faketime");
            return None;
        };
        let clock = Self { library, file: folder.join("clock") };
        clock.set("+0");
        Some(clock)
    }

    /// Sets the clock to a date.
    pub(crate) fn set_date(&self, date: &str) {
        let now = DateTime::<Utc>::from(SystemTime::now());
        let offset = date.parse::<DateTime<Utc>>().unwrap() - now;
        self.set(&format!("{:+}", offset.num_seconds()));
    }

    /// Sets the clock by an offset to the real time, such as `-10m` or `+2h`.
    pub(crate) fn set(&self, time: &str) {
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, format!("{time}\n")).unwrap();
        std::fs::rename(draft, &self.file).unwrap();
    }

    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Makes a command see this clock.
    pub(crate) fn put_on(&self, command: &mut Command) {
        command.envs(self.environment());
    }

    /// A folder with the server's programs, which see this clock as well: for `database.postgres_bin`.
    pub(crate) fn postgres_bin(&self, folder: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let (programs, bin) = (folder.join("programs"), newest_postgres());
        std::fs::create_dir(&programs).unwrap();
        let environment =
            self.environment().map(|(name, value)| format!("export {name}='{value}'\n"));
        for program in ["postgres", "initdb"] {
            let (path, real) = (programs.join(program), bin.join(program));
            let script =
                format!("#!/bin/sh\n{}exec {} \"$@\"\n", environment.concat(), real.display());
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        programs
    }
}

fn newest_postgres() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap().flatten();
    versions.map(|version| version.path().join("bin")).max().unwrap()
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let mut libraries = libraries.chain([PathBuf::from("/usr/lib64/faketime/libfaketimeMT.so.1")]);
    libraries.find(|library| library.exists())
}
