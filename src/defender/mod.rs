//! The Defender incidents API.
pub mod paging;
