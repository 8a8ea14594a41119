//! The incident as a domain, without I/O: decoding, columns, rows, hashes, windows, gaps and the paging plan.

pub mod columns;
pub mod decode;
pub mod gap;
pub mod hash;
pub mod paging;
pub mod person;
pub mod raw;
pub mod rows;
pub mod tenant_check;
pub mod text;
pub mod window;
