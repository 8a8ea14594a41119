//! End-to-end tests: a real Postgres of their own, real HTTP to the simulator.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod content;
mod errors;
mod holes;
mod instances;
mod peers;
mod repair;
mod schema;
mod support;
mod sync;
mod troubles;
