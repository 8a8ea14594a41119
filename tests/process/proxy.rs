//! A proxy in the environment, as a login shell or a container may have it, is not used: the secret would go through it.

use std::net::TcpListener;

use crate::site::{Running, Site, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_the_environment_is_not_used() {
    let site = Site::with(vec![spec(1, 20)]).await;
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let mut command = site.command(&["sync"]);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(name, &url);
    }
    command.env_remove("no_proxy").env_remove("NO_PROXY");
    Running::start(command, site.folder.path()).ends().good();
    assert_eq!(site.pages(1), 1);
    assert!(proxy.accept().is_err(), "somebody came to the proxy");
}
