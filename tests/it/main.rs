//! End-to-end tests: a real Postgres of their own, real HTTP to the simulator.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod bad_rows;
mod content;
mod credentials;
mod database;
mod dictionary;
mod errors;
mod examples;
mod feed;
mod fuzz;
mod held_attempts;
mod holes;
mod hostile_replies;
mod instances;
mod isolation;
mod life;
#[expect(dead_code, reason = "the tests beside the code use the rest")]
#[path = "../mutate/mod.rs"]
mod mutate;
mod owners;
mod peers;
mod private_state;
mod readers;
mod repair;
mod reporting;
mod retention;
mod schema;
mod search_path;
mod secrets;
mod summaries;
mod support;
mod sync;
mod troubles;
mod upgrades;
mod ways_around;
