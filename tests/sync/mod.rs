//! Runs against the simulator and scripted peers: complete reading, errors, credentials, instances.

mod credentials;
mod entra_refusals;
mod errors;
mod gaps;
mod graph_alerts;
mod graph_errors;
mod graph_runs;
mod hostile_replies;
mod instances;
mod large_pages;
mod late_changes;
mod peers;
mod repair;
mod retirement;
mod runs;
mod source_moves;
