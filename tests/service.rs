//! The real binary: started, signalled, reloaded, killed and called as a command. The simulator runs in the test process;
//! the binary reaches it over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod cli;
mod daemon;
mod faults;
mod onboarding;

/// What `tests/engine.rs` does not need is declared here only.
mod support {
    pub(crate) mod faketime;
    pub(crate) mod field_case;
    pub(crate) mod folder;
    pub(crate) mod golden;
    pub(crate) mod graph_truth;
    pub(crate) mod installation;
    pub(crate) mod poll;
    pub(crate) mod proxy;
    pub(crate) mod redact;
    pub(crate) mod secrets;
    pub(crate) mod systemd;
    pub(crate) mod tenants;
    pub(crate) mod tls;
    pub(crate) mod truth;
}
