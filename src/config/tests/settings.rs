//! The effective settings that `config show` prints.

use super::*;

#[test]
fn settings_have_sources_and_no_secrets() {
    let config = Etc::with(&format!(
        "[sync]\noverlap = '5m'\n[database]\nurl = 'postgres://u@h/d?sslrootcert=x'\n{APP}{CONTOSO}"
    ))
    .set("INCIDENT_SYNC__SYNC__CONCURRENCY", "32")
    .set("INCIDENT_SYNC__APP__CLIENT_SECRET", "")
    .good();
    let file = config.file.as_ref().unwrap().display().to_string();
    for (key, value, source) in [
        ("sync.overlap", "5m", file.as_str()),
        ("sync.concurrency", "32", "INCIDENT_SYNC__SYNC__CONCURRENCY"),
        ("sync.lookback", "180d", "default"),
        ("schedule.poll", "0 */5 * * * *", "default"),
        ("http.listen", "127.0.0.1:9464", "default"),
        ("database.url", "postgres://u@h/d (and more that is not shown)", &file),
        ("database.sslmode", "verify-full", "default"),
        ("api.cloud", "commercial", "default"),
        ("api.scope", "https://api.security.microsoft.com/.default", "default"),
        ("api.token_version", "v2", "default"),
        ("app.client_secret_file", "client_secret", &file),
        ("tenants[0] (Contoso).id", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", &file),
    ] {
        let found: Vec<_> = config.settings.iter().filter(|setting| setting.key == key).collect();
        let [setting] = found[..] else { panic!("{key} once in {:#?}", config.settings) };
        assert_eq!((setting.value.as_str(), setting.source.as_str()), (value, source), "{key}");
    }
    let inline = format!("{APP}{CONTOSO}client_secret = '{CANARY}'\n");
    let settings = Etc::with(&inline).good().settings;
    let secret = settings.iter().find(|setting| setting.key.ends_with("client_secret")).unwrap();
    assert_eq!(secret.value, "set, not shown");
    assert!(!format!("{settings:?}").contains(CANARY));
}

#[test]
fn settings_of_each_tenant_are_listed_once() {
    let own = "labels = { tier = 'gold' }\nbase_url = 'https://api.example.com/'\n";
    let etc =
        Etc::with(&format!("tenants_dir = 'tenants.d'\n[api]\ncloud = 'gcc'\n{APP}{CONTOSO}{own}"))
            .file("tenants.d/fabrikam.toml", &FABRIKAM.replace("[[tenants]]\n", ""))
            .file(
                "tenants.d/third.toml",
                "id = 'aaaaaaaa-bbbb-cccc-dddd-000000000000'\nname = 'Wingtip'\ncloud = 'dod'\n",
            )
            .set("STATE_DIRECTORY", "/state")
            .set("INCIDENT_SYNC__APP__CLIENT_SECRET", "x");
    let config = etc.good();
    let mut seen = std::collections::BTreeSet::new();
    for setting in &config.settings {
        assert!(seen.insert((&setting.tenant, &setting.key)), "twice: {setting:?}");
    }
    let files = ["incident-sync.toml", "tenants.d/fabrikam.toml"];
    let [main, fabrikam] = files.map(|name| etc.dir.path().join(name).display().to_string());
    let inherited = "cloud and [api]";
    for (tenant, key, value, source) in [
        (None, "database.embedded_dir", "/state/postgres", "default"),
        (None, "api.base_url", "https://api-gcc.security.microsoft.us/", "default"),
        (Some("Contoso"), "tenants[0] (Contoso).name", "Contoso", &main),
        (Some("Contoso"), "tenants[0] (Contoso).labels.tier", "gold", &main),
        (Some("Contoso"), "tenants[0] (Contoso).base_url", "https://api.example.com/", &main),
        (
            Some("Contoso"),
            "tenants[0] (Contoso).scope",
            "https://api.security.microsoft.com/.default",
            inherited,
        ),
        (
            Some("Contoso"),
            "tenants[0] (Contoso).authority",
            "https://login.microsoftonline.com/",
            inherited,
        ),
        (Some("Fabrikam"), "id", "aaaaaaaa-bbbb-cccc-dddd-ffffffffffff", &fabrikam),
        (Some("Fabrikam"), "base_url", "https://api-gcc.security.microsoft.us/", inherited),
        (Some("Wingtip"), "base_url", "https://api-gov.security.microsoft.us/", inherited),
        (None, "app.client_secret", "set, not shown", "INCIDENT_SYNC__APP__CLIENT_SECRET"),
    ] {
        let found = config
            .settings
            .iter()
            .find(|setting| setting.key == key && setting.tenant.as_deref() == tenant);
        let found = found.unwrap_or_else(|| panic!("{tenant:?} {key} in {:#?}", config.settings));
        assert_eq!((found.value.as_str(), found.source.as_str()), (value, source), "{key}");
    }
    let is_shadowed = |key: &str| config.settings.iter().all(|setting| setting.key != key);
    assert!(is_shadowed("app.client_secret_file"), "the variable overrides the file");
    assert!(is_shadowed("managed_identity"), "the credential of [app] is inherited");
}
