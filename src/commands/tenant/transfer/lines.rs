//! The lines of a file, each of bounded length.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use crate::api::BODY_BYTES_MAX;

/// A row is at most one body of the API as a JSON string, in which each character may need a backslash, plus small columns.
const LINE_BYTES_MAX: usize = 2 * BODY_BYTES_MAX + 1024 * 1024;

#[derive(Debug)]
pub(in crate::commands::tenant) struct Lines<R> {
    reader: R,
    bytes_max: usize,
}

impl Lines<BufReader<File>> {
    pub(in crate::commands::tenant) fn of(file: File) -> Self {
        Self { reader: BufReader::new(file), bytes_max: LINE_BYTES_MAX }
    }
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; `None` after the last one.
    pub(in crate::commands::tenant) fn next(&mut self) -> Result<Option<String>, String> {
        let mut line = Vec::new();
        let longest = self.bytes_max as u64 + 1;
        let read = self.reader.by_ref().take(longest).read_until(b'\n', &mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > self.bytes_max {
            return Err(format!(
                "a line is longer than {} bytes, which no export writes",
                self.bytes_max
            ));
        }
        String::from_utf8(line).map(Some).map_err(|_| "a line is not UTF-8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_beyond_the_limit_is_refused() {
        let mut lines = Lines { reader: &b"four\n\nfive5\nfour"[..], bytes_max: 5 };
        assert_eq!(lines.next().unwrap().as_deref(), Some("four"));
        assert_eq!(lines.next().unwrap().as_deref(), Some(""));
        assert_eq!(lines.next().unwrap().as_deref(), Some("five5"));
        assert_eq!(lines.next().unwrap().as_deref(), Some("four"));
        assert_eq!(lines.next().unwrap(), None);
        let mut lines = Lines { reader: &b"sixsix\n"[..], bytes_max: 5 };
        assert!(lines.next().unwrap_err().contains("longer than 5 bytes"));
        let mut lines = Lines { reader: &b"\xff\n"[..], bytes_max: 5 };
        assert!(lines.next().is_err());
    }
}
