//! incident-sync mirrors Microsoft 365 Defender incidents from many customer tenants into one Postgres database.
//!
//! Data flows one way: config -> schedule -> tenant -> token -> pages -> decode -> rows -> upsert -> watermark.
//! `ARCHITECTURE.md` has the map.

pub mod api;
pub mod commands;
pub mod config;
pub mod context;
pub mod daemon;
pub mod doctor;
pub mod entra;
pub mod error;
pub mod failpoint;
pub mod http_client;
pub mod incident;
pub mod postgres;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod tenant;

#[cfg(test)]
#[path = "../tests/mutate/mod.rs"]
mod mutate;
