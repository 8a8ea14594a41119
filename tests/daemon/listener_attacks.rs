//! Malformed and hostile requests to the daemon's listener, byte by byte.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::installation::Installation;

/// Another answer on the same connection would come sooner.
const QUIET: Duration = Duration::from_millis(300);
/// The first answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// All that is answered to these bytes, until the listener closes or falls silent.
async fn answer(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    loop {
        let wait = if answer.is_empty() { PATIENCE } else { QUIET };
        match tokio::time::timeout(wait, stream.read_buf(&mut answer)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return String::from_utf8_lossy(&answer).into_owned(),
        }
    }
}

/// The statuses in the order of the answers.
fn statuses(answer: &str) -> Vec<&str> {
    answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_request_gets_one_refusal_and_no_content() {
    let site = Installation::with(vec![]).await;
    let daemon = site.start_daemon();
    let address = daemon.logs("Started").await["listen"].as_str().unwrap().to_owned();
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n")
    };
    let smuggled = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n{body}")
    };
    let table = [
        ("TRACE", format!("TRACE / HTTP/1.1\r\nHost: {address}\r\nCookie: canary\r\n\r\n"), "405"),
        ("CONNECT", format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: {address}\r\n\r\n"), "405"),
        ("PROPFIND", format!("PROPFIND /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n"), "405"),
        ("a method in small letters", format!("get / HTTP/1.1\r\nHost: {address}\r\n\r\n"), "405"),
        (
            "foreign host in absolute form",
            "GET http://evil.example/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
            "421",
        ),
        ("two hosts", get("/metrics", "Host: evil.example\r\n"), "421"),
        (
            "a host with credentials",
            "GET /metrics HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n".to_owned(),
            "421",
        ),
        ("path of another host", get("//evil.example/metrics", ""), "404"),
        ("encoded dots", get("/%2e%2e/metrics", ""), "404"),
        ("dots", get("/tenants/../metrics", ""), "404"),
        ("an encoded NUL", get("/metrics%00", ""), "404"),
        ("script in the path", get("/tenants/%3Cscript%3E", ""), "404"),
        ("two lengths", post("Content-Length: 0\r\nContent-Length: 5\r\n", ""), "400"),
        ("a negative length", post("Content-Length: -1\r\n", ""), "400"),
        ("a blank in a header's name", get("/", "X y: z\r\n"), "400"),
        ("a folded header", get("/", "X: y\r\n z\r\n"), "400"),
        ("NUL in a header", get("/", "X: \0\r\n"), "400"),
        ("HTTP/2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), ""),
        (
            "length and chunks",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                &format!("0\r\n\r\n{smuggled}"),
            ),
            "405",
        ),
        ("garbled chunks", post("Transfer-Encoding: xchunked\r\n", smuggled), "400"),
        ("a path of 2 MB", get(&format!("/{}", "a".repeat(2 << 20)), ""), "431"),
        ("1,000 headers", get("/", &"X: y\r\n".repeat(1_000)), "431"),
    ];
    let mut wrong = Vec::new();
    for (name, request, status) in table {
        let answer = answer(&address, request.as_bytes()).await;
        let has_content = ["incident_sync_", "<table", "canary", "evil.example"]
            .iter()
            .any(|word| answer.contains(word));
        if statuses(&answer).join(" ") != status || has_content {
            wrong.push(format!("{name} instead of {status:?}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let upgrade = get(
        "/healthz",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n",
    );
    let upgraded = answer(&address, upgrade.as_bytes()).await;
    assert_eq!(statuses(&upgraded), ["200"], "no switch of protocols");
    assert_eq!(daemon.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(daemon.ends_on(Signal::SIGTERM).code(), Some(0));
}
