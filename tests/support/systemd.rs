//! The other end of `$NOTIFY_SOCKET`.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// Longer than any step takes; whoever waits so long waits for nothing.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Systemd {
    datagrams: Receiver<Vec<String>>,
    path: PathBuf,
    /// Every line so far, in order.
    pub(crate) heard: Vec<String>,
}

impl Systemd {
    /// A thread reads what arrives, as systemd does: a socket that is full blocks its sender.
    pub(crate) fn listen(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).unwrap();
        let (sender, datagrams) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if sender.send(text.lines().map(str::to_owned).collect()).is_err() {
                    return;
                }
            }
        });
        Self { datagrams, path, heard: Vec::new() }
    }

    pub(crate) fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Listens until a line begins like this, and answers it. Lines that came before do not count.
    pub(crate) fn hears(&mut self, beginning: &str) -> String {
        loop {
            let Some(lines) = self.receive(PATIENCE) else {
                panic!("never said: {beginning}; but {:?}", self.heard)
            };
            if let Some(line) = lines.into_iter().find(|line| line.starts_with(beginning)) {
                return line;
            }
        }
    }

    /// What has arrived already, after the speaker has ended.
    pub(crate) fn hears_the_rest(&mut self) -> &[String] {
        while self.receive(Duration::from_millis(200)).is_some() {}
        &self.heard
    }

    /// What has arrived since the last call of [`Systemd::forget`].
    pub(crate) fn heard_so_far(&mut self) -> &[String] {
        while let Ok(lines) = self.datagrams.try_recv() {
            self.heard.extend(lines);
        }
        &self.heard
    }

    /// What has arrived so far does not count any more.
    pub(crate) fn forget(&mut self) {
        self.heard_so_far();
        self.heard.clear();
    }

    fn receive(&mut self, patience: Duration) -> Option<Vec<String>> {
        let lines = self.datagrams.recv_timeout(patience).ok()?;
        self.heard.extend(lines.clone());
        Some(lines)
    }
}
