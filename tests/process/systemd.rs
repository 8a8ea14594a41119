//! The other end of `$NOTIFY_SOCKET`.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// Longer than any step takes; whoever waits so long waits for nothing.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    /// Every line so far, in order.
    pub(crate) heard: Vec<String>,
}

impl Systemd {
    pub(crate) fn listen(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path, heard: Vec::new() }
    }

    pub(crate) fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Listens until a line begins like this, and answers it. Lines that came before do not count.
    pub(crate) fn hears(&mut self, beginning: &str) -> String {
        loop {
            let Some(lines) = self.receive() else { panic!("never said: {beginning}; but {:?}", self.heard) };
            if let Some(line) = lines.into_iter().find(|line| line.starts_with(beginning)) {
                return line;
            }
        }
    }

    /// What has arrived already, after the speaker has ended.
    pub(crate) fn hears_the_rest(&mut self) -> &[String] {
        self.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        while self.receive().is_some() {}
        &self.heard
    }

    fn receive(&mut self) -> Option<Vec<String>> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        self.heard.extend(lines.clone());
        Some(lines)
    }
}
