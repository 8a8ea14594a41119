//! The daemon: start, end, reload, log, status page, credentials, network.

mod clock;
mod credentials;
mod dispatcher;
mod gaps;
mod instances;
mod lifecycle;
mod listener_attacks;
mod log;
mod log_fields;
mod metrics;
mod password;
mod proxy;
mod reload;
mod removal;
mod retirement;
mod schema_changes;
mod status_page;
mod status_page_snapshots;
mod tls;
