//! What the tests work with.

pub(crate) mod canary;
pub(crate) mod fault_proxy;
pub(crate) mod peer;
pub(crate) mod postgres;
pub(crate) mod server;
pub(crate) mod truth;
pub(crate) mod world;
