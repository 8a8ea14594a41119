//! The incident as a domain, without I/O: decoding, columns, rows, hashes, windows and gaps.

pub mod columns;
pub mod decode;
pub mod gap;
pub mod hash;
pub mod person;
pub mod raw;
pub mod rows;
pub mod tenant_check;
pub mod text;
pub mod window;
