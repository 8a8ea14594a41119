//! Access tokens of the customer tenants, from Microsoft Entra ID.

pub mod certificate;
mod circuit_breaker;
pub mod claims;
pub mod credential;
pub mod expiry;
pub mod managed_identity;
pub mod secret_file;
mod tenant;
#[cfg(test)]
mod tests;
mod token_cache;
mod token_reply;
mod token_request;

pub use tenant::Tenant;
pub use token_cache::TokenCache;
pub use token_request::Token;
