//! A proxy before Postgres or the API, with network faults that a test stages.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How sqlx sends the end of a transaction: a simple query of eleven bytes.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What wakes listeners, and a statement of the same length that fails with the code of a full queue of notifications: to
/// fill a real one takes 8 GB before PostgreSQL 17.
const NOTIFY: &[u8] = b"NOTIFY incident_sync_changes";
const FULL: &[u8] = b"SELECT repeat('x',1<<30)    ";

/// Where a proxy leads.
#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The way of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// What is wrong with the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Connections are refused, and existing ones are broken.
    Refuse,
    /// Every connection is accepted and immediately broken; existing ones too.
    Reset,
    /// Connections are accepted, and what is sent vanishes for good, as behind a firewall that has forgotten us.
    Swallow,
    /// Nothing moves until the fault ends; then everything continues.
    Freeze,
    /// Each piece comes so much later.
    Latency(Duration),
    /// So many bytes at a time, with this pause.
    Drip(usize, Duration),
    /// After so many bytes this way, over all connections, the one that carries the last of them breaks; once.
    Cut(Way, usize),
    /// This many COMMITs pass. The connection of the next one breaks before the server has it; once.
    CutBeforeCommit(usize),
    /// This many COMMITs pass. The next one is done by the server, and its connection breaks before the answer is back; once.
    CutAfterCommit(usize),
    /// The server refuses each NOTIFY, as when its queue is full.
    RefuseNotify,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    wire: Arc<Wire>,
    server: JoinHandle<()>,
}

struct Wire {
    upstream: Upstream,
    fault: watch::Sender<Fault>,
    /// How often a fault that strikes once has struck.
    struck: AtomicUsize,
}

/// How a connection ends.
#[derive(PartialEq, Eq)]
enum End {
    Closed,
    Broken,
}

impl Proxy {
    pub(crate) async fn before(upstream: Upstream) -> Self {
        // Not 127.0.0.1, where outgoing connections could take the port while it is free.
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(Wire {
            upstream,
            fault: watch::Sender::new(Fault::None),
            struck: AtomicUsize::new(0),
        });
        let server = tokio::spawn(serve(listener, address, Arc::clone(&wire)));
        Self { address, wire, server }
    }

    /// From now on this is wrong, for connections old and new.
    pub(crate) fn stage(&self, fault: Fault) {
        self.wire.fault.send_replace(fault);
    }

    /// How often a fault that strikes once has struck so far.
    pub(crate) fn struck(&self) -> usize {
        self.wire.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut listener: TcpListener, address: SocketAddr, wire: Arc<Wire>) {
    let mut connections = JoinSet::new();
    let mut fault = wire.fault.subscribe();
    loop {
        if *fault.borrow_and_update() == Fault::Refuse {
            drop(listener);
            let _ = fault.wait_for(|fault| *fault != Fault::Refuse).await;
            listener = TcpListener::bind(address).await.unwrap();
        }
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.unwrap();
                connections.spawn(connect(client, Arc::clone(&wire)));
            }
            _ = fault.changed() => {}
        }
    }
}

async fn connect(mut client: TcpStream, wire: Arc<Wire>) {
    // Small pieces are what some faults are about.
    client.set_nodelay(true).unwrap();
    let end = match &wire.upstream {
        Upstream::Tcp(address) => match TcpStream::connect(address).await {
            Ok(server) => carry(&mut client, server, &wire).await,
            Err(_) => End::Broken,
        },
        Upstream::Unix(path) => match UnixStream::connect(path).await {
            Ok(server) => carry(&mut client, server, &wire).await,
            Err(_) => End::Broken,
        },
    };
    if end == End::Broken {
        // The client gets a reset, not an end of the stream.
        client.set_zero_linger().unwrap();
    }
}

async fn carry(client: &mut TcpStream, server: impl AsyncRead + AsyncWrite, wire: &Wire) -> End {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = tokio::io::split(server);
    let is_doomed = AtomicBool::new(false);
    let mut fault = wire.fault.subscribe();
    tokio::select! {
        _ = fault.wait_for(|fault| matches!(fault, Fault::Refuse | Fault::Reset)) => End::Broken,
        end = pump(from_client, to_server, Way::ToServer, wire, &is_doomed) => end.unwrap_or(End::Broken),
        end = pump(from_server, to_client, Way::ToClient, wire, &is_doomed) => end.unwrap_or(End::Broken),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    wire: &Wire,
    is_doomed: &AtomicBool,
) -> std::io::Result<End> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut chunk).await?;
        wire.thawed().await;
        if length == 0 {
            return Ok(End::Closed);
        }
        if is_doomed.load(Ordering::SeqCst) {
            return Ok(End::Broken);
        }
        let bytes = &mut chunk[..length];
        let is_commit =
            way == Way::ToServer && bytes.windows(COMMIT.len()).any(|window| window == COMMIT);
        let fault = *wire.fault.borrow();
        match fault {
            Fault::None | Fault::Freeze => to.write_all(bytes).await?,
            Fault::RefuseNotify => {
                if let Some(at) = bytes.windows(NOTIFY.len()).position(|window| window == NOTIFY) {
                    bytes[at..at + FULL.len()].copy_from_slice(FULL);
                    wire.struck.fetch_add(1, Ordering::SeqCst);
                }
                to.write_all(bytes).await?;
            }
            Fault::Refuse | Fault::Reset => return Ok(End::Broken),
            // What is lost now never comes: this connection stays dead when the network is back.
            Fault::Swallow => std::future::pending().await,
            Fault::Latency(pause) => {
                tokio::time::sleep(pause).await;
                to.write_all(bytes).await?;
            }
            Fault::Drip(piece, pause) => {
                for piece in bytes.chunks(piece) {
                    to.write_all(piece).await?;
                    if *wire.fault.borrow() == fault {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
            Fault::Cut(..) => {
                let passes = wire.cut(way, length);
                to.write_all(&bytes[..passes]).await?;
                if passes < length {
                    return Ok(End::Broken);
                }
            }
            Fault::CutBeforeCommit(_) if is_commit && wire.strikes_commit() => {
                return Ok(End::Broken);
            }
            Fault::CutAfterCommit(_) if is_commit => {
                is_doomed.store(wire.strikes_commit(), Ordering::SeqCst);
                to.write_all(bytes).await?;
            }
            Fault::CutBeforeCommit(_) | Fault::CutAfterCommit(_) => to.write_all(bytes).await?,
        }
    }
}

impl Wire {
    async fn thawed(&self) {
        let _ = self.fault.subscribe().wait_for(|fault| *fault != Fault::Freeze).await;
    }

    /// Whether it is this COMMIT that the fault strikes.
    fn strikes_commit(&self) -> bool {
        self.strikes(|fault| match fault {
            Fault::CutBeforeCommit(left) | Fault::CutAfterCommit(left) if *left > 0 => {
                *left -= 1;
                false
            }
            Fault::CutBeforeCommit(_) | Fault::CutAfterCommit(_) => true,
            _ => false,
        })
    }

    /// How many of these bytes pass.
    fn cut(&self, way: Way, length: usize) -> usize {
        let mut passes = length;
        self.strikes(|fault| match fault {
            Fault::Cut(cut, left) if *cut == way && *left < length => {
                passes = *left;
                true
            }
            Fault::Cut(cut, left) if *cut == way => {
                *left -= length;
                false
            }
            _ => false,
        });
        passes
    }

    /// A fault that strikes is over.
    fn strikes(&self, count_down: impl FnOnce(&mut Fault) -> bool) -> bool {
        let strikes = self.fault.send_if_modified(|fault| {
            let strikes = count_down(fault);
            if strikes {
                *fault = Fault::None;
            }
            strikes
        });
        self.struck.fetch_add(usize::from(strikes), Ordering::SeqCst);
        strikes
    }
}

/// A server that says everything twice.
async fn doubling_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut word = [0; 4];
                while client.read_exact(&mut word).await.is_ok() {
                    client.write_all(&[word, word].concat()).await.unwrap();
                }
            });
        }
    });
    address
}

/// What comes back within the time: all of it, a part and an error, or a part and silence.
async fn ask(client: &mut TcpStream) -> (String, Option<std::io::ErrorKind>) {
    let (mut answer, mut byte) = (String::new(), [0]);
    if let Err(error) = client.write_all(b"ping").await {
        return (answer, Some(error.kind()));
    }
    while answer.len() < 8 {
        match tokio::time::timeout(Duration::from_millis(500), client.read(&mut byte)).await {
            Ok(Ok(0)) => return (answer, Some(std::io::ErrorKind::UnexpectedEof)),
            Ok(Ok(_)) => answer.push(char::from(byte[0])),
            Ok(Err(error)) => return (answer, Some(error.kind())),
            Err(_) => return (answer, Some(std::io::ErrorKind::TimedOut)),
        }
    }
    (answer, None)
}

#[tokio::test]
async fn each_proxy_fault_behaves_as_named() {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};
    let proxy = Proxy::before(Upstream::Tcp(doubling_server().await)).await;
    let fresh = async || TcpStream::connect(proxy.address).await;
    let (whole, nothing) = (("pingping".to_owned(), None), String::new());
    let mut client = fresh().await.unwrap();
    assert_eq!(ask(&mut client).await, whole);

    proxy.stage(Fault::Freeze);
    assert_eq!(ask(&mut client).await, (nothing.clone(), Some(TimedOut)));
    proxy.stage(Fault::Drip(3, Duration::from_millis(1)));
    assert_eq!(ask(&mut client).await, whole, "what was frozen arrives");
    proxy.stage(Fault::Latency(Duration::from_millis(1)));
    assert_eq!(ask(&mut client).await, whole);

    proxy.stage(Fault::Swallow);
    let mut other = fresh().await.unwrap();
    assert_eq!(ask(&mut other).await, (nothing.clone(), Some(TimedOut)));
    proxy.stage(Fault::None);
    assert_eq!(
        ask(&mut other).await,
        (nothing.clone(), Some(TimedOut)),
        "what was swallowed never arrives"
    );

    let mut third = fresh().await.unwrap();
    assert_eq!(ask(&mut third).await, whole);
    proxy.stage(Fault::Reset);
    assert_eq!(ask(&mut third).await, (nothing.clone(), Some(ConnectionReset)));
    proxy.stage(Fault::Refuse);
    // The listener goes a moment later.
    while fresh().await.is_ok() {}
    assert_eq!(fresh().await.unwrap_err().kind(), ConnectionRefused);
    proxy.stage(Fault::None);
    let mut fourth = loop {
        if let Ok(client) = fresh().await {
            break client;
        }
    };
    assert_eq!(ask(&mut fourth).await, whole);

    proxy.stage(Fault::Cut(Way::ToClient, 19));
    assert_eq!(ask(&mut fourth).await, whole);
    assert_eq!(ask(&mut fresh().await.unwrap()).await, whole);
    let (part, error) = ask(&mut fourth).await;
    assert!("pin".starts_with(&part) && error == Some(ConnectionReset), "{part} {error:?}");
    proxy.stage(Fault::Cut(Way::ToServer, 2));
    assert_eq!(ask(&mut fresh().await.unwrap()).await, (nothing, Some(ConnectionReset)));
    assert_eq!(proxy.struck(), 2);
    assert_eq!(ask(&mut fresh().await.unwrap()).await, whole);
}

/// A proxy before the database, and how to connect through it.
pub(crate) async fn proxied(database: &PgConnectOptions) -> (Proxy, PgConnectOptions) {
    let socket = database.get_socket().unwrap().join(".s.PGSQL.5432");
    let proxy = Proxy::before(Upstream::Unix(socket)).await;
    let options = PgConnectOptions::new_without_pgpass()
        .host(&proxy.address.ip().to_string())
        .port(proxy.address.port())
        .username(database.get_username())
        .database(database.get_database().unwrap())
        .ssl_mode(PgSslMode::Disable);
    (proxy, options)
}
