//! A file with a secret: who may read it is checked at every reading, because files are replaced while we run.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use secrecy::SecretString;

/// Nobody's password or certificate is longer; a wrong path may lead to a disk image.
const LARGEST: u64 = 64 * 1024;

/// Where a secret is, and what may be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// The file.
    pub path: PathBuf,
    /// Where it was looked for, when it was named without a folder: the name may be a secret that was pasted into the
    /// wrong key, so it is never told.
    pub bare: Option<String>,
    /// systemd guards it by itself.
    pub is_guarded: bool,
}

impl SecretFile {
    /// The secret in the file, without its last line break.
    pub fn line(&self) -> Result<SecretString, String> {
        let text = String::from_utf8(self.bytes()?).map_err(|_| self.wrong("is not a text"))?;
        one_line(&text).map_err(|problem| self.wrong(problem))
    }

    /// What is in the file, which must be closed to everybody else.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        self.check_closed()?;
        self.open_bytes()
    }

    /// What is in the file, whoever may read it besides.
    pub fn open_bytes(&self) -> Result<Vec<u8>, String> {
        let meta = fs::metadata(&self.path).map_err(|error| self.cannot_read(&error))?;
        if !meta.is_file() {
            return Err(format!("{} is not a regular file; name a file that holds the secret", self.label()));
        }
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
        read.map_err(|error| self.cannot_read(&error))?;
        if bytes.len() as u64 > LARGEST { Err(self.wrong("is larger than 64 KiB")) } else { Ok(bytes) }
    }

    /// Fails when other users may read the file.
    pub fn check_closed(&self) -> Result<(), String> {
        let meta = fs::metadata(&self.path).map_err(|error| self.cannot_read(&error))?;
        if self.is_guarded || !meta.is_file() || meta.permissions().mode() & 0o077 == 0 {
            return Ok(());
        }
        let path = if self.bare.is_some() { String::new() } else { format!(" {}", self.path.display()) };
        Err(format!("{}{} is open to other users; close it with `chmod 600{path}`", self.label(), self.places()))
    }

    /// How the file is named to the operator.
    pub fn label(&self) -> String {
        if self.bare.is_some() { "the file of that name".to_owned() } else { self.path.display().to_string() }
    }

    fn cannot_read(&self, error: &std::io::Error) -> String {
        let (label, places) = (self.label(), self.places());
        format!("cannot read {label}{places}: {error}; create it with mode 0600, owned by the service's user")
    }

    fn places(&self) -> &str {
        self.bare.as_deref().unwrap_or_default()
    }

    fn wrong(&self, problem: &str) -> String {
        format!("{} {problem}; write the secret alone into it", self.label())
    }
}

fn one_line(text: &str) -> Result<SecretString, &'static str> {
    let line = text.trim_end_matches(['\n', '\r']);
    if line.trim().is_empty() {
        return Err("is empty");
    }
    if line.contains(['\n', '\r', '\0']) {
        return Err("holds more than one line");
    }
    Ok(SecretString::from(line))
}
