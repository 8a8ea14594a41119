//! The incident as a domain, without I/O: decoding, rows, hashes, windows and gaps.

pub mod decode;
pub mod gap;
pub mod person;
pub mod rows;
pub mod window;
