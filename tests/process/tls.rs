//! A server that cannot prove to be the configured host gets nothing, not even when its certificate was good yesterday.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::installation::{Installation, Running, Settings, id};

pub(crate) fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

/// Shows this certificate, answers every request with an empty object, and remembers what it could read.
pub(crate) async fn serve(certificate: &str) -> (u16, Arc<Mutex<String>>) {
    let acceptor = acceptor(certificate);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let read: Arc<Mutex<String>> = Arc::default();
    let log = Arc::clone(&read);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else { continue };
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                log.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                drop(socket.write_all(answer).await);
            }
        }
    });
    (port, read)
}

/// Shows this certificate.
pub(crate) fn acceptor(certificate: &str) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(data(certificate)).unwrap()];
    let key = PrivateKeyDer::from_pem_file(data("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_proves_nothing_gets_no_secret() {
    let site = Installation::with(vec![]).await;
    let mut servers = Vec::new();
    let mut tenants = String::new();
    for (number, certificate) in
        (1..).zip(["good.pem", "expired.pem", "misnamed.pem", "unknown.pem"])
    {
        let (port, read) = serve(certificate).await;
        let url = format!("https://127.0.0.1:{port}");
        tenants += &format!(
            "[[tenants]]\nid = \"{}\"\nname = \"{certificate}\"\nauthority = \"{url}\"\nbase_url = \"{url}\"\n",
            id(number)
        );
        servers.push((certificate, read));
    }
    site.configure(&Settings { more: tenants, ..site.settings() });
    let mut command = site.command(&["sync", "--json"]);
    command.env("SSL_CERT_FILE", data("ca.pem")).env_remove("SSL_CERT_DIR");
    let result = Running::start(command, site.folder.path()).ends().json();
    let classes = result["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tenant| (&tenant["name"], &tenant["error_class"]));
    for (name, class) in classes {
        // The good one is believed to be the token endpoint, and its answer is judged.
        let expected = if name == "good.pem" { "bad_reply" } else { "transport" };
        assert_eq!(class, expected, "{name}: {result}");
    }
    for (certificate, read) in servers {
        let read = read.lock().unwrap();
        assert_eq!(
            read.contains("client_secret="),
            certificate == "good.pem",
            "{certificate}: {read}"
        );
        assert!(certificate == "good.pem" || read.is_empty(), "{certificate}: {read}");
    }
}
