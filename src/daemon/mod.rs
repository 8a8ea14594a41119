//! The daemon of `run`: lifecycle, signals, systemd, reload and the HTTP server.

pub mod clock_watch;
pub mod credential_watch;
pub mod fleet_watch;
pub mod http;
pub mod lifecycle;
pub mod reload;
pub mod retirement_watch;
pub(crate) mod signals;
pub mod summary_refresh;
pub(crate) mod systemd;
