//! The Defender incidents API.
pub mod paging;
pub mod wire;
