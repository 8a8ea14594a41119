//! The real binary, as systemd, an operator and a power cut meet it: started, signalled, reloaded, killed and asked.
//! The simulator runs in this process; the binary reaches it over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod commands;
mod credentials;
mod demonstration;
mod dispatcher;
mod doctor;
mod erase;
mod failpoints;
mod gaps;
mod help;
mod hostile_replies;
mod import_attacks;
mod installation;
mod instances;
mod kill_loop;
mod kills;
mod lifecycle;
mod listener_attacks;
mod log;
mod manual;
mod onboarding;
mod park;
mod password;
mod proxy;
mod readers;
mod reload;
mod status_page;
mod systemd;
mod tls;
mod transfer;
#[path = "../it/support/truth.rs"]
mod truth;
