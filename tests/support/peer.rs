//! A peer over a raw socket that sends exactly the bytes of a test, and records the requests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::world::id;

/// What a token of this peer begins with; the number of its tenant follows.
pub(crate) const TOKEN: &str = "canary-token-77aa-";

/// One request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The tenant, from the path or from the token.
    pub(crate) tenant: u128,
    /// The port that it came to.
    pub(crate) port: String,
    /// How often the tenant has asked this endpoint before.
    pub(crate) before: usize,
}

impl Asked {
    pub(crate) fn is_token(&self) -> bool {
        self.method == "POST"
    }
}

/// One thing that a peer does; after the last one it closes the connection as it should be.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Say(Vec<u8>),
    /// This many bytes at a time with this pause, to the end.
    Drip(Vec<u8>, usize, Duration),
    /// Says this again and again, as long as anybody listens.
    Forever(Vec<u8>, Duration),
    /// Breaks the connection.
    Reset,
    /// Keeps the connection and sends nothing more.
    Silence,
}

/// What a peer does when it is asked.
pub(crate) type Script = dyn Fn(&Asked) -> Vec<Step> + Send + Sync;

pub(crate) struct Peer {
    pub(crate) url: Url,
    seen: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Peer {
    pub(crate) async fn start(
        script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                // A client that goes away in the middle is none of the peer's business.
                tokio::spawn(async move {
                    let _ = converse(socket, &*script, &log).await;
                });
            }
        });
        Self { url, seen, server }
    }

    /// All that was asked, in order.
    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }

    /// How often a tenant asked the API.
    pub(crate) fn pages(&self, tenant: u128) -> usize {
        self.seen().iter().filter(|asked| asked.tenant == tenant && !asked.is_token()).count()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn converse(
    mut socket: TcpStream,
    script: &Script,
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let asked = read_request(&mut socket).await?;
    let asked = {
        let mut log = log.lock().unwrap();
        let before = log
            .iter()
            .filter(|seen| seen.tenant == asked.tenant && seen.method == asked.method)
            .count();
        let asked = Asked { before, ..asked };
        log.push(asked.clone());
        asked
    };
    for step in script(&asked) {
        match step {
            Step::Say(bytes) => socket.write_all(&bytes).await?,
            Step::Drip(bytes, piece, pause) => {
                for piece in bytes.chunks(piece) {
                    socket.write_all(piece).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Step::Forever(bytes, pause) => loop {
                socket.write_all(&bytes).await?;
                tokio::time::sleep(pause).await;
            },
            Step::Reset => return socket.set_zero_linger(),
            // Ends when the client gives up.
            Step::Silence => {
                let _ = socket.read(&mut [0]).await?;
            }
        }
    }
    socket.shutdown().await
}

async fn read_request(socket: &mut TcpStream) -> std::io::Result<Asked> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break String::from_utf8_lossy(&bytes[..end]).into_owned();
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head.len() + 4 + length {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let of_path = path[1..].split('/').next().and_then(|word| word.parse::<uuid::Uuid>().ok());
    let of_path = of_path.map(|tenant| tenant.as_u128() - id(0).as_u128());
    let of_token =
        header("authorization").and_then(|value| value.split(TOKEN).nth(1)?.parse().ok());
    let port = header("host")
        .and_then(|host| Some(host.split_once(':')?.1.to_owned()))
        .unwrap_or_default();
    Ok(Asked { method, path, port, tenant: of_path.or(of_token).unwrap_or_default(), before: 0 })
}

/// An answer with these headers, `Date`, and its body's length.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = body.as_ref().len().to_string();
    let headers = [headers, &[("Content-Length", &*length)]].concat();
    [head(status, &headers), body.as_ref().to_vec()].concat()
}

/// The head alone.
pub(crate) fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!(
        "HTTP/1.1 {status} Scripted\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nConnection: close\r\n"
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A token that only this peer can read.
pub(crate) fn token(tenant: u128) -> Vec<Step> {
    let body =
        format!(r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"{TOKEN}{tenant}"}}"#);
    vec![Step::Say(answer(200, &[("Content-Type", "application/json")], body))]
}

/// A page with this continuation.
pub(crate) fn page(incidents: impl IntoIterator<Item = i64>, next_link: Option<&str>) -> String {
    let incident = |id: i64| {
        format!(
            r#"{{"incidentId":{id},"incidentName":"scripted","createdTime":"2026-11-20T10:00:00Z","lastUpdateTime":"2026-11-20T10:{:02}:{:02}Z","status":"Active","alerts":[]}}"#,
            id / 60 % 60,
            id % 60
        )
    };
    let incidents: Vec<String> = incidents.into_iter().map(incident).collect();
    let link =
        next_link.map(|link| format!(r#","@odata.nextLink":{}"#, serde_json::Value::from(link)));
    format!(r#"{{"value":[{}]{}}}"#, incidents.join(","), link.unwrap_or_default())
}

/// 200 with this body.
pub(crate) fn ok(body: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::Say(answer(200, &[("Content-Type", "application/json")], body))]
}
