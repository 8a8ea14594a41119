//! The facts about the database.

use sqlx::postgres::PgConnectOptions;

use super::diagnose::unreachable_database;
use super::finding::ErrorText;
use super::network;
use crate::config::{Database, DatabaseServer};
use crate::context::OpenDatabase;
use crate::postgres::EmbeddedError;
use crate::store::inspect::{self, Inspection};

#[derive(Debug)]
pub struct DatabaseFacts {
    /// The server, without a password.
    pub server: String,
    /// The number of addresses of its name; `None` for a socket.
    pub looked_up: Option<Result<usize, String>>,
    /// Whether it accepts connections; `None` for a socket or an unresolved name.
    pub connected: Option<Result<(), String>>,
    /// What the server reports; else the advice and the error.
    pub inspection: Result<Inspection, (String, Option<ErrorText>)>,
}

pub(super) async fn probe_database(
    database: &Database,
    opened: Result<&OpenDatabase, &EmbeddedError>,
) -> DatabaseFacts {
    let opened = match opened {
        Ok(opened) => Ok(&opened.store),
        Err(error) => Err((error.to_string(), None)),
    };
    let (server, looked_up, connected, opened) = match &database.server {
        DatabaseServer::Embedded(settings) => {
            (format!("private Postgres in {}", settings.dir.display()), None, None, opened)
        }
        DatabaseServer::Url(url) => {
            let (looked_up, connected) = probe_database_host(url.connect_options()).await;
            let is_cut =
                [looked_up.as_ref().map(Result::is_ok), connected.as_ref().map(Result::is_ok)]
                    .contains(&Some(false));
            let opened = if is_cut {
                Err((String::new(), None)) // The finding of the failed step has the reason.
            } else {
                let once = inspect::connect_once(url.connect_options()).await;
                once.map_err(|error| unreachable_database(&error)).and(opened)
            };
            (url.to_string(), looked_up, connected, opened)
        }
    };
    let inspection = match opened {
        Ok(store) => store.inspect().await.map_err(|error| unreachable_database(&error)),
        Err(unopened) => Err(unopened),
    };
    DatabaseFacts { server, looked_up, connected, inspection }
}

/// The number of addresses of the server and whether it accepts connections; `None` for a socket.
async fn probe_database_host(
    options: &PgConnectOptions,
) -> (Option<Result<usize, String>>, Option<Result<(), String>>) {
    let host = options.get_host();
    let port = options.get_port();
    if options.get_socket().is_some() || host.starts_with('/') {
        return (None, None);
    }
    let looked_up = network::look_up_name(host, port).await;
    let connected = if looked_up.is_ok() { Some(network::connect(host, port).await) } else { None };
    (Some(looked_up), connected)
}
