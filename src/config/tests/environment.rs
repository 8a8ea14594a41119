//! Variables of the environment.

use super::*;

#[test]
fn environment_error_names_the_variable() {
    for (name, problem) in [
        (
            "INCIDENT_SYNC__SYNC__CONCURENCY",
            "unknown key; did you mean INCIDENT_SYNC__SYNC__CONCURRENCY?",
        ),
        ("INCIDENT_SYNC__SINC__X", "unknown key; did you mean INCIDENT_SYNC__SYNC?"),
        (
            "INCIDENT_SYNC__APP__NXT__CLIENT_SECRET",
            "unknown key; did you mean INCIDENT_SYNC__APP__NEXT?",
        ),
        ("INCIDENT_SYNC__TENANTS__0__NAME", "the environment cannot set tenants"),
        ("INCIDENT_SYNC__TENANTS[0]__ID", "the environment cannot set tenants"),
        ("INCIDENT_SYNC__TENANTS", "the environment cannot set tenants"),
        ("INCIDENT_SYNC__SYNC", "must be a section"),
    ] {
        for text in [format!("{APP}{CONTOSO}"), APP.to_owned()] {
            Etc::with(&text)
                .set(name, "3")
                .assert_error(&[&format!("environment: {name}: {problem}")]);
        }
    }
}

#[test]
fn environment_value_replaces_file_value() {
    let etc = Etc::with(&format!("{APP}[sync]\nconcurrency = 4\n{CONTOSO}"))
        .set("INCIDENT_SYNC__SYNC__CONCURRENCY", "32")
        .set("INCIDENT_SYNC__SYNC__OVERLAP", "1m")
        .set("INCIDENT_SYNC__HTTP__LISTEN", "")
        .set("INCIDENT_SYNC__APP__CLIENT_SECRET", "from-environment");
    let config = etc.good();
    assert_eq!((config.sync.concurrency, config.sync.overlap), (32, MINUTE));
    assert_eq!(secret_of(&config.tenants[0]), "from-environment");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);

    let wrong = etc.set("INCIDENT_SYNC__SYNC__CONCURRENCY", "many");
    wrong.assert_error(&["environment: INCIDENT_SYNC__SYNC__CONCURRENCY: not a whole number"]);
}

#[test]
fn environment_sets_keys_of_every_type() {
    let etc = Etc::with(CONTOSO)
        .file("tenants.d/fabrikam.toml", &FABRIKAM.replace("[[tenants]]\n", ""))
        .set("INCIDENT_SYNC__DATABASE__NOTIFY", "true")
        .set("INCIDENT_SYNC__DATABASE__MAX_CONNECTIONS", "7")
        .set("INCIDENT_SYNC__DATABASE__EMBEDDED_DIR", "/srv/pg")
        .set("INCIDENT_SYNC__SCHEDULE__POLL", "0 */7 * * * *")
        .set("INCIDENT_SYNC__SYNC__OVERLAP", "3m")
        .set("INCIDENT_SYNC__RETENTION__INCIDENTS", "300d")
        .set("INCIDENT_SYNC__HTTP__LISTEN", "[::1]:9465")
        .set("INCIDENT_SYNC__API__CLOUD", "gcc")
        .set("INCIDENT_SYNC__API__TOKEN_VERSION", "v1")
        .set("INCIDENT_SYNC__API__BASE_URL", "https://api.example.com")
        .set("INCIDENT_SYNC__TENANTS_DIR", "tenants.d")
        .set("INCIDENT_SYNC__APP__CLIENT_ID", "11111111-2222-3333-4444-555555555555")
        .set("INCIDENT_SYNC__APP__MANAGED_IDENTITY", " false ")
        .set("INCIDENT_SYNC__APP__CLIENT_SECRET_FILE", "client_secret")
        .set("INCIDENT_SYNC__APP__CLIENT_SECRET_EXPIRES", "2027-01-31")
        .set("INCIDENT_SYNC__APP__NEXT__MANAGED_IDENTITY", "true")
        .set(
            "INCIDENT_SYNC__APP__NEXT__MANAGED_IDENTITY_CLIENT_ID",
            "11111111-2222-3333-4444-555555555555",
        );
    let config = etc.good();
    assert!(config.database.notify);
    assert_eq!((config.database.max_connections, config.sync.overlap), (7, 3 * MINUTE));
    assert_eq!((config.schedule.poll.as_str(), config.http.listen.port()), ("0 */7 * * * *", 9465));
    let [_, fabrikam] = &config.tenants[..] else { panic!("two tenants") };
    assert_eq!(fabrikam.endpoints.scope, "https://api.security.microsoft.com/.default");
    assert_eq!(fabrikam.retention.incidents, Some(300 * DAY));
    assert_eq!(fabrikam.app.next.as_ref().unwrap().kind(), "managed identity");
    etc.set("INCIDENT_SYNC__DATABASE__NOTIFY", "yes")
        .assert_error(&["environment: INCIDENT_SYNC__DATABASE__NOTIFY: must be true or false"]);
    Etc::with("[database]\nnotify = 'true'\n")
        .assert_error(&["database.notify: must be true or false, without quotes"]);
}

#[test]
fn listen_address_is_read_from_invalid_file() {
    let listen = |etc: &Etc| {
        let listen =
            listen_with(Some(&etc.dir.path().join("incident-sync.toml")), &etc.environment);
        listen.to_string()
    };
    let wrong = Etc::with("shedule = 1\n[http]\nlisten = '127.0.0.1:1'\n[app]\nclient_id = 7\n");
    assert_eq!(listen(&wrong), "127.0.0.1:1");
    assert_eq!(listen(&wrong.set("INCIDENT_SYNC__HTTP__LISTEN", "127.0.0.1:2")), "127.0.0.1:2");
    assert_eq!(
        listen(&Etc::with("no toml").set("INCIDENT_SYNC__HTTP__LISTEN", "127.0.0.1:3")),
        "127.0.0.1:3"
    );
    for text in ["no toml", "[http]\nlisten = '0.0.0.0:1'\n", "http = 1\n"] {
        assert_eq!(listen(&Etc::with(text)), "127.0.0.1:9464", "{text}");
    }
}

#[test]
fn environment_variable_names_main_file() {
    let etc = Etc::with("[sync]\nconcurrency = 3\n");
    let file = etc.dir.path().join("incident-sync.toml");
    let environment =
        Variables::from([("INCIDENT_SYNC_CONFIG".to_owned(), file.display().to_string())]);
    let config = load_with(None, None, &environment).unwrap();
    assert_eq!((config.file, config.sync.concurrency), (Some(file), 3));
}
