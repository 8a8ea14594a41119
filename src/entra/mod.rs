//! Tokens of the customer tenants.
pub mod credential;
