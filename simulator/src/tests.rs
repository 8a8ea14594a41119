//! The simulator from the view of its clients.

use std::time::Duration;

use chrono::DateTime;
use reqwest::{Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::*;

pub(crate) const TENANT: Uuid = Uuid::from_u128(0x00aa_0000_0000_0000_0000_0000_0000_0001);
/// Of the default options.
pub(crate) const SECRET: &str = "simulated-secret";

pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) url: Url,
    pub(crate) token: String,
}

pub(crate) async fn start(encoding: Encoding, spec: TenantSpec) -> Simulator {
    let options = Options {
        clock: Clock::Manual(DateTime::from_timestamp(1_700_000_000, 0).unwrap()),
        encoding,
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.unwrap();
    simulator.world().add_tenant(spec);
    simulator
}

pub(crate) fn spec(incidents: usize) -> TenantSpec {
    TenantSpec { incidents, ..TenantSpec::new(TENANT, "Contoso") }
}

pub(crate) async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

impl Client {
    pub(crate) async fn new(simulator: &Simulator) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut client = Self { http, url: simulator.url(), token: String::new() };
        let answer = client.ask_token("v2.0/token", SECRET, "scope");
        let answer = json(answer.await).await;
        assert_eq!(answer["expires_in"], 3599);
        client.token = answer["access_token"].as_str().unwrap().to_owned();
        client
    }

    pub(crate) async fn ask_token(&self, path: &str, secret: &str, resource: &str) -> Response {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &Options::default().client_id),
            ("client_secret", secret),
            (resource, &format!("{}.default", self.url)),
        ];
        let url = self.url.join(&format!("{TENANT}/oauth2/{path}")).unwrap();
        self.http.post(url).form(&form).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> reqwest::Result<Response> {
        let url = self.url.join(&format!("api/incidents{path}")).unwrap();
        self.http.get(url).bearer_auth(&self.token).send().await
    }

    pub(crate) async fn status(&self, path: &str) -> u16 {
        self.get(path).await.unwrap().status().as_u16()
    }

    async fn page(&self, path: &str) -> Vec<Value> {
        let response = self.get(path).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = json(response).await;
        serde_json::from_value(body["value"].take()).unwrap()
    }
}

#[tokio::test]
async fn client_pages_through_tenant_in_every_encoding() {
    for encoding in [Encoding::Identity, Encoding::Gzip] {
        let simulator = start(encoding, spec(150)).await;
        let client = Client::new(&simulator).await;
        let mut seen = client.page("?$top=100").await;
        seen.extend(client.page("?$top=100&$skip=100").await);
        seen.sort_by_key(|incident| incident["incidentId"].as_i64());
        assert_eq!(seen, simulator.world().truth(TENANT));
        let calls = simulator.world().calls(TENANT);
        assert_eq!(calls.len(), 3);
        assert_eq!((calls[2].status, &*calls[2].query), (200, "$top=100&$skip=100"));
        simulator.stop().await;
    }
}

#[tokio::test]
async fn headers_match_service_with_simulated_date() {
    let simulator = start(Encoding::Gzip, spec(1)).await;
    let client = Client::new(&simulator).await;
    let response = client.get("").await.unwrap();
    assert_eq!(response.headers()["date"], "Tue, 14 Nov 2023 22:13:20 GMT");
    assert_eq!(response.headers()["odata-version"], "4.0");
    assert!(response.headers()["content-type"].to_str().unwrap().contains("odata.streaming=true"));
}

#[tokio::test]
async fn documented_filters_work_and_others_are_refused() {
    let simulator = start(Encoding::Identity, spec(30)).await;
    let client = Client::new(&simulator).await;
    let world = simulator.world();
    world.advance(Duration::from_secs(60));
    assert!(world.resolve(TENANT, 7));
    let page = client
        .page("?$filter=lastUpdateTime+ge+2023-11-14T22:14:00Z+and+status+eq+'Resolved'")
        .await;
    assert_eq!(page.len(), 1);
    assert_eq!(page[0]["incidentId"], 7);
    for refused in
        ["?$filter=severity+eq+'High'", "?$top=101", "?$skip=-1", "?$orderby=lastUpdateTime"]
    {
        assert_eq!(client.status(refused).await, 400, "{refused}");
    }
}

#[tokio::test]
async fn single_incident_carries_its_odata_context() {
    let simulator = start(Encoding::Identity, spec(2)).await;
    let client = Client::new(&simulator).await;
    let incident = json(client.get("/2").await.unwrap()).await;
    assert_eq!(incident["incidentId"], 2);
    let context = incident["@odata.context"].as_str().unwrap();
    assert!(context.ends_with("/api/$metadata#Incidents/$entity"));
    assert_eq!(client.status("/3").await, 404);
    assert_eq!(client.status("/x").await, 404);
}

#[tokio::test]
async fn unservable_incident_fails_its_pages_until_healed() {
    let simulator = start(Encoding::Identity, spec(30)).await;
    let client = Client::new(&simulator).await;
    let world = simulator.world();
    let shown = client.page("?$top=10&$skip=10").await;
    world.poison(TENANT, shown[0]["incidentId"].as_i64().unwrap());
    for failing in ["", "?$top=10&$skip=10", "?$top=11"] {
        assert_eq!(client.status(failing).await, 500, "{failing}");
    }
    assert_eq!(client.status(&format!("/{}", shown[0]["incidentId"])).await, 500);
    assert_eq!(client.status(&format!("/{}", shown[1]["incidentId"])).await, 200);
    assert_eq!(client.page("?$top=10").await.len(), 10);
    assert_eq!(client.page("?$skip=11").await.len(), 19);
    world.heal(TENANT);
    assert_eq!(client.page("").await.len(), 30);
}

#[tokio::test]
async fn documented_sample_is_served_unchanged() {
    let json = include_str!("../../tests/data/defender_docs_list_incidents.json");
    let simulator = start(Encoding::Identity, spec(0)).await;
    simulator.world().add_documented_sample(TENANT, json);
    let sample: Value = serde_json::from_str(json).unwrap();
    let client = Client::new(&simulator).await;
    assert_eq!(Value::from(client.page("").await), sample["value"]);
}

#[tokio::test]
async fn quota_follows_the_simulated_clock() {
    let simulator = start(Encoding::Identity, TenantSpec { calls_per_minute: 2, ..spec(1) }).await;
    let client = Client::new(&simulator).await;
    assert_eq!(client.status("").await, 200);
    assert_eq!(client.status("").await, 200);
    let refused = client.get("").await.unwrap();
    assert_eq!(refused.status().as_u16(), 429);
    assert_eq!(refused.headers()["retry-after"], "60");
    simulator.world().advance(Duration::from_secs(60));
    assert_eq!(client.status("").await, 200);
    assert_eq!(simulator.world().quota_violations(TENANT), 1);
}

#[tokio::test]
async fn tokens_end_and_secrets_are_compared() {
    let simulator = start(Encoding::Identity, spec(1)).await;
    let client = Client::new(&simulator).await;
    let wrong = client.ask_token("v2.0/token", "guess", "scope").await;
    assert_eq!(wrong.status().as_u16(), 401);
    let body = json(wrong).await;
    assert_eq!(body["error_codes"], serde_json::json!([7_000_215]));
    let v1 = json(client.ask_token("token", SECRET, "resource").await).await;
    assert_eq!(v1["expires_in"], "3599");
    let v1_field = json(client.ask_token("v2.0/token", SECRET, "resource").await).await;
    assert_eq!(v1_field["error_codes"], serde_json::json!([901_002]));
    assert_eq!(client.status("").await, 200);
    simulator.world().advance(Duration::from_secs(3599));
    assert_eq!(client.status("").await, 401);
}

#[tokio::test]
async fn scripted_replies_come_once_and_in_order() {
    let simulator = start(Encoding::Identity, spec(3)).await;
    let client = Client::new(&simulator).await;
    let world = simulator.world();
    let drip = ScriptedReply::Drip { bytes: 9_000, every: Duration::from_millis(1) };
    let script = vec![
        ScriptedReply::throttled(7),
        ScriptedReply::CutBody { after_bytes: 100 },
        drip,
        ScriptedReply::Body("<html>".to_owned()),
        ScriptedReply::ExpireToken,
    ];
    world.script(TENANT, Endpoint::Incidents, script);
    assert_eq!(client.get("").await.unwrap().headers()["retry-after"], "7");
    let cut = client.get("").await.unwrap();
    assert!(cut.bytes().await.is_err());
    assert_eq!(client.page("").await.len(), 3);
    assert_eq!(client.get("").await.unwrap().text().await.unwrap(), "<html>");
    assert_eq!(client.status("").await, 401);
    assert_eq!(client.status("").await, 401, "the token is worth nothing any more");
    assert_eq!(Client::new(&simulator).await.status("").await, 200);
}

#[tokio::test]
async fn churn_changes_the_list_until_stopped() {
    let simulator = start(Encoding::Identity, spec(20)).await;
    let client = Client::new(&simulator).await;
    let world = simulator.world();
    world.churn(TENANT, 3);
    let before = world.truth(TENANT);
    assert_eq!(client.page("").await.len(), 20);
    let after = world.truth(TENANT);
    assert_ne!(before, after);
    world.churn_stop(TENANT);
    client.page("").await;
    assert_eq!(after, world.truth(TENANT));
}

#[tokio::test]
async fn stop_ends_hanging_requests_and_idle_connections() {
    let hang = Behaviour { hang: true, ..Behaviour::default() };
    let simulator = start(Encoding::Identity, TenantSpec { behaviour: hang, ..spec(1) }).await;
    let client = Client::new(&simulator).await;
    let world = simulator.world().clone();
    let request = async {
        client.get("").await.ok();
        client.get("").await
    };
    let stop = async {
        while world.calls(TENANT).len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        simulator.stop().await;
    };
    let (second, ()) = tokio::join!(request, stop);
    assert!(second.is_err(), "nothing listens any more");
}

#[tokio::test]
async fn invalid_assertions_get_their_entra_code() {
    use incident_sync::entra::certificate::{Algorithm, Certificate};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let simulator = start(Encoding::Identity, spec(1)).await;
    let world = simulator.world();
    let client_id = Options::default().client_id;
    let pem = include_bytes!("../../tests/data/credentials/first.crt.pem");
    let key = include_bytes!("../../tests/data/credentials/first.key.pem");
    let endpoint = "https://login.example/t/oauth2/v2.0/token";
    let now = world.now().timestamp();
    for algorithm in [Algorithm::Ps256, Algorithm::Rs256] {
        world.remove_certificates();
        let certificate = Certificate::from_pem(pem, key, algorithm).unwrap();
        let sign = |client: &str, endpoint: &str, now| {
            certificate.assertion(client, endpoint, now).unwrap()
        };
        let judge = |assertion: &str| {
            world.check_assertion(assertion, &client_id, endpoint).map_err(|(code, _)| code)
        };
        let good = sign(&client_id, endpoint, now);
        assert_eq!(judge(&good), Err(700_027), "the certificate was not uploaded");
        world.register_certificate(&CertificateDer::from_pem_slice(pem).unwrap());
        assert_eq!(judge(&good), Ok(()));
        assert_eq!(judge(&good), Err(50_027), "it was used before");
        assert_eq!(judge(&sign(&client_id, "https://login.example/other", now)), Err(700_023));
        assert_eq!(judge(&sign(&client_id, endpoint, now - 3_600)), Err(700_024));
        assert_eq!(judge(&sign(&client_id, endpoint, now + 3_600)), Err(700_024));
        assert_eq!(judge(&sign("another-app", endpoint, now)), Err(700_021));
        let theirs = sign("another-app", endpoint, now);
        let ours = sign(&client_id, endpoint, now);
        let claims = ours.split('.').nth(1).unwrap();
        let forged: Vec<&str> = theirs
            .split('.')
            .enumerate()
            .map(|(at, part)| if at == 1 { claims } else { part })
            .collect();
        assert_eq!(
            judge(&forged.join(".")),
            Err(700_027),
            "claims of one and signature of another"
        );
        assert_eq!(judge("a.b.c"), Err(50_027));
    }
}

#[tokio::test]
async fn tokens_need_consent_and_redirect_reports_it() {
    let behaviour =
        Behaviour { consent_missing: true, admin: Admin::Declines, ..Behaviour::default() };
    let simulator = start(Encoding::Identity, TenantSpec { behaviour, ..spec(0) }).await;
    let http = incident_sync::http_client::client();
    let client = Client { http: http.clone(), url: simulator.url(), token: String::new() };
    let id = Options::default().client_id;
    let any = "organizations";
    let ask = async |directory: &str, form: &str, back: &str, scope: &str| {
        let url = simulator.url().join(&format!("{directory}/{form}")).unwrap();
        let parameters = [
            ("client_id", id.as_str()),
            ("redirect_uri", back),
            ("scope", scope),
            ("state", "a&b"),
        ];
        let answer = http.get(url).query(&parameters).send().await.unwrap();
        let location =
            answer.headers().get("location").map(|location| location.to_str().unwrap().to_owned());
        (answer.status().as_u16(), location.unwrap_or_default())
    };
    let back = "http://localhost:4711/consent";
    let (status, location) = ask(any, "v2.0/adminconsent", back, "x/.default").await;
    assert!(
        status == 302
            && location.starts_with("http://localhost:4711/consent?")
            && location.contains("AADSTS65004")
    );
    assert_eq!(client.ask_token("token", SECRET, "resource").await.status(), 400, "he declined");

    simulator.world().set_behaviour(TENANT, Behaviour { admin: Admin::Accepts, ..behaviour });
    for (directory, form, back, scope) in [
        ("common", "v2.0/adminconsent", back, "x/.default"),
        (any, "v2.0/adminconsent", back, "Incident.Read.All"),
        (any, "adminconsent", back, ""),
        ("common", "adminconsent", "http://localhost:4711/elsewhere", ""),
        ("common", "adminconsent", "https://portal.azure.com.evil.example", ""),
    ] {
        assert_eq!(
            ask(directory, form, back, scope).await.0,
            400,
            "{directory} {form} {back} {scope}"
        );
    }
    let (_, location) = ask("common", "adminconsent", "https://portal.azure.com", "").await;
    assert!(
        location.contains("admin_consent=True&state=a%26b")
            && location.contains(&TENANT.to_string()),
        "{location}"
    );
    assert_eq!(client.ask_token("token", SECRET, "resource").await.status(), 200);
}
