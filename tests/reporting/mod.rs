//! Views, summaries, change feed, data dictionary and dashboard.

mod dictionary;
mod examples;
mod feed;
mod questions;
mod row_versions;
mod summaries;
mod views;
