//! The commands of `tenant`: park, resume, purge, erase-person, export and import.

pub mod erase_person;
pub mod park;
pub mod purge;
pub mod transfer;
