//! The library end to end: a real Postgres of its own, real HTTP to the simulator.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod isolation;
#[expect(dead_code, reason = "the tests beside the code use the rest")]
mod mutate;
mod reporting;
mod store;
mod sync;

/// What `tests/service.rs` does not need is declared here only.
mod support {
    pub(crate) mod canary;
    pub(crate) mod cases;
    pub(crate) mod fault_proxy;
    pub(crate) mod field_case;
    pub(crate) mod folder;
    pub(crate) mod golden;
    pub(crate) mod graph_truth;
    pub(crate) mod peer;
    pub(crate) mod poll;
    pub(crate) mod postgres;
    pub(crate) mod roles;
    pub(crate) mod secrets;
    pub(crate) mod server;
    pub(crate) mod tenants;
    pub(crate) mod truth;
    pub(crate) mod world;
}
