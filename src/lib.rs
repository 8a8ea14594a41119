//! incident-sync keeps a Postgres database equal to what Microsoft 365 Defender knows of the incidents of many tenants.

pub mod entra;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod tenant;
