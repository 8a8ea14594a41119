//! The connections of the listener: few, and each with a deadline, because every local user can open them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Enough for a monitor, a health check and some browsers; leaves descriptors for the database and the API.
const CONNECTIONS_MAX: usize = 64;
/// The time for the head of the next request.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// The pause after a failed accept, for example without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then closes each connection after its current request.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let open = Arc::new(Open::default());
    let mut tasks = JoinSet::new();
    for number in 0.. {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::debug!(error = %error, "Cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while tasks.len() >= CONNECTIONS_MAX && !stop.is_cancelled() {
            open.close_oldest_idle();
            tokio::select! {
                _ = tasks.join_next() => {}
                () = open.became_idle.notified() => {}
                () = stop.cancelled() => {}
            }
        }
        let open = Arc::clone(&open);
        let router = router.clone();
        let stop = stop.clone();
        let connection = open.add(number);
        tasks.spawn(async move {
            converse(socket, router, &open, &connection, &stop).await;
            open.remove(number);
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// The connections in the order of their arrival.
#[derive(Default)]
struct Open {
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    became_idle: Notify,
}

#[derive(Default)]
struct Connection {
    /// A request is being answered.
    is_busy: AtomicBool,
    closed: CancellationToken,
}

impl Open {
    fn add(&self, number: u64) -> Arc<Connection> {
        let connection = Arc::<Connection>::default();
        let mut connections = self.connections.lock();
        connections.insert(number, Arc::clone(&connection));
        connection
    }

    fn remove(&self, number: u64) {
        self.connections.lock().remove(&number);
    }

    /// Closes the oldest idle connection for a new one: idle ones must not block a health check.
    fn close_oldest_idle(&self) {
        let connections = self.connections.lock();
        if let Some(idle) =
            connections.values().find(|connection| !connection.is_busy.load(Ordering::Relaxed))
        {
            idle.closed.cancel();
        }
    }
}

async fn converse(
    socket: TcpStream,
    router: Router,
    open: &Open,
    connection: &Connection,
    stop: &CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        connection.is_busy.store(true, Ordering::Relaxed);
        let answered = router.call(request);
        async move {
            let answer = answered.await;
            connection.is_busy.store(false, Ordering::Relaxed);
            open.became_idle.notify_one();
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(socket), answer));
    // Errors are ignored: the peer disconnected, timed out or sent something other than HTTP.
    tokio::select! {
        _ = serving.as_mut() => {}
        () = connection.closed.cancelled() => {}
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}
