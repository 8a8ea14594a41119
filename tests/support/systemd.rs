//! The end of `$NOTIFY_SOCKET` at which systemd would listen.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use super::poll::PATIENCE;

pub(crate) struct Systemd {
    datagrams: Receiver<Vec<String>>,
    path: PathBuf,
    /// Every line so far, in order.
    pub(crate) received: Vec<String>,
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
        Self { datagrams, path, received: Vec::new() }
    }

    pub(crate) fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Listens until a line begins like this, and answers it. Lines that came before do not count.
    pub(crate) fn wait_for(&mut self, beginning: &str) -> String {
        loop {
            let Some(lines) = self.receive(PATIENCE) else {
                panic!("never received: {beginning}; but {:?}", self.received)
            };
            if let Some(line) = lines.into_iter().find(|line| line.starts_with(beginning)) {
                return line;
            }
        }
    }

    /// What has arrived already, after the speaker has ended.
    pub(crate) fn received_to_the_end(&mut self) -> &[String] {
        while self.receive(Duration::from_millis(200)).is_some() {}
        &self.received
    }

    /// What has arrived since the last call of [`Systemd::forget`].
    pub(crate) fn received_so_far(&mut self) -> &[String] {
        while let Ok(lines) = self.datagrams.try_recv() {
            self.received.extend(lines);
        }
        &self.received
    }

    /// What has arrived so far does not count any more.
    pub(crate) fn forget(&mut self) {
        self.received_so_far();
        self.received.clear();
    }

    fn receive(&mut self, patience: Duration) -> Option<Vec<String>> {
        let lines = self.datagrams.recv_timeout(patience).ok()?;
        self.received.extend(lines.clone());
        Some(lines)
    }
}
