//! All data of one tenant: purge, export, import and changes of all rows.

mod change_rows;
pub mod purge;
mod read_rows;
pub mod rows;
