//! All data of one tenant: purge, export and import.

pub mod purge;
pub mod rows;
