//! A server without a valid certificate for the configured host receives nothing.

use crate::support::installation::{Installation, Running, Settings, id};
use crate::support::tls::{data, serve};

#[tokio::test(flavor = "multi_thread")]
async fn untrusted_certificate_receives_no_secret() {
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
