//! Permissions, quotas and scripted replies.

use super::*;

#[tokio::test]
async fn each_api_requires_its_own_role() {
    let (simulator, client) = with_graph(1, GraphBehaviour::default()).await;
    simulator.world().revoke(TENANT, Source::Graph);
    assert_eq!(client.graph_status(INCIDENTS).await, 200, "the token is older");
    let defender_only = Client::new(&simulator).await;
    assert_eq!(defender_only.status("").await, 200);
    let refused = defender_only.graph(INCIDENTS).await;
    assert_eq!(refused.status().as_u16(), 403);
    assert_eq!(refused.headers()["request-id"], "65fe78a8-cade-409c-9e18-61374c132118");
    let body = body_of(refused).await;
    let text = "Missing application roles. API required roles: SecurityIncident.Read.All,SecurityIncident.ReadWrite.All, application roles: Incident.Read.All.";
    assert_eq!(
        (&body["error"]["code"], &body["error"]["message"]),
        (&json!("Forbidden"), &json!(text))
    );
    let sample = include_str!("../../../../tests/data/graph_docs_error_403_missing_roles.json");
    let sample: Value = serde_json::from_str(sample).unwrap();
    for (ours, theirs) in [
        (&body["error"], &sample["error"]),
        (&body["error"]["innerError"], &sample["error"]["innerError"]),
    ] {
        assert_eq!(keys(ours), keys(theirs));
    }
    simulator.world().revoke(TENANT, Source::Defender);
    simulator.world().consent(TENANT, Source::Graph);
    let graph_only = Client::new(&simulator).await;
    assert_eq!((graph_only.status("").await, graph_only.graph_status(INCIDENTS).await), (403, 200));
    simulator.world().advance(Duration::from_secs(3599));
    let url = client.url.join(INCIDENTS).unwrap();
    let request = client.http.get(url).bearer_auth(&graph_only.token);
    let expired = request.header("client-request-id", "mine").send().await.unwrap();
    assert_eq!(
        (expired.status().as_u16(), &expired.headers()["client-request-id"]),
        (401, &"mine".parse().unwrap())
    );
    let error = body_of(expired).await["error"].take();
    assert_eq!(
        (&error["code"], &error["innerError"]["client-request-id"]),
        (&json!("InvalidAuthenticationToken"), &json!("mine"))
    );
}

#[tokio::test]
async fn token_for_one_api_is_rejected_by_the_other() {
    let (simulator, client) = with_graph(1, GraphBehaviour::default()).await;
    for (host, statuses) in
        [("graph.microsoft.us", (403, 200)), ("api.security.microsoft.com", (200, 403))]
    {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &Options::default().client_id),
            ("client_secret", SECRET),
            ("scope", &format!("https://{host}/.default")),
        ];
        let url = client.url.join(&format!("{TENANT}/oauth2/v2.0/token")).unwrap();
        let answer = body_of(client.http.post(url).form(&form).send().await.unwrap()).await;
        let token = answer["access_token"].as_str().unwrap().to_owned();
        let client = Client { http: client.http.clone(), url: simulator.url(), token };
        assert_eq!((client.status("").await, client.graph_status(INCIDENTS).await), statuses);
    }
}

#[tokio::test]
async fn consent_grants_only_registered_permissions() {
    let behaviour = Behaviour { consent_missing: true, ..Behaviour::default() };
    let simulator = start(Encoding::Identity, TenantSpec { behaviour, ..spec(1) }).await;
    let http = incident_sync::http_client::client();
    rustls::crypto::ring::default_provider().install_default().ok();
    let accept = async || {
        let query = format!(
            "organizations/v2.0/adminconsent?client_id={}&redirect_uri=https://portal.azure.com&scope=x/.default",
            Options::default().client_id
        );
        http.get(simulator.url().join(&query).unwrap()).send().await.unwrap().status().as_u16()
    };
    let statuses = async || {
        let client = Client::new(&simulator).await;
        (client.status("").await, client.graph_status(INCIDENTS).await)
    };
    simulator.world().set_registered(&[Source::Defender]);
    assert_eq!(accept().await, 302);
    assert_eq!(statuses().await, (200, 403), "an old registration");
    assert_eq!(accept().await, 400, "every admin has consented");
    simulator.world().set_registered(&[Source::Defender, Source::Graph]);
    assert_eq!(accept().await, 302);
    assert_eq!(statuses().await, (200, 200));
}

#[tokio::test]
async fn graph_and_defender_count_calls_separately() {
    let spec = TenantSpec { calls_per_minute: 1, graph_calls_per_minute: 2, ..spec(1) };
    let simulator = start(Encoding::Identity, spec).await;
    let client = Client::new(&simulator).await;
    assert_eq!((client.status("").await, client.status("").await), (200, 429));
    assert_eq!(client.graph_status(INCIDENTS).await, 200);
    assert_eq!(client.graph_status(ALERTS).await, 200);
    let refused = client.graph(INCIDENTS).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (429, &"60".parse().unwrap())
    );
    assert!(body_of(refused).await["error"]["innerError"]["request-id"].is_string());
    simulator.world().advance(Duration::from_secs(60));
    assert_eq!(client.graph_status(INCIDENTS).await, 200);
}

#[tokio::test]
async fn retired_api_fails_while_the_other_works() {
    let (simulator, client) = with_graph(1, GraphBehaviour::default()).await;
    let statuses = async || (client.status("").await, client.graph_status(INCIDENTS).await);
    simulator.world().retire(Source::Defender, Some(410));
    assert_eq!(statuses().await, (410, 200));
    simulator.world().retire(Source::Defender, None);
    simulator.world().retire(Source::Graph, Some(404));
    assert_eq!(statuses().await, (200, 404));
}

#[tokio::test]
async fn incident_of_one_api_is_missing_in_the_other() {
    let (simulator, client) = with_graph(3, GraphBehaviour::default()).await;
    simulator.world().show_only(TENANT, 1, Some(Source::Defender));
    simulator.world().show_only(TENANT, 2, Some(Source::Graph));
    let mut shown = ids(&client.rows(INCIDENTS).await);
    shown.sort_unstable();
    assert_eq!(shown, [2, 3]);
    assert_eq!(client.rows(ALERTS).await.len(), 6);
    assert_eq!((client.status("/1").await, client.status("/2").await), (200, 404));
    assert_eq!(client.graph_status(&format!("{INCIDENTS}/1")).await, 404);
    simulator.world().show_only(TENANT, 1, None);
    assert_eq!(client.graph_status(&format!("{INCIDENTS}/1")).await, 200);
}

#[tokio::test]
async fn graph_follows_scripts_and_hang() {
    let (simulator, client) = with_graph(1, GraphBehaviour::default()).await;
    let world = simulator.world();
    world.script(TENANT, Endpoint::GraphAlerts, vec![ScriptedReply::graph(503, "Busy")]);
    world.script(TENANT, Endpoint::GraphIncidents, vec![ScriptedReply::ExpireToken]);
    assert_eq!(client.status("").await, 200, "the scripts are Graph's");
    assert_eq!(client.graph_status(ALERTS).await, 503);
    let expired = client.graph(INCIDENTS).await;
    assert_eq!(expired.status().as_u16(), 401);
    assert_eq!(body_of(expired).await["error"]["code"], "InvalidAuthenticationToken");
    assert_eq!(client.status("").await, 401, "all tokens of the tenant");
    let client = Client::new(&simulator).await;
    world.set_behaviour(TENANT, Behaviour { hang: true, ..Behaviour::default() });
    let waited = tokio::time::timeout(Duration::from_millis(200), client.graph(INCIDENTS)).await;
    assert!(waited.is_err());
}
