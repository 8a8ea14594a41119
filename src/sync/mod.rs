//! Decides which tenant is read when and in what order, and runs it. Knows no SQL, JSON or HTTP.

pub mod engine;
pub mod fleet_change;
pub mod heartbeat;
pub mod lease_deadlines;
pub mod page_fetcher;
pub mod page_writer;
pub mod problems;
pub mod progress;
pub mod retention;
pub mod retirement;
pub mod retry;
pub mod run_slots;
pub mod schedule;
mod source_breaker;
mod source_proof;
pub mod source_switch;
pub mod status_document;
pub mod tenant_run;
pub mod tenant_state;
pub mod verify;
