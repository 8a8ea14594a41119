//! The incident as a domain, without I/O: decoding, rows, hashes and windows.

pub mod decode;
pub mod person;
pub mod rows;
pub mod window;
