//! The daemon's HTTP server: health, metrics and the status page.

pub mod server;
pub mod status_page;
