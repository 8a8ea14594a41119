//! `consent-url --listen`: the test acts as the admin's browser, and as an attacker.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::json;
use simulator::{Admin, Behaviour, Endpoint, ScriptedReply, Source, TenantSpec};
use url::Url;
use uuid::Uuid;

use crate::support::golden::assert_golden;
use crate::support::installation::found;
use crate::support::installation::{Done, Installation, Running, eventually, id, spec};
use crate::support::redact::{messages, redact};

/// A tenant without consent yet.
fn new_customer(number: u128, behaviour: Behaviour) -> TenantSpec {
    TenantSpec { behaviour: Behaviour { consent_missing: true, ..behaviour }, ..spec(number, 25) }
}

/// A service that knows these customers, and a configuration that knows none, with a `tenants_dir`.
async fn site_before(customers: Vec<TenantSpec>) -> Installation {
    let site = Installation::with(customers).await;
    site.configure(&site.settings());
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), format!("tenants_dir = \"tenants.d\"\n{text}")).unwrap();
    std::fs::create_dir(site.path("tenants.d")).unwrap();
    std::fs::set_permissions(site.path("tenants.d"), PermissionsExt::from_mode(0o750)).unwrap();
    site
}

/// The names in `tenants_dir`.
fn files(site: &Installation) -> Vec<String> {
    let names = std::fs::read_dir(site.path("tenants.d")).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The command as it waits, and the link that it printed.
async fn listening(site: &Installation, arguments: &[&str]) -> (Running, Url) {
    // Tests of other things let any customer come.
    let any: &[&str] = if arguments.contains(&"--tenant") { &[] } else { &["--any-tenant"] };
    let command =
        site.command(&[&["consent-url", "--listen", "127.0.0.1:0"], any, arguments].concat());
    let listener = Running::start(command, site.folder.path());
    let link = link_of(&listener).await;
    (listener, link)
}

async fn link_of(listener: &Running) -> Url {
    eventually("the link", async || {
        let output = listener.stderr();
        assert!(!output.contains("incident-sync:"), "{output}");
        output.contains("redirect URI. Press").then_some(())?;
        output.lines().find(|line| line.contains("/adminconsent?"))?.parse().ok()
    })
    .await
}

struct Page {
    status: u16,
    text: String,
}

async fn open(url: &str) -> Page {
    let answer = incident_sync::http_client::client().get(url).send().await.unwrap();
    let of = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert!(
        of("content-security-policy").starts_with("default-src 'none'"),
        "the page loads nothing"
    );
    assert_eq!(
        (of("referrer-policy").as_str(), of("cache-control").as_str()),
        ("no-referrer", "no-store")
    );
    let page = Page { status: answer.status().as_u16(), text: answer.text().await.unwrap() };
    assert!(!page.text.contains("src=") && !page.text.contains("href="), "{}", page.text);
    page
}

/// Where Entra sends the admin's browser.
async fn click(link: &Url) -> String {
    let entra = incident_sync::http_client::client().get(link.clone()).send().await.unwrap();
    assert_eq!(entra.status(), 302, "{link}");
    entra.headers()["location"].to_str().unwrap().to_owned()
}

fn parameter(link: &Url, name: &str) -> String {
    link.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap()
}

/// A forged answer by someone who knows the link.
fn forged(link: &Url, parameters: &[(&str, &str)]) -> String {
    let state = parameter(link, "state");
    let all = [&[("state", state.as_str())], parameters].concat();
    Url::parse_with_params(&parameter(link, "redirect_uri"), all).unwrap().to_string()
}

fn consent_parameters(tenant: Uuid) -> [(&'static str, String); 2] {
    [("admin_consent", "True".to_owned()), ("tenant", tenant.to_string())]
}

fn borrowed<'a>(parameters: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    parameters.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// The command ended with status 1 and wrote nothing.
fn refused(done: &Done, site: &Installation, word: &str) {
    assert_eq!((done.code(), done.stdout.as_str()), (Some(1), ""), "{}", done.stderr);
    assert!(
        done.stderr.contains(word) && done.stderr.contains("nothing was written"),
        "{word}: {}",
        done.stderr
    );
    assert_eq!(files(site), [""; 0], "{}", done.stderr);
}

fn token_requests(site: &Installation, number: u128) -> usize {
    site.world().calls(id(number)).iter().filter(|call| call.endpoint == Endpoint::Token).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_adds_a_verified_readable_tenant() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    // The consent reaches the token endpoint a while later.
    let spreading = [(401, "invalid_client", 7_000_229), (400, "unauthorized_client", 700_016)];
    let replies =
        spreading.map(|(status, error, code)| ScriptedReply::entra(status, error, code)).to_vec();
    site.world().script(id(1), Endpoint::Token, replies);
    let (listener, link) = listening(&site, &["--name", "Contoso \"AG\" / Köln"]).await;
    assert_eq!(link.path(), "/organizations/v2.0/adminconsent");
    let back = click(&link).await;
    assert_eq!(
        (token_requests(&site, 1), files(&site).len()),
        (0, 0),
        "nothing is done before the answer"
    );
    let page = open(&back).await;
    assert!(page.status == 200 && page.text.contains("The consent was received"), "{}", page.text);
    let done = listener.ends();
    assert!(done.stderr.contains("No service answers on 127.0.0.1:0"), "{}", done.stderr);
    // The directory is 0750, and the service runs as a user who does not exist yet.
    let is_root = nix::unistd::geteuid().is_root();
    assert_eq!(done.stderr.contains("Run: chmod go+rX"), is_root, "{}", done.stderr);
    let written = site.path("tenants.d/Contoso-AG-Köln.toml");
    assert!(done.success().contains(&written.display().to_string()));
    assert_eq!(token_requests(&site, 1), 3);
    let calls = site.world().calls(id(1));
    let last = calls.last().unwrap();
    assert!(last.endpoint == Endpoint::Incidents && last.query.contains("$top=1"), "{last:?}");

    assert_eq!(std::fs::metadata(&written).unwrap().permissions().mode() & 0o777, 0o640);
    let list = site.run(&["tenant", "list", "--json"]).json();
    assert_eq!(
        (&list[0]["tenant_id"], &list[0]["name"]),
        (&json!(id(1)), &json!("Contoso \"AG\" / Köln"))
    );
    assert_eq!(site.run(&["sync", "--json"]).json()["tenants"][0]["incidents_written"], 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_for_graph_writes_source_of_tenant() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let (listener, link) = listening(&site, &["--name", "contoso", "--source", "graph"]).await;
    assert_eq!(link.path(), "/organizations/v2.0/adminconsent");
    open(&click(&link).await).await;
    listener.ends().success();
    let last = site.world().calls(id(1)).pop().unwrap();
    assert_eq!(last.endpoint, Endpoint::GraphIncidents, "{last:?}");
    let text = std::fs::read_to_string(site.path("tenants.d/contoso.toml")).unwrap();
    assert!(text.contains("source = \"graph\"\n"), "{text}");
    assert_eq!(site.run(&["sync", "--json"]).json()["tenants"][0]["incidents_written"], 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_consent_for_both_sources_is_proven_for_each() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let both = ["--name", "contoso", "--source", "both", "--patience", "0s", "--json"];
    // The registration lacks the permission of Graph.
    site.world().set_registered(&[Source::Defender]);
    let (listener, link) = listening(&site, &both).await;
    open(&click(&link).await).await;
    refused(&listener.ends(), &site, "SecurityIncident.Read.All");

    site.world().set_registered(&[Source::Defender, Source::Graph]);
    site.world().clear_calls(id(1));
    let (listener, link) = listening(&site, &both).await;
    assert_eq!(link.path(), "/common/adminconsent", "one link asks for both permissions");
    open(&click(&link).await).await;
    let done = listener.ends();
    let document = done.json();
    assert_eq!(document["sources"], json!(["defender", "graph"]));
    assert_eq!(document["source"], "defender");
    for endpoint in [Endpoint::Incidents, Endpoint::GraphIncidents] {
        let calls = site.world().calls(id(1));
        let served = |call: &&simulator::Call| call.endpoint == endpoint && call.status == 200;
        assert_eq!(calls.iter().filter(served).count(), 1, "{endpoint:?}");
    }
    let text = std::fs::read_to_string(site.path("tenants.d/contoso.toml")).unwrap();
    assert!(!text.contains("source"), "that of [api] applies: {text}");

    // For a configured tenant the link alone: the other source, or both.
    for (source, scope, sources) in [
        ("graph", true, json!(["graph"])),
        ("defender", true, json!(["defender"])),
        ("both", false, json!(["defender", "graph"])),
    ] {
        let arguments = ["consent-url", "--tenant", "contoso", "--source", source, "--json"];
        let printed = site.run(&arguments).json();
        assert_eq!(printed["sources"], sources);
        let url = printed["url"].as_str().unwrap();
        assert_eq!(url.contains("/v2.0/adminconsent?") && url.contains("scope="), scope, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn onboarding_document_matches_snapshot() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let (listener, link) = listening(&site, &["--name", "contoso", "--json"]).await;
    open(&click(&link).await).await;
    let done = listener.ends();
    done.json();
    let text = format!("exit status {}\n{}", done.code().unwrap(), done.stdout);
    assert_golden("json", "consent_url_listen", &redact(&text, site.folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_tenant_is_not_added_twice() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let (rival, rivals_link) = listening(&site, &["--name", "rival"]).await;
    let (listener, link) = listening(&site, &["--name", "contoso", "--v1"]).await;
    assert_eq!(link.path(), "/common/adminconsent");
    open(&click(&link).await).await;
    listener.ends().success();
    let before = std::fs::read_to_string(site.path("tenants.d/contoso.toml")).unwrap();

    let tenant = id(1).to_string();
    for (arguments, word) in [
        (&["--name", "other", "--tenant", &tenant][..], "already configured as contoso"),
        (&["--name", "contoso"], "another tenant is named contoso"),
    ] {
        let any: &[&str] = if arguments.contains(&"--tenant") { &[] } else { &["--any-tenant"] };
        let done =
            site.run(&[&["consent-url", "--listen", "127.0.0.1:0"], any, arguments].concat());
        assert!(done.code() == Some(2) && done.stderr.contains(word), "{word}: {}", done.stderr);
    }
    let (listener, link) = listening(&site, &["--name", "other"]).await;
    site.world().clear_calls(id(1));
    open(&forged(&link, &borrowed(&consent_parameters(id(1))))).await;
    let done = listener.ends();
    assert!(
        done.code() == Some(2) && done.stderr.contains("already configured as contoso"),
        "{}",
        done.stderr
    );
    assert_eq!(token_requests(&site, 1), 0);
    // The configuration that this one read at its start knows of no tenant.
    open(&forged(&rivals_link, &borrowed(&consent_parameters(id(1))))).await;
    let done = rival.ends();
    assert!(
        done.code() == Some(2) && done.stderr.contains("already configured as contoso"),
        "{}",
        done.stderr
    );
    assert_eq!((done.stdout.as_str(), files(&site).len()), ("", 1));

    // A file that is not ours is not written over either; the lines are not lost.
    let (listener, link) = listening(&site, &["--name", "late"]).await;
    site.world().add_tenant(spec(2, 1));
    let late = site.path("tenants.d/late.toml");
    std::fs::write(&late, format!("id = \"{}\"\nname = \"somebody\"\n", id(3))).unwrap();
    open(&forged(&link, &borrowed(&consent_parameters(id(2))))).await;
    let done = listener.ends();
    assert!(
        done.code() == Some(2) && done.stderr.contains("late.toml already exists"),
        "{}",
        done.stderr
    );
    assert!(done.stdout.contains(&id(2).to_string()), "{}", done.stdout);
    assert!(std::fs::read_to_string(&late).unwrap().contains("somebody"));
    assert_eq!(std::fs::read_to_string(site.path("tenants.d/contoso.toml")).unwrap(), before);
    assert_eq!(files(&site).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn callback_needs_the_state_and_accepts_it_once() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let (mut listener, link) = listening(&site, &["--name", "contoso"]).await;
    let good = forged(&link, &borrowed(&consent_parameters(id(1))));
    let state = parameter(&link, "state");
    for (url, status) in [
        (good.replace(&state, &state.replace(&state[..1], "x")), 400),
        (good.replace(&state, ""), 400),
        (good.replace("state=", "other="), 400),
        (good.replace("/consent?", "/elsewhere?"), 404),
        (forged(&link, &[("tenant", "<script>")]), 400),
        (forged(&link, &[]), 400),
    ] {
        let page = open(&url).await;
        assert!(
            page.status == status && !page.text.contains("<script>"),
            "{url}: {} {}",
            page.status,
            page.text
        );
    }
    let posted = incident_sync::http_client::client().post(&good).send().await.unwrap();
    assert_eq!(posted.status(), 404);
    assert!(listener.is_alive() && files(&site).is_empty() && token_requests(&site, 1) == 0);

    // There is no consent: it requests the token repeatedly.
    assert_eq!(open(&good).await.status, 200);
    assert_eq!(open(&good).await.status, 410, "the state was used");
    refused(&listener.ends_on(Signal::SIGINT), &site, "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_without_own_token_is_not_added() {
    let wrong_tid = Behaviour { wrong_tid: Some(id(2)), ..Behaviour::default() };
    let consented = TenantSpec { behaviour: wrong_tid, ..spec(3, 1) };
    let site =
        site_before(vec![new_customer(1, Behaviour::default()), spec(2, 1), consented]).await;
    for (tenant, word) in [
        (id(1), "A Global, Privileged Role"),
        (id(99), "Entra has no tenant with this id"),
        (id(3), "The token belongs to another tenant"),
    ] {
        let (listener, link) = listening(&site, &["--name", "forged", "--patience", "1s"]).await;
        open(&forged(&link, &borrowed(&consent_parameters(tenant)))).await;
        refused(&listener.ends(), &site, word);
    }
}

const NO_LICENCE: &str = include_str!("../data/field_cases/10.txt");
const GUEST: &str = include_str!("../data/field_cases/11.txt");

/// The redirects of a recorded case, as the browser opens them.
fn recorded_redirects(case: &str, link: &Url) -> Vec<String> {
    let redirect_uri = parameter(link, "redirect_uri");
    let queries = case.lines().filter_map(|line| line.strip_prefix("GET /consent?"));
    queries
        .map(|query| {
            format!("{redirect_uri}?{}", query.replace("STATE", &parameter(link, "state")))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_of_other_directory_is_told_and_waits() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    // The directory that the case names.
    let stray: Uuid = "cccccccc-0000-4000-8000-00000000000c".parse().unwrap();
    site.world().add_tenant(TenantSpec::new(stray, "stray"));
    let asked = id(1).to_string();
    let (mut listener, link) = listening(&site, &["--name", "contoso", "--tenant", &asked]).await;
    let [lower, upper, domain, missing] = &recorded_redirects(GUEST, &link)[..] else {
        panic!("four redirects")
    };
    for redirect in [lower, upper] {
        let page = open(redirect).await;
        assert_eq!(page.status, 409, "{}", page.text);
        for words in ["Wrong directory", "a consent that is not needed", "delete the app"] {
            assert!(page.text.contains(words), "{words}: {}", page.text);
        }
    }
    for redirect in [domain, missing] {
        assert_eq!(open(redirect).await.status, 400);
    }
    let told = listener.stderr();
    assert!(told.contains(&format!("Directory {stray} consented instead of {asked}")), "{told}");
    assert!(told.contains(&format!("Still waiting for {asked}")), "{told}");
    assert!(listener.is_alive() && files(&site).is_empty(), "{told}");
    open(&click(&link).await).await;
    listener.ends().success();
    assert_eq!(files(&site), ["contoso.toml"]);
    assert_eq!(site.world().calls(stray), [], "no token is requested there");
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_without_licence_names_both_cures() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let asked = id(1).to_string();
    let arguments = ["--name", "contoso", "--tenant", &asked, "--patience", "1s"];
    for (at, words) in [
        (0, &["Either remove that permission", "for one API only", "the customer licenses"][..]),
        (1, &["Either remove that permission", "for one API only", "the customer licenses"]),
        (2, &["must open the consent link"]),
    ] {
        let (listener, link) = listening(&site, &arguments).await;
        let scope = format!("{}.default", site.simulator.url());
        assert_eq!(parameter(&link, "scope"), scope, "the link asks for one API");
        let page = open(&recorded_redirects(NO_LICENCE, &link)[at]).await;
        let done = listener.ends();
        refused(&done, &site, "Owner: the customer");
        for word in words {
            assert!(done.stderr.contains(word) && page.text.contains(word), "{}", done.stderr);
        }
    }
    // Entra says that nobody consented although the redirect says so.
    let replies = vec![ScriptedReply::entra(400, "invalid_grant", 65_001); 9];
    site.world().script(id(1), Endpoint::Token, replies);
    let (listener, link) = listening(&site, &arguments).await;
    open(&click(&link).await).await;
    refused(&listener.ends(), &site, &format!("incident-sync check --tenant {asked}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_verification_prints_the_tenant_block() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    site.world().script(id(1), Endpoint::Incidents, vec![ScriptedReply::defender(404, "NotFound")]);
    let asked = id(1).to_string();
    let (listener, link) = listening(&site, &["--name", "contoso", "--tenant", &asked]).await;
    open(&click(&link).await).await;
    let done = listener.ends();
    refused(&done, &site, "remains at Microsoft");
    let block = &done.stderr[done.stderr.find("[[tenants]]").unwrap()..];
    assert!(
        done.stderr.contains(&format!("incident-sync check --tenant {asked}")),
        "{}",
        done.stderr
    );
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), text + block).unwrap();
    let report = site.run(&["check", "--tenant", &asked, "--json"]).json();
    let calls = found(&report, "call");
    assert!(calls.len() == 1 && calls[0]["result"] == "ok", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_problem_is_reported_before_the_link() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let good = std::fs::read_to_string(site.config()).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let base = format!("base_url = \"{}\"", site.simulator.url());
    let secret = "client_secret_file = \"secret\"";
    for (line, instead, words) in [
        (base.as_str(), format!("base_url = \"http://{free}\""), ["does not answer", "refused"]),
        (
            secret,
            format!("{secret}\nclient_secret_expires = \"2020-01-01\""),
            ["expired on", "client secret"],
        ),
    ] {
        assert!(good.contains(line), "{line} is not in {good}");
        std::fs::write(site.config(), good.replace(line, &instead)).unwrap();
        let arguments =
            ["consent-url", "--listen", "127.0.0.1:0", "--name", "contoso", "--any-tenant"];
        let done = site.run(&arguments);
        assert!(done.code() == Some(1) && !done.stderr.contains("adminconsent"), "{}", done.stderr);
        for word in words {
            assert!(done.stderr.contains(word), "{word}: {}", done.stderr);
        }
        // The doctor finds it too, before there is a tenant.
        let report = site.run(&["check", "--json"]).json();
        let failed =
            report["findings"].as_array().unwrap().iter().filter(|row| row["result"] == "failure");
        let failed: Vec<&str> = failed.map(|row| row["check"].as_str().unwrap()).collect();
        assert!(
            failed.contains(&if line == secret { "expiry" } else { "connection" }),
            "{report:#}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_consent_is_reported_with_its_owner() {
    let site = site_before(vec![]).await;
    for (admin, word) in
        [(Admin::Declines, "declined"), (Admin::HasNoRights, "A Global, Privileged Role")]
    {
        site.world().add_tenant(new_customer(1, Behaviour { admin, ..Behaviour::default() }));
        let (listener, link) = listening(&site, &["--name", "contoso"]).await;
        let page = open(&click(&link).await).await;
        assert!(
            page.text.contains("The consent was not given") && page.text.contains("AADSTS"),
            "{}",
            page.text
        );
        refused(&listener.ends(), &site, word);
    }
    let (listener, link) = listening(&site, &["--name", "contoso"]).await;
    let hostile =
        [("error", "<b>"), ("error_description", "\"><script>alert(1)</script>\u{1b}[2J")];
    let page = open(&forged(&link, &hostile)).await;
    assert!(
        page.text.contains("&lt;script&gt;") && !page.text.contains("<script>"),
        "{}",
        page.text
    );
    let done = listener.ends();
    refused(&done, &site, "Owner: you");
    assert!(!done.stderr.contains('\u{1b}'), "the terminal is not written to: {}", done.stderr);

    // The permission is not in the registration.
    site.world().add_tenant(new_customer(1, Behaviour { no_roles: true, ..Behaviour::default() }));
    let (listener, link) = listening(&site, &["--name", "contoso", "--patience", "1s"]).await;
    open(&click(&link).await).await;
    refused(&listener.ends(), &site, "Add the permission to the app registration");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_block_is_printed_without_tenants_dir() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    site.configure(&site.settings());
    let (listener, link) = listening(&site, &["--name", "contoso"]).await;
    open(&click(&link).await).await;
    let block = listener.ends().success();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), text + &block).unwrap();
    assert_eq!(site.run(&["tenant", "list", "--json"]).json()[0]["tenant_id"], json!(id(1)));
    assert_eq!(files(&site), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_refuses_arguments_that_cannot_work() {
    let site = site_before(vec![]).await;
    let mut refusals = String::new();
    for arguments in [
        &["--listen", "127.0.0.1:0"][..],
        &["--name", "x"],
        &["--listen", "0.0.0.0:0", "--name", "x", "--any-tenant"],
        &["--listen", "127.0.0.1:0", "--name", " ", "--any-tenant"],
        &["--listen", "127.0.0.1:0", "--name", "...", "--any-tenant"],
        &["--listen", "127.0.0.1:0", "--name", "x", "--redirect-uri", "x", "--any-tenant"],
        &["--listen", "127.0.0.1:0", "--name", "x"],
        &["--listen", "127.0.0.1:0", "--name", "x", "--any-tenant", "--cloud", "dod"],
    ] {
        let done = site.run(&[&["consent-url"], arguments].concat());
        assert_eq!(done.code(), Some(2), "{arguments:?}: {}", done.stderr);
        assert!(!done.stderr.contains("adminconsent"), "no link: {}", done.stderr);
        refusals += &format!("consent-url {}\n{}\n", arguments.join(" "), done.stderr);
    }
    assert_golden("text", "consent_url_refused", &messages(&refusals, site.folder.path()));
    let waits =
        ["consent-url", "--listen", "127.0.0.1:0", "--name", "x", "--any-tenant", "--wait", "10ms"];
    let done = site.run(&waits);
    assert!(
        done.code() == Some(1) && done.stderr.contains("Timed out waiting for consent"),
        "{}",
        done.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn onboarding_confirms_pickup_by_running_service() {
    let site = site_before(vec![new_customer(1, Behaviour::default())]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(
        site.config(),
        text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"{free}\"")),
    )
    .unwrap();
    let daemon = site.start_daemon();
    daemon.logs("Started").await;
    let (listener, link) =
        listening(&site, &["--name", "contoso", "--tenant", &id(1).to_string()]).await;
    open(&click(&link).await).await;
    let done = listener.ends();
    assert!(
        done.stderr.contains("The running service has picked up the tenant"),
        "{}",
        done.stderr
    );
    daemon.ends_on(Signal::SIGTERM).success();
}

/// The command on a terminal of its own, and what the operator types there.
async fn on_terminal(site: &Installation, arguments: &[&str]) -> (Running, Url, std::fs::File) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let command = site.command(&[&["consent-url", "--listen", "127.0.0.1:0"], arguments].concat());
    let listener = Running::start_on(command, site.folder.path(), terminal.slave.into());
    let link = link_of(&listener).await;
    (listener, link, terminal.master.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn unnamed_directory_needs_typed_confirmation() {
    let site = site_before(vec![new_customer(1, Behaviour::default()), spec(2, 1)]).await;
    for (answered, typed) in [(id(2), id(1).to_string()), (id(2), String::new())] {
        let (listener, link, mut keyboard) = on_terminal(&site, &["--name", "contoso"]).await;
        open(&forged(&link, &borrowed(&consent_parameters(answered)))).await;
        eventually("the question", async || {
            listener.stderr().contains("Type the id to continue").then_some(())
        })
        .await;
        assert!(
            listener.stderr().contains(&format!("from directory {answered}")),
            "{}",
            listener.stderr()
        );
        writeln!(keyboard, "{typed}").unwrap();
        let done = listener.ends();
        refused(&done, &site, "not confirmed");
        assert!(done.stderr.contains("--tenant"), "{}", done.stderr);
    }
    assert_eq!(token_requests(&site, 2), 0, "who was not confirmed is not even tried");
    let (listener, link, mut keyboard) = on_terminal(&site, &["--name", "contoso"]).await;
    open(&click(&link).await).await;
    writeln!(keyboard, "{}", id(1).to_string().to_uppercase()).unwrap();
    listener.ends().success();
    assert_eq!(files(&site), ["contoso.toml"]);
    let (listener, link, _keyboard) = on_terminal(&site, &["--name", "late"]).await;
    open(&forged(&link, &borrowed(&consent_parameters(id(2))))).await;
    eventually("the question", async || {
        listener.stderr().contains("Type the id to continue").then_some(())
    })
    .await;
    let done = listener.ends_on(Signal::SIGINT);
    assert!(done.code() == Some(1) && done.stderr.contains("stopped"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn onboarding_refuses_tenant_of_invalid_file() {
    let site = site_before(vec![spec(1, 1)]).await;
    let file = site.path("tenants.d/broken.toml");
    std::fs::write(
        &file,
        format!("id = \"{}\"\nname = \"first\"\nunknown = 1\n", id(1).to_string().to_uppercase()),
    )
    .unwrap();
    let (listener, link) = listening(&site, &["--name", "second"]).await;
    open(&forged(&link, &borrowed(&consent_parameters(id(1))))).await;
    let done = listener.ends();
    assert!(
        done.code() == Some(2) && done.stderr.contains("broken.toml, which is invalid"),
        "{}",
        done.stderr
    );
    assert_eq!((files(&site), token_requests(&site, 1)), (vec!["broken.toml".to_owned()], 0));
    let again = site.run(&[
        "consent-url",
        "--listen",
        "127.0.0.1:0",
        "--name",
        "x",
        "--tenant",
        &id(1).to_string(),
    ]);
    assert!(again.code() == Some(2) && !again.stderr.contains("adminconsent"), "{}", again.stderr);

    std::fs::remove_file(file).unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    let (before, after) = (text.find("[app]").unwrap(), text.find("[api]").unwrap());
    let disabled = format!("[[tenants]]\nid = \"{}\"\nname = \"asleep\"\nenabled = false\n", id(7));
    std::fs::write(site.config(), format!("{}{}{disabled}", &text[..before], &text[after..]))
        .unwrap();
    let done = site.run(&["consent-url", "--tenant", "asleep"]);
    assert!(
        done.code() == Some(2) && done.stderr.contains("Set client_id in [app]"),
        "{}",
        done.stderr
    );
}

#[test]
fn onboarding_page_names_existing_options() {
    let help_of = |command: &[&str]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_incident-sync"));
        let help = program.args(command).arg("--help").output().unwrap();
        String::from_utf8(help.stdout).unwrap()
    };
    // The page ends with the move of a tenant to another source.
    let help = help_of(&["consent-url"]) + &help_of(&["tenant", "move"]);
    let page = include_str!("../../docs/setup/onboarding.md");
    let words = page.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
    let mut options: Vec<&str> =
        words.filter(|word| word.starts_with("--") && word.len() > 3).collect();
    options.sort_unstable();
    options.dedup();
    for option in &options {
        assert!(
            help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
            "{option}: {help}"
        );
    }
    assert!(options.len() > 7, "{options:?}");
}
