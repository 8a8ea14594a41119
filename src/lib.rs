//! incident-sync keeps a Postgres database equal to what Microsoft 365 Defender knows of the incidents of many tenants.

pub mod config;
pub mod defender;
pub mod embedded;
pub mod entra;
pub mod error;
pub mod http;
pub mod pass;
pub mod progress;
pub mod retry;
pub mod rows;
pub mod schedule;
pub mod store;
pub mod tenant;
pub mod tenant_run;
pub mod window;
