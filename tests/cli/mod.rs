//! Commands: output, exit statuses, help, doctor, export and import.

mod commands;
mod demo;
mod doctor;
mod documents;
mod entra_codes;
mod erase;
mod exit_statuses;
mod grant_reader;
mod help;
mod import_attacks;
mod manual;
mod move_source;
mod park;
mod status;
mod transfer;
