//! Views, summaries, change feed, data dictionary and dashboard.

mod dictionary;
mod examples;
mod feed;
mod summaries;
mod views;
