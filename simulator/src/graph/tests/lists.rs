//! Lists, their options and their faults.

use super::*;

#[tokio::test]
async fn top_over_limit_gets_documented_error() {
    let (_simulator, client) = with_graph(1, GraphBehaviour::default()).await;
    let sample = include_str!("../../../../tests/data/graph_error_top_limit_exceeded.json");
    let mut sample: Value = serde_json::from_str(sample).unwrap();
    sample["error"]["innerError"]["client-request-id"] =
        json!("65fe78a8-cade-409c-9e18-61374c132118");
    let response = client.graph(&format!("{INCIDENTS}?$top=100")).await;
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(body_of(response).await, sample);
    assert_eq!(client.graph_status(&format!("{INCIDENTS}?$top=50")).await, 200);
    assert_eq!(client.graph_status(&format!("{ALERTS}?$top=1000")).await, 200);
    for refused in ["$top=1001", "$expand=alerts", "$search=x", "$filter=incidentId eq '1'"] {
        assert_eq!(client.graph_status(&format!("{ALERTS}?{refused}")).await, 400, "{refused}");
    }
}

#[tokio::test]
async fn full_page_links_to_next_unless_disabled() {
    let (simulator, client) = with_graph(20, GraphBehaviour::default()).await;
    for next_link in [NextLink::Skip, NextLink::SkipToken] {
        let graph = GraphBehaviour { next_link, ..GraphBehaviour::default() };
        simulator.world().set_graph(TENANT, graph);
        let mut url =
            format!("{INCIDENTS}?%24top=10&$orderby=lastUpdateDateTime+asc&$expand=alerts");
        let (mut seen, mut lengths) = (Vec::new(), Vec::new());
        loop {
            let page = client.list(&url).await;
            lengths.push(list(&page, "value").len());
            seen.extend(list(&page, "value").to_vec());
            let Some(next) = page["@odata.nextLink"].as_str() else { break };
            assert!(next.contains("orderby") && next.contains("expand"), "{next}");
            url = next.to_owned();
        }
        assert_eq!(lengths, [10, 10, 0], "a full page does not know that it is the last");
        let times: Vec<_> =
            seen.iter().map(|row| row["lastUpdateDateTime"].as_str().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
    }
    let absent = GraphBehaviour { next_link: NextLink::Absent, ..GraphBehaviour::default() };
    simulator.world().set_graph(TENANT, absent);
    assert_eq!(client.list(&format!("{INCIDENTS}?$top=10")).await["@odata.nextLink"], Value::Null);
}

#[tokio::test]
async fn list_follows_filter_count_and_select() {
    let (simulator, client) = with_graph(30, GraphBehaviour::default()).await;
    simulator.world().advance(Duration::from_secs(60));
    assert!(simulator.world().resolve(TENANT, 7));
    let window =
        "lastUpdateDateTime ge 2023-11-14T22:14:00Z and lastUpdateDateTime lt 2023-11-15T00:00:00Z";
    assert_eq!(ids(&client.rows(&format!("{INCIDENTS}?$filter={window}")).await), [7]);
    let open = "(status eq 'active' or status eq 'inProgress')";
    let page = client.list(&format!("{INCIDENTS}?$filter={open}&$count=true&$top=1")).await;
    let truth = simulator.world().truth(TENANT);
    let expected = truth.iter().filter(|incident| incident["status"] != "Resolved").count();
    assert_eq!(page["@odata.count"], expected);
    let high = client.rows(&format!("{INCIDENTS}?$filter=severity eq 'high'")).await;
    assert!(!high.is_empty() && high.iter().all(|row| row["severity"] == "high"));
    let selected = client.list(&format!("{INCIDENTS}?$select=id,lastUpdateDateTime&$top=2")).await;
    let expected = ["id", "lastUpdateDateTime"].map(str::to_owned);
    assert_eq!(keys(&selected["value"][0]), BTreeSet::from(expected));
    let newest = client.rows(INCIDENTS).await;
    assert_eq!(ids(&newest)[0], 7, "newest first without an order");
    assert_eq!(newest[0]["alerts"], Value::Null, "no alerts without expansion");
}

#[tokio::test]
async fn single_incident_and_alert_match_the_list() {
    let (simulator, client) = with_graph(2, GraphBehaviour::default()).await;
    let alone = client.list(&format!("{INCIDENTS}/2")).await;
    assert_eq!((alone["id"].as_str(), &alone["alerts"]), (Some("2"), &Value::Null));
    assert!(alone["@odata.context"].as_str().unwrap().ends_with("#security/incidents/$entity"));
    let expanded = client.list(&format!("{INCIDENTS}/2?$expand=alerts")).await;
    let listed = client.list(&format!("{INCIDENTS}/2/alerts?$top=2")).await;
    assert_eq!(list(&listed, "value"), &list(&expanded, "alerts")[..2]);
    let rest = client.list(listed["@odata.nextLink"].as_str().unwrap()).await;
    assert_eq!(list(&rest, "value"), &list(&expanded, "alerts")[2..]);
    let id = expanded["alerts"][1]["id"].as_str().unwrap();
    let mut alert = client.list(&format!("{ALERTS}/{id}")).await;
    alert.as_object_mut().unwrap().remove("@odata.context");
    assert_eq!(alert, expanded["alerts"][1]);
    for missing in ["incidents/3", "incidents/x", "incidents/3/alerts", "alerts_v2/da1"] {
        assert_eq!(
            client.graph_status(&format!("v1.0/security/{missing}")).await,
            404,
            "{missing}"
        );
    }
    let calls = simulator.world().calls(TENANT);
    let of = |endpoint| calls.iter().filter(|call| call.endpoint == endpoint).count();
    assert_eq!((of(Endpoint::GraphIncidents), of(Endpoint::GraphAlerts)), (7, 2));
    assert_eq!(calls[2].query, "/v1.0/security/incidents/2?$expand=alerts");
    assert_eq!(calls[2].endpoint.source(), Some(Source::Graph));
}

#[tokio::test]
async fn list_ends_at_skip_ceiling_as_configured() {
    let (simulator, client) = with_graph(30, GraphBehaviour::default()).await;
    let lengths = async |answer| {
        let skip_ceiling = Some(SkipCeiling { rows: 15, answer });
        let graph = GraphBehaviour { skip_ceiling, ..GraphBehaviour::default() };
        simulator.world().set_graph(TENANT, graph);
        let mut lengths = Vec::new();
        for skip in [0, 10, 20] {
            let response = client.graph(&format!("{INCIDENTS}?$top=10&$skip={skip}")).await;
            let status = response.status().as_u16();
            let page = body_of(response).await;
            lengths.push((status, list(&page, "value").len(), page["@odata.nextLink"].is_string()));
        }
        lengths
    };
    let full = (200, 10, true);
    assert_eq!(lengths(CeilingAnswer::BadRequest).await, [full, full, (400, 0, false)]);
    assert_eq!(lengths(CeilingAnswer::EmptyPage).await, [full, full, (200, 0, false)]);
    assert_eq!(lengths(CeilingAnswer::ShortPage).await, [full, (200, 5, false), (200, 0, false)]);
}

#[tokio::test]
async fn ignored_orderby_keeps_tenant_order() {
    let graph = GraphBehaviour { ignores_order: true, ..GraphBehaviour::default() };
    let spec = TenantSpec { graph, order: Order::ByIdDescending, ..spec(20) };
    let simulator = start(Encoding::Identity, spec).await;
    let client = Client::new(&simulator).await;
    let ordered = format!("{INCIDENTS}?$orderby=lastUpdateDateTime asc");
    assert_eq!(ids(&client.rows(&ordered).await), (1..=20).rev().collect::<Vec<_>>());
    simulator.world().set_graph(TENANT, GraphBehaviour::default());
    let rows = client.rows(&ordered).await;
    assert!(rows.is_sorted_by_key(|row| row["lastUpdateDateTime"].as_str().unwrap()));
}

#[tokio::test]
async fn partial_list_lacks_rows_and_has_warning() {
    let graph = GraphBehaviour { partial: true, ..GraphBehaviour::default() };
    let (_simulator, client) = with_graph(10, graph).await;
    let response = client.graph(INCIDENTS).await;
    assert_eq!(response.status().as_u16(), 206);
    assert!(response.headers()["warning"].to_str().unwrap().starts_with("199 - \""));
    assert_eq!(list(&body_of(response).await, "value").len(), 5);
}

#[tokio::test]
async fn poisoned_alerts_fail_only_responses_with_them() {
    let (simulator, client) = with_graph(10, GraphBehaviour::default()).await;
    let status = async |path: &str| client.graph_status(&format!("v1.0/security/{path}")).await;
    let paths =
        ["incidents", "incidents/4", "alerts_v2", "incidents?$expand=alerts", "incidents/4/alerts"];
    let statuses = async || {
        let mut all = Vec::new();
        for path in paths {
            all.push(status(path).await);
        }
        all
    };
    simulator.world().poison_expansion(TENANT, 4);
    assert_eq!(statuses().await, [200, 200, 200, 500, 500]);
    assert_eq!(status("incidents/4?$expand=alerts").await, 500);
    assert_eq!(status("incidents/5?$expand=alerts").await, 200);
    assert_eq!(client.status("").await, 200, "Defender is not concerned");
    simulator.world().poison_alerts(TENANT, 4);
    assert_eq!(statuses().await, [200, 200, 500, 500, 500]);
    simulator.world().poison(TENANT, 4);
    assert_eq!(statuses().await, [500, 500, 200, 500, 500]);
    simulator.world().heal(TENANT);
    assert_eq!(statuses().await, [200; 5]);
}

#[tokio::test]
async fn alert_list_has_alert_newer_than_its_incident() {
    let (simulator, client) = with_graph(30, GraphBehaviour::default()).await;
    let all = "v1.0/security/alerts_v2?$top=1000&$orderby=lastUpdateDateTime asc&$count=true";
    let page = client.list(all).await;
    assert_eq!((list(&page, "value").len(), &page["@odata.count"]), (90, &json!(90)));
    simulator.world().advance(Duration::from_secs(60));
    assert!(simulator.world().touch_alert_only(TENANT, 5));
    let since = "lastUpdateDateTime ge 2023-11-14T22:14:00Z";
    assert_eq!(client.rows(&format!("{INCIDENTS}?$filter={since}")).await, [json!(null); 0]);
    let changed = client.rows(&format!("{ALERTS}?$filter={since}")).await;
    assert_eq!((changed.len(), &changed[0]["incidentId"]), (1, &json!("5")));
    let (merged, rows) = (simulator.world().merge(TENANT, 5, 6), client.rows(all).await);
    assert!(merged && rows.iter().all(|alert| alert["incidentId"] != "5"));
    assert_eq!(rows.len(), 90);
    assert!(rows.is_sorted_by_key(|row| row["lastUpdateDateTime"].as_str().unwrap().to_owned()));
}

#[tokio::test]
async fn graph_list_changes_during_churn() {
    let (simulator, client) = with_graph(20, GraphBehaviour::default()).await;
    simulator.world().prepare_graph(TENANT);
    simulator.world().churn(TENANT, 3);
    let before = simulator.world().graph_truth(TENANT);
    assert_eq!(client.rows(&format!("{INCIDENTS}?$expand=alerts")).await.len(), 20);
    let after = simulator.world().graph_truth(TENANT);
    assert_ne!(before, after, "the kept renderings follow");
    assert!(client.rows(&format!("{ALERTS}?$top=1000")).await.len() >= 60);
}
