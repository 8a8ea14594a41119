//! An HTTP proxy between the binary and the service.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};

use super::installation::{Installation, Settings};
use super::tenants::id;

/// The proxy's password.
pub(crate) const PASSWORD: &str = "canary5f2d77c0-proxy";

/// A proxy that answers CONNECT with this status, and with 200 connects; it keeps what it received unencrypted.
pub(crate) async fn connect_proxy(status: &'static str) -> (String, Arc<Mutex<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let received: Arc<Mutex<String>> = Arc::default();
    let log = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                log.lock().unwrap().push_str(&head);
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                let answer =
                    if status == "200 OK" { "HTTP/1.1 200 OK\r\n\r\n".to_owned() } else { answer };
                let _ = client.write_all(answer.as_bytes()).await;
                if status == "200 OK" {
                    let target = head.split(' ').nth(1).unwrap();
                    let mut target = tokio::net::TcpStream::connect(target).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut target).await;
                }
            });
        }
    });
    (address, received)
}

/// One tenant behind TLS, which is reached by these lines of `[http_client]`.
pub(crate) fn route(site: &Installation, url: &str, lines: &str) {
    let id = id(1);
    let more = format!(
        "[[tenants]]\nid = \"{id}\"\nname = \"tenant-1\"\nauthority = \"{url}\"\nbase_url = \"{url}\"\n[http_client]\n{lines}\n"
    );
    site.configure(&Settings { more, ..site.settings() });
}
