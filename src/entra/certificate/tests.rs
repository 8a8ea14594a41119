use super::*;

const FIRST: &[u8] = include_bytes!("../../../tests/data/credentials/first.crt.pem");
const FIRST_KEY: &[u8] = include_bytes!("../../../tests/data/credentials/first.key.pem");
const SECOND: &[u8] = include_bytes!("../../../tests/data/credentials/second.crt.pem");
const SECOND_KEY: &[u8] = include_bytes!("../../../tests/data/credentials/second.key.pem");

fn pem(certificate: &[u8], key: &[u8]) -> Result<Certificate, String> {
    Certificate::from_pem(certificate, key, Algorithm::Ps256)
}

#[test]
fn key_of_other_certificate_is_rejected() {
    let first = pem(FIRST, FIRST_KEY).unwrap();
    assert_eq!(first.expires.format("%Y").to_string(), "2126");
    // The rest of the chain may precede or follow it.
    let chain = [SECOND, FIRST].concat();
    assert_eq!(pem(&chain, FIRST_KEY).unwrap().thumbprint(), first.thumbprint());
    let ec = include_bytes!("../../../tests/data/credentials/ec.key.pem");
    let encrypted = include_bytes!("../../../tests/data/credentials/encrypted.key.pem");
    let table: [(&[u8], &[u8], &str); 5] = [
        (FIRST, SECOND_KEY, "does not belong to the certificate"),
        (FIRST, FIRST, "no private key"),
        (FIRST_KEY, FIRST_KEY, "no certificate"),
        (FIRST, ec, "not an RSA key"),
        (FIRST, encrypted, "is encrypted"),
    ];
    for (certificate, key, expected) in table {
        let problem = pem(certificate, key).unwrap_err();
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
}

#[test]
fn pkcs12_is_recognised_by_its_first_bytes() {
    let modern: &[u8] = include_bytes!("../../../tests/data/credentials/modern.p12");
    let legacy: &[u8] = include_bytes!("../../../tests/data/credentials/legacy.p12");
    let indefinite = [&[0x30, 0x80], &modern[4..]].concat();
    for store in [modern, legacy, &modern[..20], &indefinite] {
        assert!(is_pkcs12(store));
    }
    let key = PrivateKeyDer::from_pem_slice(FIRST_KEY).unwrap();
    let certificate = CertificateDer::from_pem_slice(FIRST).unwrap();
    for other in
        [FIRST, FIRST_KEY, key.secret_der(), &certificate, b"", b"0", &[0x30, 0xff], &modern[1..]]
    {
        assert!(!is_pkcs12(other));
    }
}

#[test]
fn private_key_is_not_shown_in_debug() {
    let shown = format!("{:?}", pem(FIRST, FIRST_KEY).unwrap());
    assert!(shown.len() < 60, "{shown}");
}
