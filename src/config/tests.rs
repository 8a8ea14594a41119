use std::fs;
use std::os::unix::fs::PermissionsExt;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::entra::credential::ClientAuth;
use crate::mutate::{Random, each_seed, garbled};
use crate::tenant::{Cloud, Retention, TokenVersion};

const CANARY: &str = "canary8Q~secret.value";
const APP: &str = "[app]\nclient_id = '11111111-2222-3333-4444-555555555555'\nclient_secret_file = 'client_secret'\n";
const CONTOSO: &str =
    "[[tenants]]\nid = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee'\nname = 'Contoso'\n";
const FABRIKAM: &str =
    "[[tenants]]\nid = 'aaaaaaaa-bbbb-cccc-dddd-ffffffffffff'\nname = 'Fabrikam'\n";

/// A directory with a configuration file and a good secret file.
struct Etc {
    dir: TempDir,
    environment: Variables,
}

impl Etc {
    fn with(text: &str) -> Self {
        let etc = Self { dir: tempfile::tempdir().unwrap(), environment: Variables::new() };
        etc.secret("client_secret", &format!("{CANARY}\n"));
        etc.file("incident-sync.toml", text)
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn secret(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Config, ConfigErrors> {
        load_with(Some(&self.dir.path().join("incident-sync.toml")), None, &self.environment)
    }

    fn good(&self) -> Config {
        self.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The errors as told, without the directory.
    fn errors(&self) -> Vec<String> {
        let told = self.load().expect_err("the file is wrong").to_string();
        let dir = format!("{}/", self.dir.path().display());
        told.lines().map(|line| line.replace(&dir, "")).collect()
    }

    /// The only error, which holds each of these texts.
    fn refuses(&self, texts: &[&str]) {
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        for text in texts {
            assert!(errors[0].contains(text), "{text} is not in {}", errors[0]);
        }
    }
}

fn secret_of(tenant: &Tenant) -> String {
    let auth = tenant.app.credential.loaded();
    let ClientAuth::Secret(secret) = &*auth else { panic!("{auth:?}") };
    secret.expose_secret().to_owned()
}

const SAMPLE: &str = include_str!("../../config/incident-sync.toml");

#[test]
fn shipped_sample_is_valid_without_tenants() {
    let config = Etc::with(SAMPLE).good();
    assert!(config.tenants.is_empty() && config.warnings.is_empty());
}

#[test]
fn uncommented_sample_is_valid_and_has_defaults() {
    let is_setting = |line: &str| {
        line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
    };
    let lines: Vec<&str> =
        SAMPLE.lines().map(|line| if is_setting(line) { &line[1..] } else { line }).collect();
    let etc = Etc::with(&lines.join("\n"))
        .file("postgres-ca.pem", "")
        .file("tenants.d/readme.md", "not a tenant");
    etc.secret("database-password", "x");
    let (all, defaults) = (etc.good(), Etc::with("").good());
    assert_eq!(all.warnings, Vec::<String>::new());
    assert_eq!(
        (all.schedule, all.sync, all.http),
        (defaults.schedule, defaults.sync, defaults.http)
    );
    assert_eq!(all.database.max_connections, defaults.database.max_connections);
    assert_eq!(all.tenants[0].name, "Contoso");

    let plain = Etc::with(&format!("{APP}{CONTOSO}")).good();
    assert_eq!(all.tenants[0].endpoints, plain.tenants[0].endpoints);
}

#[test]
fn missing_file_gives_defaults_without_tenants() {
    let config = Etc::with("").set("STATE_DIRECTORY", "/run/a:/run/b").good();
    assert_eq!(config.sync.lookback, 180 * DAY);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9464");
    let DatabaseServer::Embedded(settings) = &config.database.server else {
        panic!("{:?}", config.database)
    };
    assert_eq!(settings.dir, Path::new("/run/a/postgres"));
}

#[test]
fn settings_show_value_and_source_without_secrets() {
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
fn tenant_settings_are_listed_once_each() {
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
            "https://api.example.com/.default",
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
    assert!(is_shadowed("app.client_secret_file"), "the environment's secret holds");
    assert!(is_shadowed("managed_identity"), "the credential of [app] holds");
}

#[test]
fn tenant_retention_overrides_the_default() {
    let own = "retention = '200d'\n";
    let text =
        format!("[retention]\nincidents = '400d'\nruns = '7d'\n{APP}{CONTOSO}{FABRIKAM}{own}");
    let [contoso, fabrikam] = &Etc::with(&text).good().tenants[..] else { panic!("two tenants") };
    assert_eq!(contoso.retention, Retention { incidents: Some(400 * DAY), runs: 7 * DAY });
    assert_eq!(fabrikam.retention, Retention { incidents: Some(200 * DAY), runs: 7 * DAY });
    let plain = Etc::with(&format!("{APP}{CONTOSO}")).good();
    assert_eq!(plain.tenants[0].retention, Retention { incidents: None, runs: 30 * DAY });
}

#[test]
fn retention_below_the_lookback_is_refused() {
    let text = format!("[retention]\nincidents = '179d'\n{APP}{CONTOSO}retention = '30d'\n");
    let errors = Etc::with(&text).errors();
    let expected = [
        "incident-sync.toml: retention.incidents: out of range; set a time from 180d to 36500d",
        "incident-sync.toml: tenants[0] (Contoso).retention: out of range; set a time from 180d to 36500d",
    ];
    assert_eq!(errors, expected);
    let short = format!("[sync]\nlookback = '1d'\n[retention]\nincidents = '6d'\n{APP}{CONTOSO}");
    assert!(
        Etc::with(&short).errors()[0].contains("from 7d"),
        "what the reconciliation reads again"
    );
}

#[test]
fn regional_host_uses_scope_of_the_common_host() {
    for (base_url, scope) in [
        ("https://eu.api.security.microsoft.com", "https://api.security.microsoft.com/.default"),
        ("https://api-uk.security.microsoft.com/", "https://api.security.microsoft.com/.default"),
        ("https://api-gcc.security.microsoft.us", "https://api-gcc.security.microsoft.us/.default"),
        (
            "https://example.com/security.microsoft.com",
            "https://example.com/security.microsoft.com/.default",
        ),
    ] {
        let config = Etc::with(&format!("[api]\nbase_url = '{base_url}'\n{APP}{CONTOSO}")).good();
        assert_eq!(config.tenants[0].endpoints.scope, scope);
    }
}

#[test]
fn internal_labels_are_a_table_of_texts() {
    let labels = |own: &str| Etc::with(&format!("{APP}{CONTOSO}{own}"));
    let expected = [("internal.margin", "low"), ("tier", "gold")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    for own in [
        "labels = { tier = 'gold', internal = { margin = 'low' } }\n",
        "labels.tier = 'gold'\nlabels.internal.margin = 'low'\n",
        "labels = { tier = 'gold', 'internal.margin' = 'low' }\n",
    ] {
        assert_eq!(labels(own).good().tenants[0].labels, expected.clone().into(), "{own}");
    }
    for (own, key) in [
        ("labels = { internal = 'low' }\n", "tenants[0] (Contoso).labels.internal"),
        ("labels = { internal = { margin = 1 } }\n", "tenants[0] (Contoso).labels.internal.margin"),
        (
            "labels = { internal = { margin = { eu = 'low' } } }\n",
            "tenants[0] (Contoso).labels.internal.margin",
        ),
    ] {
        let refused = labels(own).load().unwrap_err();
        assert!(refused.0.len() == 1 && refused.0[0].key == key, "{own}: {refused:?}");
    }
}

#[test]
fn tenants_share_the_app_and_inherit_the_api() {
    let own = "client_id = '99999999-2222-3333-4444-555555555555'\nclient_secret = 'own'\nbase_url = 'http://127.0.0.1:8080/'\n";
    let third = "[[tenants]]\nid = 'aaaaaaaa-bbbb-cccc-dddd-000000000000'\nname = 'Wingtip'\nlabels.tier = 'gold'\ncloud = 'gcc-high'\n";
    let config =
        Etc::with(&format!("[api]\ntoken_version = 'v1'\n{APP}{CONTOSO}{FABRIKAM}{own}{third}"))
            .good();
    let [contoso, fabrikam, wingtip] = &config.tenants[..] else { panic!("three tenants") };
    assert!(Arc::ptr_eq(&contoso.app, &wingtip.app) && !Arc::ptr_eq(&contoso.app, &fabrikam.app));
    assert_eq!((secret_of(contoso), secret_of(fabrikam)), (CANARY.to_owned(), "own".to_owned()));
    assert_eq!(contoso.endpoints.scope, "https://api.security.microsoft.com/.default");
    assert_eq!(contoso.endpoints.token_version, TokenVersion::V1);
    assert_eq!(fabrikam.endpoints.scope, "http://127.0.0.1:8080/.default");
    assert_eq!(wingtip.endpoints.base_url.as_str(), format!("{}/", Cloud::GccHigh.base_url()));
    assert_eq!(wingtip.labels["tier"], "gold");
}

#[test]
fn every_mistake_is_reported_in_one_load() {
    let errors = Etc::with(
        "[schedule]\npoll = '*/5 * * * *'\n[sync]\nconcurency = 4\noverlap = 'ten'\nlookback = '200d'\n\
         [http]\nlisten = '0.0.0.0:9464'\n[api]\ncloud = 'azure'\ntoken_version = 'v3'\nbase_url = 'http://example.com'\n\
         [app]\nclient_id = 'canary8Q~secret.value'\nclient_secret_file = 'absent'\n\
         [[tenants]]\nid = 'nonsense'\nname = 'Contoso'\n[[tenants]]\nname = ' '\n",
    )
    .errors();
    let expected = [
        ("schedule.poll: ", "write \"0 */5 * * * *\""),
        ("sync.overlap: ", "write it like \"10m\""),
        ("sync.lookback: ", "from 1m to 180d"),
        ("http.listen: ", "not a loopback address"),
        ("api.cloud: ", "commercial, gcc, gcc-high, dod"),
        ("api.token_version: ", "\"v1\", \"v2\""),
        ("api.base_url: ", "use https"),
        ("app.client_id: ", "not a GUID"),
        ("app.client_secret_file: ", "cannot read"),
        ("tenants[0] (Contoso).id: ", "not a GUID"),
        ("tenants[1].name: ", "is empty"),
        ("tenants[1].id: ", "missing"),
        ("sync.concurency: ", "unknown key; did you mean sync.concurrency?"),
    ];
    for (key, text) in expected {
        let found = errors.iter().any(|error| {
            error.starts_with(&format!("incident-sync.toml: {key}")) && error.contains(text)
        });
        assert!(found, "{key}{text} is missing in {errors:#?}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    assert!(!errors.join("").contains(CANARY));
}

#[test]
fn unknown_keys_name_the_valid_one() {
    Etc::with("[shedule]\n").refuses(&["shedule: unknown key; did you mean schedule?"]);
    Etc::with("concurrency = 4\n").refuses(&["did you mean sync.concurrency?"]);
    Etc::with("[http]\ncertificate = 4\n").refuses(&["unknown key; valid here: listen"]);
    Etc::with(&format!("{APP}client_certficate_file = 'x'\n")).refuses(&[
        "app.client_certficate_file: unknown key; did you mean app.client_certificate_file?",
    ]);
    Etc::with(&format!("{APP}{CONTOSO}nme = 'x'\n"))
        .refuses(&["tenants[0] (Contoso).nme", "did you mean tenants[0] (Contoso).name?"]);
    Etc::with(&format!("{APP}[app.next]\nclient_secret_fil = 'x'\n")).refuses(&[
        "app.next.client_secret_fil: unknown key; did you mean app.next.client_secret_file?",
    ]);
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    for (name, told) in [
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
            Etc::with(&text).set(name, "3").refuses(&[&format!("environment: {name}: {told}")]);
        }
    }
}

#[test]
fn tenant_file_with_sections_is_refused_with_cure() {
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}"))
        .file("tenants.d/a.toml", CONTOSO)
        .good();
    let told: Vec<String> =
        etc.refused.iter().map(|error| format!("{}: {}", error.key, error.problem)).collect();
    assert!(
        told.iter().any(|told| told.starts_with("tenants: unknown key; this file is one tenant")),
        "{told:?}"
    );
    let with_app = format!("{}{APP}", CONTOSO.replace("[[tenants]]\n", ""));
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}"))
        .file("tenants.d/a.toml", &with_app)
        .good();
    assert!(etc.refused[0].problem.contains("keys stand at top level"), "{:?}", etc.refused);
    let typo = CONTOSO.replace("[[tenants]]\n", "") + "nme = 1\n";
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}"))
        .file("tenants.d/a.toml", &typo)
        .good();
    assert!(etc.refused[0].problem.ends_with("did you mean name?"), "{:?}", etc.refused);
}

#[test]
fn environment_overrides_the_file() {
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
    wrong.refuses(&["environment: INCIDENT_SYNC__SYNC__CONCURRENCY: not a whole number"]);
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
    assert_eq!(fabrikam.endpoints.scope, "https://api.example.com/.default");
    assert_eq!(fabrikam.retention.incidents, Some(300 * DAY));
    assert_eq!(fabrikam.app.next.as_ref().unwrap().kind(), "managed identity");
    etc.set("INCIDENT_SYNC__DATABASE__NOTIFY", "yes")
        .refuses(&["environment: INCIDENT_SYNC__DATABASE__NOTIFY: must be true or false"]);
    Etc::with("[database]\nnotify = 'true'\n")
        .refuses(&["database.notify: must be true or false, without quotes"]);
}

#[test]
fn health_reads_listen_address_from_invalid_config() {
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
fn environment_names_the_config_file() {
    let etc = Etc::with("[sync]\nconcurrency = 3\n");
    let file = etc.dir.path().join("incident-sync.toml");
    let environment =
        Variables::from([("INCIDENT_SYNC_CONFIG".to_owned(), file.display().to_string())]);
    let config = load_with(None, None, &environment).unwrap();
    assert_eq!((config.file, config.sync.concurrency), (Some(file), 3));
}

#[test]
fn tenants_dir_adds_tenants_and_skips_bad_files() {
    let fabrikam = FABRIKAM.replace("[[tenants]]\n", "");
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}{CONTOSO}"))
        .file("tenants.d/fabrikam.toml", &fabrikam)
        .file("tenants.d/.draft.toml", "broken");
    let names: Vec<String> = etc.good().tenants.iter().map(|tenant| tenant.name.clone()).collect();
    assert_eq!(names, ["Contoso", "Fabrikam"]);

    let contoso = CONTOSO.replace("[[tenants]]\n", "").replace("Contoso", "Contoso again");
    let config =
        etc.file("tenants.d/contoso.toml", &contoso).file("tenants.d/broken.toml", "id = ").good();
    let names: Vec<String> = config.tenants.iter().map(|tenant| tenant.name.clone()).collect();
    assert_eq!(names, ["Contoso", "Fabrikam"], "a wrong file is left out, and all others are read");
    let errors: Vec<String> = config.refused.iter().map(ToString::to_string).collect();
    for text in [
        "contoso.toml: id: the same tenant as tenants[0]",
        "broken.toml: TOML parse error at line 1",
    ] {
        assert!(
            errors.iter().any(|error| error.contains(text)),
            "{text} is missing in {errors:#?}"
        );
    }
    let errors = Etc::with("tenants_dir = '.'\n[sync]\noverlap = 'ten'\n").errors();
    assert!(errors[0].contains("sync.overlap"), "the main file is never left out: {errors:#?}");
    Etc::with("tenants_dir = 'absent'\n")
        .refuses(&["tenants_dir: cannot read", "create the directory"]);
}

#[test]
fn files_with_same_id_or_name_are_both_refused() {
    let fabrikam = FABRIKAM.replace("[[tenants]]\n", "");
    let other_id = fabrikam.replace("ffffffffffff", "000000000001");
    let other_name = fabrikam.replace("Fabrikam", "Adatum");
    for (copy, key) in [(other_id, "name"), (other_name, "id")] {
        let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}{CONTOSO}"))
            .file("tenants.d/fabrikam.toml", &fabrikam)
            .file("tenants.d/adatum.toml", &copy);
        let config = etc.good();
        let names: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        assert_eq!(names, ["Contoso"]);
        let told: Vec<String> = config.refused.iter().map(ToString::to_string).collect();
        for (file, other) in [("fabrikam.toml", "adatum.toml"), ("adatum.toml", "fabrikam.toml")] {
            let is_told = |error: &String| {
                error.contains(&format!("{file}: {key}: ")) && error.contains(other)
            };
            assert!(told.iter().any(is_told), "{file} is missing in {told:#?}");
        }
    }
}

#[test]
fn directory_reload_keeps_previous_main_file() {
    let fabrikam = FABRIKAM.replace("[[tenants]]\n", "");
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}{CONTOSO}"))
        .file("tenants.d/.keep", "");
    let main = etc.good().main;
    assert!(!format!("{main:?}").contains("client"), "it may hold a secret");
    let etc =
        etc.file("incident-sync.toml", "half an edi").file("tenants.d/fabrikam.toml", &fabrikam);
    let file = etc.dir.path().join("incident-sync.toml");
    let config = load_with(Some(&file), Some(&main), &etc.environment).unwrap();
    let names: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["Contoso", "Fabrikam"]);
}

#[test]
fn duplicates_name_both_places() {
    let errors = Etc::with(&format!("{APP}{CONTOSO}{CONTOSO}")).errors();
    assert_eq!(errors.len(), 2, "{errors:#?}");
    for error in errors {
        assert!(
            error.contains("tenants[1] (Contoso)") && error.contains("tenants[0] (Contoso)"),
            "{error}"
        );
    }
}

#[test]
fn secret_files_are_checked() {
    let text = format!("{APP}{CONTOSO}");
    let etc = Etc::with(&text);
    let path = etc.dir.path().join("client_secret");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    etc.refuses(&["app.client_secret_file", "chmod 600"]);
    let guarded =
        Etc::with(&text).set("CREDENTIALS_DIRECTORY", &etc.dir.path().display().to_string());
    assert_eq!(
        secret_of(&guarded.good().tenants[0]),
        CANARY,
        "systemd guards its credentials by itself"
    );

    for (content, problem) in [("\n", "is empty"), ("one\ntwo\n", "more than one line")] {
        etc.secret("client_secret", content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        etc.refuses(&["app.client_secret_file", problem]);
    }
    fs::remove_file(&path).unwrap();
    etc.refuses(&["app.client_secret_file", "cannot read"]);
    fs::create_dir(&path).unwrap();
    etc.refuses(&["not a regular file"]);
    Etc::with(&text.replace("client_secret", CANARY))
        .errors()
        .iter()
        .for_each(|error| assert!(!error.contains(CANARY)));
}

#[test]
fn enabled_tenants_need_an_application() {
    let errors = Etc::with(&format!("{CONTOSO}{FABRIKAM}")).errors();
    assert_eq!(errors.len(), 2, "one for each key, not for each tenant: {errors:#?}");
    assert!(
        errors[0]
            .contains("app.client_id: missing, and 2 enabled tenant(s) need it (Contoso first)"),
        "{errors:#?}"
    );
    let disabled =
        Etc::with(&format!("{CONTOSO}enabled = false\nclient_secret_file = 'gone'\n")).good();
    assert!(!disabled.tenants[0].enabled);
}

#[test]
fn syntax_error_names_line_without_content() {
    let etc = Etc::with(&format!("[sync]\nconcurrency = 4\n[app]\nclient_secret = \"{CANARY}\n"));
    etc.refuses(&["incident-sync.toml: TOML parse error at line 4"]);
    assert!(!etc.errors()[0].contains(CANARY));
}

#[test]
fn config_debug_and_warnings_hide_secrets() {
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
        "database.url: holds a password",
        "does not prove",
        "(Contoso).client_secret: a secret in the",
    ] {
        assert!(warnings.contains(text), "{text} is missing in {warnings}");
    }
    let wrong = etc.set("INCIDENT_SYNC__DATABASE__URL", &format!("postgres://me:{CANARY}@[/x"));
    assert!(!wrong.errors().join("").contains(CANARY));
}

#[test]
fn tls_is_strict_to_other_machines() {
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
        .refuses(&["database.url: not a postgres:// URL"]);
    Etc::with("[database]\nurl = 'postgres://x/y?sslmod=no'\n")
        .refuses(&["parameter that is unknown", "sslmode"]);
    Etc::with("[database]\nurl = 'postgres://x/y'\nsslmode = 'on'\n")
        .refuses(&["database.sslmode", "verify-full"]);
}

#[test]
fn cron_line_that_never_comes_due_is_refused() {
    for good in ["0 */5 * * * *", "30 0 0 * * MON-FRI", "0 0 0 1 * *", "0 30 3 1 * MON"] {
        assert!(cron::check(good).is_ok(), "{good}");
    }
    for bad in ["", "* * * * *", "0 61 * * * *", "0 0 0 30 2 *", "0 0 0 31 2 MON", "every minute"] {
        assert!(cron::check(bad).is_err(), "{bad}");
    }
}

#[test]
fn state_dir_follows_environment_and_user() {
    let of = |variables: &[(&str, &str)], is_root| {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        state_dir_of(&variables, is_root).display().to_string()
    };
    assert_eq!(of(&[("STATE_DIRECTORY", "/a:/b")], true), "/a");
    assert_eq!(of(&[("HOME", "/root")], true), "/var/lib/incident-sync");
    assert_eq!(of(&[("HOME", "/home/me"), ("XDG_STATE_HOME", "/s")], false), "/s/incident-sync");
    assert_eq!(of(&[("HOME", "/home/me")], false), "/home/me/.local/state/incident-sync");
}

/// The sample with every setting in force, a secret wherever one may stand, and every path that it names.
fn everything() -> (Etc, String) {
    let is_setting = |line: &str| {
        line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
    };
    let settings = SAMPLE.lines().filter_map(|line| match line.strip_prefix('#') {
        Some(setting) if is_setting(line) => Some(setting),
        Some(_) => None,
        None => Some(line),
    });
    let text = settings.collect::<Vec<&str>>().join("\n");
    let text =
        text.replace("postgres://incident_sync@", &format!("postgres://incident_sync:{CANARY}@"));
    let text = text
        .replace("password_file", "#password_file")
        .replace("client_secret_file =", "#client_secret_file =");
    let text = text.replace("name = ", &format!("client_secret = \"{CANARY}\"\nname = "));
    let etc =
        Etc::with(&text).file("postgres-ca.pem", "").file("tenants.d/readme.md", "not a tenant");
    etc.good();
    (etc, text)
}

/// What an operator writes freely, and what is shown as it is: no place for a secret.
const SHOWN: [&str; 7] =
    ["name", "labels", "scope", "tenants_dir", "sslrootcert", "embedded_dir", "postgres_bin"];

/// Breaks a few lines: none of these is fine in every place.
fn break_lines(text: &str, random: &mut Random) -> String {
    const VALUES: [&str; 30] = [
        "''",
        "'x'",
        "0",
        "-1",
        "1",
        "99999999999999999999",
        "1e400",
        "nan",
        "true",
        "[]",
        "[[1]]",
        "{}",
        "{ a = 1 }",
        "{ a = 'b', c = { d = 1 } }",
        "2026-01-01T00:00:00Z",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "'''a\nb'''",
        "'10m'",
        "'99999999999999999y'",
        "'0s'",
        "'0 0 0 31 2 *'",
        "'0-59/99 * * * * *'",
        "'* * * * * *'",
        "'postgres://u:CANARY@h/x?password=CANARY'",
        "'https://user:CANARY@example.com/CANARY'",
        "'CANARY'",
        "CANARY",
        "\"CANARY",
        "\"CANARY\\n\"",
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..1 + random.below(4) {
        let (at, other) = (random.below(lines.len()), random.below(lines.len()));
        let key = lines[at].split('=').next().unwrap_or_default().to_owned();
        match random.below(8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[other].clone()),
            2 => lines.swap(at, other),
            // Less a colon, a password is the end of the user's name.
            3 if !lines[at].contains(CANARY) => lines[at] = garbled(&lines[at], random),
            4 => {
                let middle = key.char_indices().nth(key.chars().count() / 2);
                lines[at].insert(middle.map_or(0, |(byte, _)| byte), 'x');
            }
            5 => lines[at] = lines[at].replace(['"', '\''], ""),
            _ if lines[at].contains('=') => {
                let content = if SHOWN.contains(&key.trim()) { "" } else { CANARY };
                lines[at] = format!("{key}= {}", random.pick(&VALUES).replace("CANARY", content));
            }
            _ => {}
        }
    }
    lines.join("\n")
}

#[test]
fn any_file_is_accepted_or_refused_by_key() {
    let (etc, text) = everything();
    let path = etc.dir.path().join("incident-sync.toml");
    let (mut good, mut refused) = (0, 0);
    each_seed(500, |seed| {
        let mut random = Random::new(seed);
        fs::write(&path, break_lines(&text, &mut random)).unwrap();
        let told = match etc.load() {
            Ok(config) => {
                good += 1;
                format!("{config:?} {}", config.warnings.join("\n"))
            }
            Err(errors) => {
                refused += 1;
                assert!(!errors.0.is_empty());
                for error in &errors.0 {
                    assert_eq!(error.file, path.display().to_string(), "{error:?}");
                    assert!(!error.problem.is_empty(), "{error:?}");
                    assert!(
                        !error.key.is_empty() || errors.0.len() == 1,
                        "no key is named: {error:?}"
                    );
                }
                errors.to_string()
            }
        };
        assert!(!told.contains(CANARY), "{told}");
    });
    assert!(
        good + refused == 1 || good > 0 && refused > 0,
        "{good} were good and {refused} were refused"
    );
}

#[test]
fn any_environment_is_accepted_or_refused_by_name() {
    let (etc, text) = everything();
    let mut section = "";
    let mut names = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('[') {
            Some(rest) => section = rest.trim_matches(['[', ']']),
            None => names
                .extend(line.split_once('=').map(|(key, _)| format!("{section}__{}", key.trim()))),
        }
    }
    each_seed(300, |seed| {
        let mut random = Random::new(seed);
        let mut environment = Variables::new();
        for _ in 0..1 + random.below(4) {
            let key = names[random.below(names.len())].trim_start_matches("__").to_uppercase();
            let key = if random.below(6) == 0 { garbled(&key, &mut random) } else { key };
            let is_shown = SHOWN.iter().any(|shown| key.ends_with(&shown.to_uppercase()));
            let content = if is_shown { "shown" } else { CANARY };
            let values = [
                "",
                "x",
                "0",
                "-1",
                "9999999999",
                "true",
                "10m",
                "0 0 0 * * *",
                content,
                "\u{0}",
                "\n",
            ];
            environment.insert(format!("INCIDENT_SYNC__{key}"), random.pick(&values).to_owned());
        }
        let told =
            match load_with(Some(&etc.dir.path().join("incident-sync.toml")), None, &environment) {
                Ok(config) => format!("{config:?} {}", config.warnings.join("\n")),
                Err(errors) => {
                    assert!(
                        errors
                            .0
                            .iter()
                            .all(|error| !error.file.is_empty() && !error.key.is_empty()),
                        "{errors:?}"
                    );
                    errors.to_string()
                }
            };
        assert!(!told.contains(CANARY), "{told}");
    });
}

const CRED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/credentials");

/// An `[app]` with these lines, and a private key that is closed to others.
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

#[tokio::test]
async fn each_credential_kind_is_read_with_its_expiry() {
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
fn unusable_credential_is_refused_with_cure() {
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
    for (lines, told) in table {
        let errors = app(&lines).errors();
        assert!(errors.iter().any(|error| error.contains(told)), "{told} is not in {errors:#?}");
        assert!(!errors.concat().contains(CANARY), "{errors:?}");
    }
}

#[test]
fn unreadable_credential_warns_and_other_is_used() {
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
        "what is no matter of files is a mistake: {errors:?}"
    );
}

#[test]
fn unusable_proxy_is_refused_without_its_password() {
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
        (format!("proxy = 'http://user:{CANARY}@proxy.example.com'"), "holds a password; move it"),
        ("proxy = 'socks5://proxy.example.com'".to_owned(), "not the http:// or https:// URL"),
        ("proxy = 'proxy.example.com:3128'".to_owned(), "not the http:// or https:// URL"),
        (format!("proxy = 'http://proxy.example.com'\n{password}"), "has no user"),
        (password.to_owned(), "has no effect"),
        (format!("proxy = 'environment'\n{password}"), "has no effect"),
        ("ca_file = 'nothing.pem'".to_owned(), "cannot read"),
        ("ca_file = 'incident-sync.toml'".to_owned(), "no certificate is in it"),
        ("ca_file = 'garbled.pem'".to_owned(), "a certificate in it is damaged"),
    ];
    for (lines, told) in table {
        let errors = with(&lines).errors();
        assert!(errors.len() == 1 && errors[0].contains(told), "{told} is not in {errors:#?}");
        assert!(!errors[0].contains(CANARY), "{errors:?}");
    }
}
