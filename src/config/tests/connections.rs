//! TLS to the database, and the proxy to Microsoft.

use super::*;

#[test]
fn tls_is_strict_for_remote_databases() {
    let url = |url: &str| {
        let config =
            Etc::with(&format!("[database]\nurl = '{url}'\nmax_connections = 60\n")).good();
        let DatabaseServer::Url(url) = config.database.server else { panic!("a url is set") };
        (url.to_string().rsplit('=').next().unwrap().to_owned(), config.warnings.len())
    };
    assert_eq!(url("postgres://me@db.example.com/x"), ("verify-full".to_owned(), 0));
    assert_eq!(url("postgres://me@127.0.0.1/x"), ("prefer".to_owned(), 0));
    assert_eq!(url("postgres://me@[::1]/x"), ("prefer".to_owned(), 0));
    assert_eq!(url("postgres:///x?host=/run/postgresql"), ("prefer".to_owned(), 0));
    assert_eq!(url("postgres://me@db.example.com/x?sslmode=prefer"), ("prefer".to_owned(), 1));
    Etc::with("[database]\nurl = 'mysql://x/y'\n")
        .assert_error(&["database.url: not a postgres:// URL"]);
    Etc::with("[database]\nurl = 'postgres://x/y?sslmod=no'\n")
        .assert_error(&["unknown parameter", "sslmode"]);
    Etc::with("[database]\nurl = 'postgres://x/y'\nsslmode = 'on'\n")
        .assert_error(&["database.sslmode", "verify-full"]);
}

#[test]
fn unusable_proxy_is_rejected_without_password() {
    let with = |lines: &str| {
        let etc = Etc::with(&format!("[http_client]\n{lines}\n"));
        etc.secret("proxy-password", CANARY);
        etc.secret(
            "garbled.pem",
            "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n",
        );
        etc
    };
    let good = with(
        "proxy = 'http://user@proxy.example.com:3128'\nproxy_password_file = 'proxy-password'",
    )
    .good();
    assert!(!format!("{good:?}").contains("canary"), "{good:?}");
    with("proxy = 'environment'").good();
    let password = "proxy_password_file = 'proxy-password'";
    let table = [
        (
            format!("proxy = 'http://user:{CANARY}@proxy.example.com'"),
            "contains a password; move it",
        ),
        ("proxy = 'socks5://proxy.example.com'".to_owned(), "not the http:// or https:// URL"),
        ("proxy = 'proxy.example.com:3128'".to_owned(), "not the http:// or https:// URL"),
        (format!("proxy = 'http://proxy.example.com'\n{password}"), "has no user"),
        (password.to_owned(), "has no effect"),
        (format!("proxy = 'environment'\n{password}"), "has no effect"),
        ("ca_file = 'nothing.pem'".to_owned(), "cannot read"),
        ("ca_file = 'incident-sync.toml'".to_owned(), "contains no certificate"),
        ("ca_file = 'garbled.pem'".to_owned(), "contains an invalid certificate"),
    ];
    for (lines, problem) in table {
        let errors = with(&lines).errors();
        assert!(
            errors.len() == 1 && errors[0].contains(problem),
            "{problem} is not in {errors:#?}"
        );
        assert!(!errors[0].contains(CANARY), "{errors:?}");
    }
}
