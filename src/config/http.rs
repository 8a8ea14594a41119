//! `[http]`: the listener of the daemon.

use std::net::SocketAddr;

use super::section::{Report, Section};

/// The listener for health, metrics and the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// A loopback address, because the listener has no authentication.
    pub listen: SocketAddr,
}

pub(super) fn read(mut section: Section, report: &mut Report) -> Http {
    let listen = section.parsed("listen", |text| match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(_) => {
            Err("not a loopback address; listen on 127.0.0.1 and put a proxy with authentication in front of it".to_owned())
        }
        Err(_) => Err("not an address with port; write it like 127.0.0.1:9464".to_owned()),
    });
    let default = SocketAddr::from(([127, 0, 0, 1], 9464));
    section.add_default("listen", default);
    report.close(section);
    Http { listen: listen.ok().unwrap_or(default) }
}
