//! The database: content, migrations, faults, retention and purge.

mod bad_rows;
mod content;
mod database_faults;
mod fuzz;
mod graph_rows;
mod outages;
mod purge;
mod retention;
mod schema;
mod schema_snapshots;
mod unchanged;
mod upgrades;
