//! End-to-end tests: a real Postgres of their own, real HTTP to the simulator.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod bad_rows;
mod content;
mod credentials;
mod database;
mod database_faults;
mod database_owner;
mod dictionary;
mod errors;
mod examples;
mod feed;
mod fuzz;
mod gaps;
mod held_attempts;
mod hostile_replies;
mod instances;
mod isolation;
#[expect(dead_code, reason = "the tests beside the code use the rest")]
#[path = "../mutate/mod.rs"]
mod mutate;
mod peers;
mod private_state;
mod purge;
mod readers;
mod repair;
mod reporting;
mod retention;
mod rls_bypass;
mod schema;
mod search_path;
mod secrets;
mod summaries;
mod support;
mod sync;
mod upgrades;
