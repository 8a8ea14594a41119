//! Errors: complete, located, with a fix.

use super::*;

#[test]
fn all_errors_are_reported_together() {
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
fn unknown_key_is_reported_with_suggestion() {
    Etc::with("[shedule]\n").assert_error(&["shedule: unknown key; did you mean schedule?"]);
    Etc::with("concurrency = 4\n").assert_error(&["did you mean sync.concurrency?"]);
    Etc::with("[http]\ncertificate = 4\n").assert_error(&["unknown key; valid here: listen"]);
    Etc::with(&format!("{APP}client_certficate_file = 'x'\n")).assert_error(&[
        "app.client_certficate_file: unknown key; did you mean app.client_certificate_file?",
    ]);
    Etc::with(&format!("{APP}{CONTOSO}nme = 'x'\n"))
        .assert_error(&["tenants[0] (Contoso).nme", "did you mean tenants[0] (Contoso).name?"]);
    Etc::with(&format!("{APP}[app.next]\nclient_secret_fil = 'x'\n")).assert_error(&[
        "app.next.client_secret_fil: unknown key; did you mean app.next.client_secret_file?",
    ]);
}

#[test]
fn tenant_file_with_section_is_rejected_with_fix() {
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}"))
        .file("tenants.d/a.toml", CONTOSO)
        .good();
    let errors: Vec<String> = etc
        .tenants_dir_errors
        .iter()
        .map(|error| format!("{}: {}", error.key, error.problem))
        .collect();
    assert!(
        errors
            .iter()
            .any(|error| error.starts_with("tenants: unknown key; this file is one tenant")),
        "{errors:?}"
    );
    let with_app = format!("{}{APP}", CONTOSO.replace("[[tenants]]\n", ""));
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}"))
        .file("tenants.d/a.toml", &with_app)
        .good();
    assert!(
        etc.tenants_dir_errors[0].problem.contains("keys at top level"),
        "{:?}",
        etc.tenants_dir_errors
    );
    let typo = CONTOSO.replace("[[tenants]]\n", "") + "nme = 1\n";
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}"))
        .file("tenants.d/a.toml", &typo)
        .good();
    assert!(
        etc.tenants_dir_errors[0].problem.ends_with("did you mean name?"),
        "{:?}",
        etc.tenants_dir_errors
    );
}

#[test]
fn syntax_error_names_line_without_its_content() {
    let etc = Etc::with(&format!("[sync]\nconcurrency = 4\n[app]\nclient_secret = \"{CANARY}\n"));
    etc.assert_error(&["incident-sync.toml: TOML parse error at line 4"]);
    assert!(!etc.errors()[0].contains(CANARY));
}

#[test]
fn duplicate_tenant_error_names_both_locations() {
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
fn cron_line_that_never_comes_due_is_refused() {
    for good in ["0 */5 * * * *", "30 0 0 * * MON-FRI", "0 0 0 1 * *", "0 30 3 1 * MON"] {
        assert!(cron::check(good).is_ok(), "{good}");
    }
    for bad in ["", "* * * * *", "0 61 * * * *", "0 0 0 30 2 *", "0 0 0 31 2 MON", "every minute"] {
        assert!(cron::check(bad).is_err(), "{bad}");
    }
}
