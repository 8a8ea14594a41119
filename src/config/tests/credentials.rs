//! Credentials and other secrets.

use super::*;

const CRED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/credentials");

/// An `[app]` with these lines and the files of keys.
fn app(lines: &str) -> Etc {
    let etc = Etc::with(&format!(
        "[app]\nclient_id = '11111111-2222-3333-4444-555555555555'\n{lines}\n{CONTOSO}"
    ));
    etc.secret("first.key", &fs::read_to_string(format!("{CRED}/first.key.pem")).unwrap());
    for (name, of) in [("open.key", "first.key.pem"), ("open.p12", "modern.p12")] {
        fs::copy(format!("{CRED}/{of}"), etc.dir.path().join(name)).unwrap();
        fs::set_permissions(etc.dir.path().join(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    etc.secret("second.key", &fs::read_to_string(format!("{CRED}/second.key.pem")).unwrap());
    etc
}

#[test]
fn secret_file_with_wrong_mode_or_content_fails() {
    let text = format!("{APP}{CONTOSO}");
    let etc = Etc::with(&text);
    let path = etc.dir.path().join("client_secret");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    etc.assert_error(&["app.client_secret_file", "chmod 600"]);
    let guarded =
        Etc::with(&text).set("CREDENTIALS_DIRECTORY", &etc.dir.path().display().to_string());
    assert_eq!(
        secret_of(&guarded.good().tenants[0]),
        CANARY,
        "systemd restricts access to its credentials itself"
    );

    for (content, problem) in [("\n", "is empty"), ("one\ntwo\n", "more than one line")] {
        etc.secret("client_secret", content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        etc.assert_error(&["app.client_secret_file", problem]);
    }
    fs::remove_file(&path).unwrap();
    etc.assert_error(&["app.client_secret_file", "cannot read"]);
    fs::create_dir(&path).unwrap();
    etc.assert_error(&["not a regular file"]);
    Etc::with(&text.replace("client_secret", CANARY))
        .errors()
        .iter()
        .for_each(|error| assert!(!error.contains(CANARY)));
}

#[test]
fn secret_is_in_no_debug_output_or_warning() {
    let url =
        format!("[database]\nurl = 'postgres://me:{CANARY}@db.example.com/x?sslmode=require'\n");
    let inline = format!("{CONTOSO}client_secret = '{CANARY}'\n");
    let etc = Etc::with(&format!("{url}{APP}{inline}"));
    let config = etc.good();
    let shown = format!("{config:?}");
    assert!(!shown.contains(CANARY), "{shown}");
    assert!(shown.contains("postgres://me@db.example.com:5432/x?sslmode=require"), "{shown}");
    let warnings = config.warnings.join("\n");
    for text in [
        "database.url: contains a password",
        "does not verify",
        "(Contoso).client_secret: a secret in the",
    ] {
        assert!(warnings.contains(text), "{text} is missing in {warnings}");
    }
    let wrong = etc.set("INCIDENT_SYNC__DATABASE__URL", &format!("postgres://me:{CANARY}@[/x"));
    assert!(!wrong.errors().join("").contains(CANARY));
}

#[tokio::test]
async fn each_credential_kind_is_read_with_expiry() {
    let certificate = format!(
        "client_certificate_file = '{CRED}/first.crt.pem'\nclient_private_key_file = 'first.key'"
    );
    let config = app(&format!(
        "{certificate}\n[app.next]\nclient_secret_file = 'client_secret'\nclient_secret_expires = 2027-01-31"
    ))
    .good();
    let ends = crate::entra::expiry::expiries(&config.tenants).await;
    let shown: Vec<_> = ends
        .iter()
        .map(|end| {
            (end.credential_id.name, end.kind, end.expires.unwrap().format("%Y-%m-%d").to_string())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("first", "certificate", "2126-10-30".to_owned()),
            ("next", "client secret", "2027-02-01".to_owned())
        ]
    );

    let etc = app("federated_token_file = 'token'");
    fs::write(etc.dir.path().join("token"), "a.b.c\n").unwrap();
    assert_eq!(etc.good().tenants[0].app.credential.kind(), "federated token");
    let identity = "managed_identity = true\nmanaged_identity_client_id = '11111111-2222-3333-4444-555555555555'";
    assert_eq!(app(identity).good().tenants[0].app.credential.kind(), "managed identity");
    let off = app("managed_identity = false\nclient_secret_file = 'client_secret'").good();
    assert_eq!(off.tenants[0].app.credential.kind(), "client secret");
    let from_environment = app(identity).set("INCIDENT_SYNC__APP__NEXT__CLIENT_SECRET", "x").good();
    assert_eq!(from_environment.tenants[0].app.next.as_ref().unwrap().kind(), "client secret");
}

#[test]
fn unusable_credential_is_rejected_with_fix() {
    let certificate = format!("client_certificate_file = '{CRED}/first.crt.pem'\n");
    let table = [
        (format!("{certificate}client_private_key_file = 'second.key'"), "does not belong to the certificate"),
        (certificate.clone(), "client_private_key_file"),
        (format!("{certificate}client_private_key_file = 'open.key'"), "chmod 600"),
        ("client_certificate_file = './open.p12'".to_owned(), "app.client_certificate_file: "),
        ("client_certificate_file = './open.p12'".to_owned(), "open.p12 -nodes -out "),
        (format!("{certificate}client_private_key_file = 'open.p12'"), "client_private_key_file: the file of that name is a PKCS#12"),
        (format!("{certificate}client_private_key_file = 'first.key'\nclient_assertion_algorithm = 'ES256'"), "valid: \"PS256\""),
        ("client_certificate_file = 'nothing'".to_owned(), "cannot read"),
        ("client_private_key_file = 'first.key'\nclient_secret_file = 'client_secret'".to_owned(), "no effect without"),
        ("managed_identity = true".to_owned(), "managed_identity_client_id: missing"),
        ("managed_identity = true\nclient_secret_file = 'client_secret'\nmanaged_identity_client_id = '11111111-2222-3333-4444-555555555555'".to_owned(), "more than one credential"),
        ("managed_identity = true\nmanaged_identity_client_id = '11111111-2222-3333-4444-555555555555'\nmanaged_identity_endpoint = 'http://example.com'".to_owned(), "loopback"),
        ("federated_token_file = 'client_secret'".to_owned(), "does not contain a token (JWT, three parts)"),
        ("client_secret_file = 'client_secret'\nclient_secret_expires = 'soon'".to_owned(), "like 2027-01-31"),
    ];
    for (lines, problem) in table {
        let errors = app(&lines).errors();
        assert!(
            errors.iter().any(|error| error.contains(problem)),
            "{problem} is not in {errors:#?}"
        );
        assert!(!errors.concat().contains(CANARY), "{errors:?}");
    }
}

#[test]
fn unreadable_credential_leaves_the_other_in_use() {
    let gone = "client_secret_file = 'gone'\n";
    let there = "client_secret_file = 'client_secret'\n";
    for (lines, key) in [
        (format!("{gone}[app.next]\n{there}"), "app.client_secret_file"),
        (format!("{there}[app.next]\n{gone}"), "app.next.client_secret_file"),
    ] {
        let config = app(&lines).good();
        assert_eq!(secret_of(&config.tenants[0]), CANARY);
        assert!(config.tenants[0].app.next.is_none());
        let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
        assert!(warning.contains(&format!("{key}: cannot read")), "{warning}");
    }
    for lines in [format!("{gone}[app.next]\n{gone}"), gone.to_owned()] {
        let errors = app(&lines).errors();
        assert!(
            errors.iter().any(|error| error.contains(" app.client_secret_file: cannot read")),
            "{errors:?}"
        );
    }
    let errors = app(&format!("{there}[app.next]\nclient_secret_fil = 'x'\n")).errors();
    assert!(
        errors[0].contains("client_secret_file?"),
        "only unreadable files are tolerated: {errors:?}"
    );
}
