use super::*;

const FIRST: &[u8] = include_bytes!("../../tests/data/credentials/first.crt.pem");
const FIRST_KEY: &[u8] = include_bytes!("../../tests/data/credentials/first.key.pem");
const SECOND: &[u8] = include_bytes!("../../tests/data/credentials/second.crt.pem");
const SECOND_KEY: &[u8] = include_bytes!("../../tests/data/credentials/second.key.pem");
const PASSWORD: &str = "canary5f2d77c0-p12";

fn pem(certificate: &[u8], key: &[u8]) -> Result<Certificate, String> {
    Certificate::from_pem(certificate, key, Algorithm::Ps256)
}

#[test]
fn a_key_belongs_to_its_certificate_or_the_pair_is_refused() {
    let first = pem(FIRST, FIRST_KEY).unwrap();
    assert_eq!(first.expires.format("%Y").to_string(), "2126");
    // The rest of the chain may stand before or behind it.
    let chain = [SECOND, FIRST].concat();
    assert_eq!(pem(&chain, FIRST_KEY).unwrap().thumbprint(), first.thumbprint());
    let ec = include_bytes!("../../tests/data/credentials/ec.key.pem");
    let encrypted = include_bytes!("../../tests/data/credentials/encrypted.key.pem");
    let table: [(&[u8], &[u8], &str); 5] = [
        (FIRST, SECOND_KEY, "does not belong to the certificate"),
        (FIRST, FIRST, "no private key"),
        (FIRST_KEY, FIRST_KEY, "no certificate"),
        (FIRST, ec, "not an RSA key"),
        (FIRST, encrypted, "is encrypted"),
    ];
    for (certificate, key, told) in table {
        let problem = pem(certificate, key).unwrap_err();
        assert!(problem.contains(told), "{told}: {problem}");
    }
}

#[test]
fn pkcs12_is_read_in_its_new_and_its_old_form() {
    let modern: &[u8] = include_bytes!("../../tests/data/credentials/modern.p12");
    let legacy: &[u8] = include_bytes!("../../tests/data/credentials/legacy.p12");
    let thumbprint = pem(FIRST, FIRST_KEY).unwrap().thumbprint();
    for store in [modern, legacy] {
        let read = Certificate::from_pkcs12(store, PASSWORD, Algorithm::Ps256).unwrap();
        assert_eq!(read.thumbprint(), thumbprint);
        let problem = Certificate::from_pkcs12(store, "canary-wrong", Algorithm::Ps256).unwrap_err();
        assert!(problem.contains("password") && !problem.contains("canary"), "{problem}");
        assert!(Certificate::from_pkcs12(&store[..store.len() / 2], PASSWORD, Algorithm::Ps256).is_err());
    }
}

#[test]
fn no_part_of_a_key_is_shown() {
    let shown = format!("{:?}", pem(FIRST, FIRST_KEY).unwrap());
    assert!(shown.len() < 60, "{shown}");
}
