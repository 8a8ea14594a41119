use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::entra::certificate::Algorithm;
use crate::entra::secret_file::{Readers, SecretFile};

#[test]
fn pkcs12_error_contains_working_conversion_command() {
    let folder = tempfile::Builder::new().prefix("it's ").tempdir().unwrap();
    for (store, option) in [("modern", "pkcs12"), ("legacy", "pkcs12 -legacy")] {
        let path = folder.path().join(format!("{store}.pem"));
        fs::copy(
            format!("{}/tests/data/credentials/{store}.p12", env!("CARGO_MANIFEST_DIR")),
            &path,
        )
        .unwrap();
        let read = |path: PathBuf| {
            let certificate =
                SecretFile { path, bare: None, is_guarded: false, readers: Readers::default() };
            let files = CertificateFiles { certificate, key: None, algorithm: Algorithm::Ps256 };
            Credential::new(CredentialSource::Certificate(files), CredentialSettings::default())
        };
        let problem = read(path.clone()).unwrap_err();
        assert!(problem.starts_with(&path.display().to_string()), "{problem}");
        let command = problem.split('`').nth(1).unwrap().replace("pkcs12", option);
        let command = format!("{command} -passin pass:canary5f2d77c0-p12");
        let ran = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(ran.status.success(), "{command}: {ran:?}");
        let converted = read(folder.path().join(format!("{store}.pem.pem"))).unwrap();
        assert_eq!(converted.expires().unwrap().format("%Y").to_string(), "2126");
    }
}

#[test]
fn pkcs12_is_rejected_as_certificate_and_as_key() {
    let data = |name: &str| format!("{}/tests/data/credentials/{name}", env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let garbled = folder.path().join("garbled.PFX");
    fs::write(&garbled, "MIIJaQIBAzCC").unwrap();
    let named_pkcs12 = folder.path().join("client.p12");
    fs::write(
        &named_pkcs12,
        [data("first.crt.pem"), data("first.key.pem")].map(|name| fs::read(name).unwrap()).concat(),
    )
    .unwrap();
    let file = |path: &Path, is_guarded| SecretFile {
        path: path.to_owned(),
        bare: None,
        is_guarded,
        readers: Readers::default(),
    };
    let problem = |certificate: SecretFile, key: Option<SecretFile>| {
        let files = CertificateFiles { certificate, key, algorithm: Algorithm::Ps256 };
        CredentialSource::Certificate(files).read().err()
    };
    let refusal = problem(file(&garbled, false), None).unwrap();
    assert!(refusal.contains("garbled.PFX is a PKCS#12 key store"), "{refusal}");
    let key = Some(file(Path::new(&data("legacy.p12")), false));
    let refusal = problem(file(Path::new(&data("first.crt.pem")), false), key).unwrap();
    assert!(
        refusal.starts_with("client_private_key_file: ") && refusal.contains("-nodes"),
        "{refusal}"
    );
    let refusal = problem(file(Path::new(&data("modern.p12")), true), None).unwrap();
    assert!(
        refusal.contains("-in STORE.pfx")
            && refusal.contains("specify STORE.pfx.pem in LoadCredential="),
        "{refusal}"
    );
    assert_eq!(problem(file(&named_pkcs12, true), None), None, "PEM is read under any name");
}

#[tokio::test]
async fn replaced_secret_has_no_known_expiry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let write = |secret: &str| fs::write(&path, secret).unwrap();
    let read = |day: i64| {
        let file = SecretFile {
            path: path.clone(),
            bare: None,
            is_guarded: true,
            readers: Readers::default(),
        };
        let expires = DateTime::from_timestamp(day * 86_400, 0);
        Arc::new(
            Credential::new(
                CredentialSource::SecretFile(file),
                CredentialSettings { expires, ..CredentialSettings::default() },
            )
            .unwrap(),
        )
    };
    let credential_id = CredentialId { client_id: String::new(), name: "first", owner: None };
    write("one");
    let first = read(1);
    assert!(first.expires().is_some() && !first.is_expiry_outdated());
    write("two");
    first.client_auth(&credential_id).await;
    assert!(first.expires().is_none() && first.is_expiry_outdated());
    let reloaded = read(1);
    reloaded.inherit(&first);
    reloaded.inherit(&reloaded);
    assert_eq!(reloaded.expires(), None, "the configured expiry belongs to the first secret");
    let redated = read(2);
    redated.inherit(&reloaded);
    assert!(redated.expires().is_some() && !redated.is_expiry_outdated());
}
