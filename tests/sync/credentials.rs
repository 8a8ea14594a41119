//! Each kind of credential against a token endpoint that verifies it; two of them in order; one alarm for all tenants.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::routing::get;
use chrono::TimeDelta;
use incident_sync::entra::certificate::Algorithm;
use incident_sync::entra::credential::{
    CertificateFiles, Credential, CredentialSettings, CredentialSource,
};
use incident_sync::entra::managed_identity::ManagedIdentity;
use incident_sync::entra::secret_file::{Readers, SecretFile};
use incident_sync::error::Retry;
use incident_sync::store::runs::Outcome;
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use simulator::{Endpoint, TenantSpec};
use tempfile::TempDir;

use crate::support::secrets::SECRET;
use crate::support::world::{CONCURRENCY, World, id, spec};

const EXCHANGE: &str = "api://AzureADTokenExchange";
/// Two refusals are enough; where answers take long, as many tenants may have asked as are in flight.
const IN_FLIGHT: usize = 4 * CONCURRENCY;
const IDENTITY: &str = "77777777-0000-4000-8000-000000000000";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/credentials").join(name)
}

fn file(path: PathBuf) -> SecretFile {
    // Those of a checkout are open to everybody.
    SecretFile { path, bare: None, is_guarded: true, readers: Readers::default() }
}

fn certificate(name: &str, algorithm: Algorithm) -> Credential {
    let certificate = file(data(&format!("{name}.crt.pem")));
    let key = Some(file(data(&format!("{name}.key.pem"))));
    let files = CertificateFiles { certificate, key, algorithm };
    Credential::new(CredentialSource::Certificate(files), CredentialSettings::default()).unwrap()
}

fn federated(folder: &TempDir, token: &str) -> Credential {
    let path = folder.path().join("token");
    std::fs::write(&path, token).unwrap();
    Credential::new(CredentialSource::FederatedFile(file(path)), CredentialSettings::default())
        .unwrap()
}

fn identity(world: &World, client_id: &str) -> Credential {
    let source = CredentialSource::ManagedIdentity {
        client_id: client_id.to_owned(),
        endpoint: world.url(),
    };
    Credential::new(source, CredentialSettings::default()).unwrap()
}

fn secret(value: &str) -> Credential {
    Credential::secret(value.to_owned().into())
}

fn register(world: &World, name: &str) {
    world.service().register_certificate(
        &CertificateDer::from_pem_file(data(&format!("{name}.crt.pem"))).unwrap(),
    );
}

fn many(tenants: u128) -> Vec<TenantSpec> {
    (1..=tenants).map(|number| spec(number, 1)).collect()
}

/// Token requests that arrived, by any tenant, and how many were answered with a token.
fn token_requests(world: &World) -> (usize, usize) {
    let tenants = world.tenants().iter();
    let calls = tenants.flat_map(|tenant| world.service().calls(tenant.id.0));
    let tokens: Vec<_> = calls.filter(|call| call.endpoint == Endpoint::Token).collect();
    (tokens.len(), tokens.iter().filter(|call| call.status == 200).count())
}

/// No tenant gets a token, and each that requested one fails with this text.
async fn fails_with(world: &World, expected: &str) {
    let results = world.run().await;
    let failures: Vec<String> =
        results.iter().map(|result| format!("{:?}", result.report.failure)).collect();
    let requested: Vec<_> =
        failures.iter().filter(|failure| !failure.contains("CredentialBreaker")).collect();
    assert!(
        !requested.is_empty() && requested.iter().all(|failure| failure.contains(expected)),
        "{expected} is not in {requested:?}"
    );
}

#[tokio::test]
async fn certificate_gets_tokens_with_both_algorithms() {
    let by = || [certificate("first", Algorithm::Ps256), certificate("first", Algorithm::Rs256)];
    for credential in by() {
        let world = World::with_credentials(many(3), credential, None).await;
        fails_with(&world, "codes: [700027]").await;
        register(&world, "first");
        world.clear_parking().await;
        // As a reload does.
        world.engine.services().tokens.probe_refused();
        world.successful_run().await;
        world.assert_truth().await;
    }
    let world =
        World::with_credentials(many(1), certificate("first", Algorithm::Ps256), None).await;
    register(&world, "second");
    fails_with(&world, "codes: [700027]").await;
}

/// The simulator's clock is another one than this machine's.
#[tokio::test]
async fn wrong_clock_costs_one_token_request() {
    let world =
        World::with_credentials(many(1), certificate("first", Algorithm::Ps256), None).await;
    register(&world, "first");
    world.service().advance(std::time::Duration::from_secs(400 * 86_400));
    world.successful_run().await;
    assert_eq!(token_requests(&world), (2, 1));
}

#[tokio::test]
async fn federated_token_is_read_for_each_request() {
    let (folder, mut world) = (tempfile::tempdir().unwrap(), World::with(many(1)).await);
    let now = world.service().now();
    let kubernetes = world
        .service()
        .trust_issuer("https://kubernetes.example", "system:serviceaccount:soc:sync");
    let valid = || kubernetes.token(EXCHANGE, now, now + TimeDelta::hours(1));
    let foreign = world
        .service()
        .trust_issuer("https://kubernetes.example", "system:serviceaccount:soc:other");
    let table = [
        (kubernetes.token(EXCHANGE, now, now - TimeDelta::hours(1)), "codes: [700024]"),
        (kubernetes.token("api://other", now, now + TimeDelta::hours(1)), "codes: [7002121]"),
        (foreign.token(EXCHANGE, now, now + TimeDelta::hours(1)), "codes: [700027]"),
        (format!("{}x", valid()), "codes: ["),
    ];
    for (token, expected) in table {
        world.use_credentials(federated(&folder, &token).into(), None);
        world.clear_parking().await;
        fails_with(&world, expected).await;
    }
    std::fs::write(folder.path().join("token"), valid()).unwrap();
    world.clear_parking().await;
    world.successful_run().await;
    world.assert_truth().await;
}

#[tokio::test]
async fn one_identity_assertion_serves_all_tenants() {
    let mut world = World::with(many(50)).await;
    world.use_credentials(identity(&world, IDENTITY).into(), None);
    fails_with(&world, "ManagedIdentity { status: 400").await;
    let asked = world.service().identity_requests();
    assert!(asked <= IN_FLIGHT + 2, "{asked} requests for an identity that is not there");
    world.service().assign_identity(IDENTITY);
    world.use_credentials(identity(&world, IDENTITY).into(), None);
    world.clear_parking().await;
    world.successful_run().await;
    assert_eq!(world.service().identity_requests(), asked + 1);
}

#[tokio::test]
async fn next_credential_is_used_when_first_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::with(many(50)).await;
    register(&world, "second");
    let now = world.service().now();
    let issuer = world.service().trust_issuer("https://kubernetes.example", "sync");
    let firsts = [
        secret("canary5f2d77c0-of-old"),
        certificate("first", Algorithm::Ps256),
        federated(&folder, &issuer.token(EXCHANGE, now, now - TimeDelta::days(1))),
        identity(&world, IDENTITY),
    ];
    for first in firsts {
        let kind = first.kind();
        world.use_credentials(first.into(), Some(certificate("second", Algorithm::Ps256).into()));
        let (before, good_before) = token_requests(&world);
        world.clear_parking().await;
        world.successful_run().await;
        let (asked, good) = token_requests(&world);
        let refused = asked - before - (good - good_before);
        assert_eq!(good - good_before, 50, "{kind}");
        assert!(refused <= IN_FLIGHT + 2, "{kind}: {refused} refusals");
    }
}

#[tokio::test]
async fn expired_secret_is_replaced_without_failed_run() {
    let next = secret("canary5f2d77c0-next");
    let world = World::with_credentials(many(3), secret(SECRET), Some(next)).await;
    world.successful_run().await;
    world.service().expire_client_secret("canary5f2d77c0-next");
    world.service().advance(std::time::Duration::from_secs(4_000));
    for tenant in world.tenants() {
        world.engine.services().tokens.forget(tenant).await;
    }
    world.successful_run().await;
    world.assert_truth().await;
}

#[tokio::test]
async fn broken_credential_costs_few_token_requests() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::with(many(50)).await;
    let now = world.service().now();
    let issuer = world.service().trust_issuer("https://kubernetes.example", "sync");
    let expired = issuer.token(EXCHANGE, now, now - TimeDelta::days(1));
    let broken = || secret("canary5f2d77c0-of-old");
    let pairs = [
        (broken(), None),
        (certificate("first", Algorithm::Ps256), None),
        (federated(&folder, &expired), None),
        (broken(), Some(certificate("second", Algorithm::Ps256))),
    ];
    for (first, next) in pairs {
        let (kind, credentials) = (first.kind(), 1 + usize::from(next.is_some()));
        world.use_credentials(first.into(), next.map(Into::into));
        let before = token_requests(&world).0;
        world.clear_parking().await;
        for round in 0..3 {
            world.clear_parking().await;
            for result in world.run().await {
                let diagnosis = result.diagnosis.expect("no tenant gets a token");
                assert_eq!(
                    (diagnosis.class.as_str(), diagnosis.owner.as_str()),
                    ("credential", "operator"),
                    "{kind} {round}"
                );
                assert!(
                    result.outcome == Outcome::Parked || matches!(diagnosis.retry, Retry::After(_))
                );
            }
        }
        let asked = token_requests(&world).0 - before;
        println!("{kind}: {asked} requests for 50 tenants in 3 runs");
        assert!(asked >= 2 && asked <= credentials * (IN_FLIGHT + 2), "{kind}: {asked} requests");
    }
    std::fs::write(
        folder.path().join("token"),
        issuer.token(EXCHANGE, now, now + TimeDelta::hours(1)),
    )
    .unwrap();
    world.use_credentials(
        secret("canary5f2d77c0-of-old").into(),
        Some(federated(&folder, "a.b.c").into()),
    );
    world.clear_parking().await;
    fails_with(&world, "codes: [7000215]").await;
    let token = issuer.token(EXCHANGE, now, now + TimeDelta::hours(1));
    std::fs::write(folder.path().join("token"), token).unwrap();
    world.clear_parking().await;
    world.successful_run().await;
    assert_eq!(world.state(id(50), "parked_reason").await, None);
}

/// A managed identity service that answers with each of these, and then always with the last one; and the requests it got.
async fn identity_service(mut answers: Vec<(u16, String)>) -> (Url, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    answers.reverse();
    let (log, answers) = (Arc::clone(&asked), Arc::new(Mutex::new(answers)));
    let answer = move |RawQuery(query): RawQuery| {
        log.lock().unwrap().push(query.unwrap_or_default());
        let mut answers = answers.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        let (status, body) = next.expect("there is an answer");
        std::future::ready((StatusCode::from_u16(status).unwrap(), body))
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(get(answer))).await });
    (url, asked)
}

fn identity_at(endpoint: Url) -> Arc<Credential> {
    let source = CredentialSource::ManagedIdentity { client_id: IDENTITY.to_owned(), endpoint };
    Credential::new(source, CredentialSettings::default()).unwrap().into()
}

#[tokio::test]
async fn failing_identity_service_is_called_once_for_all() {
    let mut world = World::with(many(20)).await;
    let now = world.service().now();
    let issuer =
        world.service().trust_issuer("https://login.microsoftonline.com/home/v2.0", IDENTITY);
    let token = issuer.token(EXCHANGE, now, now + TimeDelta::hours(1));
    let good = format!(r#"{{"access_token":"{token}","expires_in":"86400"}}"#);
    for status in [404, 410, 429, 503] {
        let (url, asked) =
            identity_service(vec![(status, String::new()), (200, good.clone())]).await;
        world.use_credentials(identity_at(url), None);
        world.clear_parking().await;
        for result in world.run().await {
            let diagnosis = result.diagnosis.expect("no tenant gets a token");
            assert_eq!(
                (diagnosis.class.as_str(), diagnosis.owner.as_str()),
                ("transport", "nobody"),
                "{status}"
            );
            assert!(
                matches!(diagnosis.retry, Retry::After(_)) && diagnosis.shared,
                "{status}: {diagnosis:?}"
            );
        }
        assert_eq!(asked.lock().unwrap().len(), 1, "{status}");
        // As after a minute.
        world.engine.services().tokens.probe_refused();
        world.successful_run().await;
        assert_eq!(asked.lock().unwrap().len(), 2, "{status}");
    }
    let (url, asked) = identity_service(vec![(400, String::new())]).await;
    world.use_credentials(identity_at(url), None);
    world.clear_parking().await;
    fails_with(&world, "ManagedIdentity { status: 400").await;
    assert!(asked.lock().unwrap().len() <= IN_FLIGHT + 2);
}

#[tokio::test]
async fn each_cloud_uses_its_own_exchange_audience() {
    for (authority, audience) in [
        ("https://login.microsoftonline.us", "api%3A%2F%2FAzureADTokenExchangeUSGov"),
        ("https://login.microsoftonline.com", "api%3A%2F%2FAzureADTokenExchange"),
    ] {
        let (url, asked) =
            identity_service(vec![(200, r#"{"access_token":"t"}"#.to_owned())]).await;
        let identity = ManagedIdentity::new(IDENTITY.to_owned(), url);
        identity.assertion(&authority.parse().unwrap()).await.unwrap();
        let query = asked.lock().unwrap()[0].clone();
        assert!(query.split('&').any(|part| part == format!("resource={audience}")), "{query}");
    }
}
