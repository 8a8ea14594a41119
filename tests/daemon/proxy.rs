//! A proxy in the environment, as a login shell or a container may have it, is not used: it would get the secret. A
//! configured proxy is used, and so is a private certificate authority.

use std::net::TcpListener;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::installation::{Installation, Running, spec, write_secret};
use crate::support::proxy::{PASSWORD, connect_proxy, route};
use crate::support::tls::behind_tls;

#[tokio::test(flavor = "multi_thread")]
async fn proxy_of_the_environment_is_not_used() {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let mut command = site.command(&["sync"]);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    {
        command.env(name, &url);
    }
    command.env_remove("no_proxy").env_remove("NO_PROXY");
    Running::start(command, site.folder.path()).ends().success();
    assert_eq!(site.pages(1), 1);
    assert!(proxy.accept().is_err(), "a client connected to the proxy");
}

/// Syncs with all that libraries have to say in the log; answers the tenant's result and the log.
fn sync(site: &Installation, environment: &[(&str, &str)]) -> (Value, String) {
    let mut command = site.command(&["sync", "--json"]);
    command.env("RUST_LOG", "trace").env_remove("NO_PROXY").env_remove("no_proxy");
    command.envs(environment.iter().copied());
    let done = Running::start(command, site.folder.path()).ends();
    (done.json()["tenants"][0].clone(), done.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_proxy_and_private_ca_reach_service() {
    let site = Installation::with(vec![spec(1, 20)]).await;
    let url = behind_tls(&site).await;
    let (proxy, received) = connect_proxy("200 OK").await;
    write_secret(&site.path("secret-proxy"), format!("{PASSWORD}\n").as_bytes());
    let by_proxy =
        format!("proxy = \"http://corp%5Cuser@{proxy}\"\nproxy_password_file = \"secret-proxy\"\n");

    route(&site, &url, &by_proxy);
    let (result, _) = sync(&site, &[]);
    assert_eq!(result["error_class"], "transport", "{result}");
    assert!(result["error"].as_str().unwrap().contains("http_client.ca_file"), "{result}");

    received.lock().unwrap().clear();
    route(&site, &url, &format!("{by_proxy}ca_file = \"company-ca.pem\""));
    let (result, log) = sync(&site, &[]);
    assert_eq!(result["outcome"], "ok", "{result}");
    let request = received.lock().unwrap().clone();
    let name_and_password = STANDARD.encode(format!("corp\\user:{PASSWORD}"));
    assert!(
        request.starts_with(&format!("CONNECT {} HTTP/1.1", url.trim_start_matches("https://"))),
        "{request}"
    );
    assert!(request.to_lowercase().contains("proxy-authorization: basic"), "{request}");
    assert!(request.contains(&name_and_password), "the user is decoded");
    assert!(!request.contains("client_secret") && !log.contains(&name_and_password));

    received.lock().unwrap().clear();
    route(&site, &url, "proxy = \"environment\"\nca_file = \"company-ca.pem\"");
    let (result, _) = sync(&site, &[("HTTPS_PROXY", &format!("http://{proxy}"))]);
    assert_eq!(result["outcome"], "ok", "{result}");
    assert!(received.lock().unwrap().starts_with("CONNECT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_refusal_names_owner_and_hides_password() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    write_secret(&site.path("secret-proxy"), PASSWORD.as_bytes());
    let url = behind_tls(&site).await;
    for (status, say) in [
        ("407 Proxy Authentication Required", "proxy_password_file"),
        ("502 Bad Gateway", "to allow the hosts"),
        ("403 Forbidden", "to allow the hosts"),
    ] {
        let (proxy, _) = connect_proxy(status).await;
        let lines =
            format!("proxy = \"http://user@{proxy}\"\nproxy_password_file = \"secret-proxy\"");
        route(&site, &url, &lines);
        let (result, _) = sync(&site, &[]);
        assert_eq!(
            (&result["error_class"], &result["who_must_act"]),
            (&"proxy".into(), &"operator".into()),
            "{result}"
        );
        assert!(result["advice"].as_str().unwrap().contains(say), "{result}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    route(&site, &url, &format!("proxy = \"http://{free}\""));
    let (result, _) = sync(&site, &[]);
    assert!(result["error"].as_str().unwrap().contains("no connection to the proxy"), "{result}");
}
