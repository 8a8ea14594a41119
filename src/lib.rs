//! incident-sync keeps a Postgres database equal to what Microsoft 365 Defender knows of the incidents of many tenants.

pub mod config;
pub mod embedded;
pub mod entra;
pub mod tenant;
