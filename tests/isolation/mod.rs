//! Row-level security, readers, owners, and what each may see.

mod database_owner;
mod penetration_attempts;
mod private_state;
mod readers;
mod rls_bypass;
mod row_security;
mod search_path;
mod secrets;
