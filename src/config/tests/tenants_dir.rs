//! Files of `tenants_dir`.

use super::*;

#[test]
fn invalid_tenants_dir_file_is_left_out_alone() {
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
    assert_eq!(names, ["Contoso", "Fabrikam"], "an invalid file is left out alone");
    let errors: Vec<String> = config.tenants_dir_errors.iter().map(ToString::to_string).collect();
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
        .assert_error(&["tenants_dir: cannot read", "create the directory"]);
}

#[test]
fn conflicting_tenants_dir_files_are_both_rejected() {
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
        let errors: Vec<String> =
            config.tenants_dir_errors.iter().map(ToString::to_string).collect();
        for (file, other) in [("fabrikam.toml", "adatum.toml"), ("adatum.toml", "fabrikam.toml")] {
            let is_reported = |error: &String| {
                error.contains(&format!("{file}: {key}: ")) && error.contains(other)
            };
            assert!(errors.iter().any(is_reported), "{file} is missing in {errors:#?}");
        }
    }
}

#[test]
fn load_beside_keeps_main_file_as_first_read() {
    let fabrikam = FABRIKAM.replace("[[tenants]]\n", "");
    let etc = Etc::with(&format!("tenants_dir = 'tenants.d'\n{APP}{CONTOSO}"))
        .file("tenants.d/.keep", "");
    let main = etc.good().main;
    assert!(!format!("{main:?}").contains("client"), "it may contain a secret");
    let etc =
        etc.file("incident-sync.toml", "half an edi").file("tenants.d/fabrikam.toml", &fabrikam);
    let file = etc.dir.path().join("incident-sync.toml");
    let config = load_with(Some(&file), Some(&main), &etc.environment).unwrap();
    let names: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["Contoso", "Fabrikam"]);
}
