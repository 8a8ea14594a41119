//! What `config check`, `check`, `status` and the log say of a refusal by Entra, with the real binary.

use incident_sync::tenant::{Cloud, Source};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use simulator::{Endpoint, ScriptedReply};

use crate::support::field_case;
use crate::support::installation::{Installation, Settings, events, found, id, spec, write_secret};

/// Of a policy in the claims of case 8.
const POLICY: &str = "dddddddd-0000-4000-8000-00000000000d";

/// Adds lines to `[api]`.
fn set_api(site: &Installation, lines: &str) {
    let text = std::fs::read_to_string(site.config()).unwrap();
    assert!(text.contains("[api]\n"), "{text}");
    std::fs::write(site.config(), text.replace("[api]\n", &format!("[api]\n{lines}\n"))).unwrap();
}

fn scope(cloud: Cloud) -> String {
    format!("{}/.default", cloud.base_url(Source::Defender))
}

fn token_requests(site: &Installation) -> usize {
    site.world().calls(id(1)).iter().filter(|call| call.endpoint == Endpoint::Token).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_check_agree_on_entra_refusals() {
    let claims = field_case::answers("08", "answers_for_B").remove(0);
    let cases = [
        (ScriptedReply::entra(400, "interaction_required", 5_000_225), "directory_blocked"),
        (ScriptedReply::entra(400, "unauthorized_client", 501_051), "assignment_required"),
        (claims, "conditional_access"),
        (ScriptedReply::entra(400, "consent_required", 4_242_424), "unknown_entra_error"),
        (ScriptedReply::entra(400, "invalid_scope", 1_002_012), "tenant_config"),
        (ScriptedReply::entra(400, "invalid_request", 500_014), "not_licensed"),
    ];
    let site = Installation::with((1..=7).map(|number| spec(number, 2)).collect()).await;
    for (number, (answer, _)) in (1..).zip(&cases) {
        site.world().script(id(number), Endpoint::Token, vec![answer.clone(); 2]);
    }
    let synced = site.run(&["sync", "--json", "-vv"]);
    let status = site.run(&["status", "--json"]);
    let checked = site.run(&["check", "--json"]);
    let tokens = checked.json();
    let tokens = found(&tokens, "token");
    let standing = |number: usize| {
        let tenants = status.tenants();
        let named = format!("tenant-{number}");
        tenants.as_array().unwrap().iter().find(|row| row["name"] == named).unwrap().clone()
    };
    for (number, (_, class)) in (1..).zip(&cases) {
        let status = standing(number);
        assert_eq!(status["error_class"], *class, "{status:#}");
        let token = tokens.iter().find(|row| row["about"] == status["name"]).unwrap();
        assert_eq!(token["who_must_act"], status["must_act"]["owner"], "{token:#} {status:#}");
        let what = status["must_act"]["what"].as_str().unwrap();
        let advice = token["advice"].as_str().unwrap();
        assert!(what.contains(advice), "{what} is not {advice}");
    }
    assert_eq!(standing(7)["state"], "ok", "the other tenant is read");
    for text in [&synced.stdout, &synced.stderr, &status.stdout, &checked.stdout] {
        assert!(!text.contains(POLICY) && !text.contains("capolids"), "{text}");
    }
    let (embedded, pool) = site.open_database().await;
    let rows: String = sqlx::query_scalar(
        "SELECT concat((SELECT string_agg(s::text, ' ') FROM defender.sync_state s), \
         (SELECT string_agg(r::text, ' ') FROM defender.sync_runs r))",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(rows.contains("AADSTS53003") && !rows.contains(POLICY), "{rows}");
    pool.close().await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn misspelled_scope_is_refused_before_any_request() {
    let site = Installation::with(vec![spec(1, 1)]).await;
    let good = std::fs::read_to_string(site.config()).unwrap();
    let scopes = field_case::input("06")["setup"]["api.scope"].clone();
    let more = json!(["https://a/.default https://b/.default", "/.default", ""]);
    let refused = scopes.as_array().unwrap().iter().chain(more.as_array().unwrap());
    for scope in refused.map(|scope| scope.as_str().unwrap()) {
        std::fs::write(site.config(), &good).unwrap();
        set_api(&site, &format!("scope = \"{scope}\""));
        for command in [&["config", "check"][..], &["sync"]] {
            let done = site.run(command);
            assert_eq!(done.code(), Some(2), "{scope}: {}", done.stderr);
            let said = format!("{}{}", done.stdout, done.stderr);
            assert!(said.contains("api.scope") && said.contains("/.default"), "{scope}: {said}");
        }
    }
    assert_eq!(token_requests(&site), 0);
    for scope in
        [scope(Cloud::Commercial), "8ee8fdad-f234-4243-8f3b-15c294843740/.default".to_owned()]
    {
        std::fs::write(site.config(), &good).unwrap();
        set_api(&site, &format!("scope = \"{scope}\""));
        site.run(&["config", "check"]).success();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gcc_works_by_default_and_check_finds_the_scope() {
    let site = Installation::with(vec![spec(1, 3)]).await;
    site.world().set_resources(&[Cloud::Commercial.base_url(Source::Defender)]);
    let good = std::fs::read_to_string(site.config()).unwrap();
    set_api(&site, "cloud = \"gcc\"");
    assert_eq!(site.run(&["sync", "--json"]).json()["ok"], true);

    std::fs::write(site.config(), good).unwrap();
    set_api(&site, &format!("cloud = \"gcc\"\nscope = \"{}\"", scope(Cloud::Gcc)));
    site.run(&["sync"]);
    let status = site.run(&["status", "--json"]).tenants();
    let must_act = &status[0]["must_act"];
    assert_eq!(must_act["owner"], "operator", "{status:#}");
    let what = must_act["what"].as_str().unwrap();
    let other = format!("Set scope = \"{}\"", scope(Cloud::Commercial));
    assert!(what.find(&other).is_some_and(|at| Some(at) < what.find("portal")), "{what}");
    let report = site.run(&["check", "--json"]).json();
    let token = found(&report, "token")[0];
    assert_eq!((&token["result"], &token["who_must_act"]), (&json!("failure"), &json!("operator")));
    let advice = token["advice"].as_str().unwrap();
    assert!(advice.contains("does not work") && advice.contains(&other), "{advice}");

    site.world().set_resources(&[]);
    let report = site.run(&["check", "--json"]).json();
    let advice = found(&report, "token")[0]["advice"].as_str().unwrap();
    assert!(advice.contains("was refused as well"), "{advice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_certificate_is_named_while_next_works() {
    let data = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::read(folder.join("tests/data/credentials").join(name)).unwrap()
    };
    let site = Installation::with((1..=5).map(|number| spec(number, 1)).collect()).await;
    let lines = |name| format!("client_certificate_file = \"secret-{name}.pem\"\n");
    let app = format!("{}[app.next]\n{}", lines("first"), lines("second"));
    site.configure(&Settings { app, tenants: (1..=5).collect(), ..site.settings() });
    for name in ["first", "second"] {
        let [certificate, key] = ["crt", "key"].map(|part| data(&format!("{name}.{part}.pem")));
        let der = CertificateDer::from_pem_slice(&certificate).unwrap();
        site.world().register_certificate(&der);
        write_secret(&site.path(&format!("secret-{name}.pem")), &[certificate, key].concat());
    }
    let first = CertificateDer::from_pem_slice(&data("first.crt.pem")).unwrap();
    for (answer, word) in field_case::input("05")["answers_for_X"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["revoked", "outside its validity"])
    {
        let code = answer["body"]["error_codes"][0].as_u64().unwrap();
        site.world().refuse_certificate(&first, code.try_into().unwrap());
        let done = site.run(&["sync", "--json", "--log-format", "json"]);
        assert_eq!(done.json()["ok"], true, "{}", done.stdout);
        let is_of_first =
            |event: &Value| event["credential"] == "first" && event["level"] == "ERROR";
        let alarms: Vec<Value> = events(&done.stderr).into_iter().filter(is_of_first).collect();
        assert_eq!(alarms.len(), 1, "one alarm for all tenants: {}", done.stderr);
        assert!(alarms[0]["advice"].as_str().unwrap().contains(word), "{}", alarms[0]);
        let report = site.run(&["check", "--json"]).json();
        let token = found(&report, "token")[0];
        assert_eq!(
            (&token["result"], &token["who_must_act"]),
            (&json!("warning"), &json!("operator"))
        );
        let text = format!("{} {}", token["advice"], token["error"]);
        assert!(text.contains(word) && text.contains(&code.to_string()), "{text}");
    }
}
