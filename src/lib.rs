//! incident-sync keeps a Postgres database equal to what Microsoft 365 Defender knows of the incidents of many tenants.
//!
//! Data flows one way: config -> schedule -> tenant -> token -> pages -> decode -> rows -> upsert -> watermark.
//! `ARCHITECTURE.md` has the map.

pub mod beat;
pub mod check;
pub mod cli;
pub mod config;
pub mod consent;
pub mod daemon;
pub mod defender;
#[cfg(feature = "simulator")]
pub mod demo;
pub mod embedded;
pub mod entra;
pub mod erase;
pub mod error;
pub mod expiry;
pub mod failpoint;
pub mod failure;
pub mod http;
pub mod life;
pub mod listener;
pub mod manual;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod pages;
pub mod park;
pub mod pass;
pub mod person;
pub mod progress;
pub mod readers;
pub mod reload;
pub mod report;
pub mod retention;
pub mod retry;
pub mod rows;
pub mod schedule;
pub mod secret_file;
pub mod setup;
mod signals;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod slots;
pub mod status_page;
pub mod store;
pub mod summaries;
mod systemd;
pub mod telemetry;
pub mod tenant;
mod tenant_metrics;
pub mod tenant_run;
pub mod transfer;
pub mod trust;
pub mod verify;
pub mod window;

#[cfg(test)]
#[path = "../tests/mutate/mod.rs"]
mod mutate;
