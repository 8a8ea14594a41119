//! Content of Graph's incidents and alerts.

use super::*;

#[tokio::test]
async fn graph_and_defender_serve_the_same_incidents() {
    let (simulator, client) = with_graph(120, GraphBehaviour::default()).await;
    let mut shown = BTreeMap::new();
    for skip in [0, 50, 100] {
        for row in client.rows(&format!("{INCIDENTS}?$expand=alerts&$skip={skip}")).await {
            shown.insert(row["id"].as_str().unwrap().parse::<i64>().unwrap(), row);
        }
    }
    let (mut alerts, mut entities) = (0, 0);
    for defender in simulator.world().truth(TENANT) {
        let graph = &shown[&defender["incidentId"].as_i64().unwrap()];
        let same = [
            ("incidentUri", "incidentWebUrl"),
            ("incidentName", "displayName"),
            ("createdTime", "createdDateTime"),
            ("lastUpdateTime", "lastUpdateDateTime"),
            ("assignedTo", "assignedTo"),
            ("tags", "customTags"),
        ];
        same.iter().for_each(|(old, new)| assert_eq!(defender[old], graph[new], "{new}"));
        let status = match defender["status"].as_str().unwrap() {
            "Active" => "active",
            "InProgress" => "inProgress",
            other => &other.to_lowercase(),
        };
        assert_eq!(graph["status"], status);
        assert_eq!(list(&defender, "comments").len(), list(graph, "comments").len());
        for (old, new) in list(&defender, "alerts").iter().zip(list(graph, "alerts")) {
            assert_eq!((&old["alertId"], &old["title"]), (&new["id"], &new["title"]));
            assert_eq!(old["lastUpdatedTime"], new["lastUpdateDateTime"]);
            assert_eq!(new["incidentId"], graph["id"]);
            assert_eq!(
                list(new, "evidence").len(),
                list(old, "devices").len() + list(old, "entities").len()
            );
            assert_eq!(list(new, "evidence")[0]["mdeDeviceId"], old["devices"][0]["mdatpDeviceId"]);
            for (old, new) in list(old, "entities").iter().zip(&list(new, "evidence")[1..]) {
                assert_eq!(texts(new), texts(old), "{old} {new}");
                entities += 1;
            }
            alerts += 1;
        }
    }
    assert_eq!((shown.len(), alerts, entities), (120, 360, 1440));
}

/// All texts that identify an entity, at any depth; without enums, times and Graph's own keys.
fn texts(entity: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(entity, &mut found);
    found
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    let own = ["entityType", "@odata.type", "verdict", "remediationStatus", "roles"];
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(key, _)| !own.contains(&key.as_str()));
            fields.for_each(|(_, value)| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Null => {}
        other => {
            found.insert(other.to_string());
        }
    }
}

#[tokio::test]
async fn rendered_keys_match_documented_samples() {
    let types = include_str!("../../../../tests/data/graph_docs_evidence_types.json");
    let types: Value = serde_json::from_str(types).unwrap();
    let types: BTreeMap<_, _> =
        list(&types, "evidence").iter().map(|one| (one["@odata.type"].to_string(), one)).collect();
    let wire: Value = serde_json::from_str(WIRE).unwrap();
    let wire = &wire["value"][0];
    for differs in [false, true] {
        let graph =
            GraphBehaviour { differs, new_evidence_percent: 100, ..GraphBehaviour::default() };
        let (simulator, _client) = with_graph(60, graph).await;
        let mut kinds = BTreeSet::new();
        for incident in simulator.world().graph_truth(TENANT) {
            assert_eq!(keys(&incident), keys(wire));
            for alert in list(&incident, "alerts") {
                assert_eq!(keys(alert), keys(&wire["alerts"][0]));
                for evidence in list(alert, "evidence") {
                    let kind = evidence["@odata.type"].to_string();
                    assert_eq!(keys(evidence), keys(types[&kind]), "{kind}");
                    kinds.insert(kind);
                }
            }
        }
        assert_eq!(kinds.len(), 16, "eleven of Defender's and five new ones: {kinds:?}");
    }
}

#[tokio::test]
async fn new_enum_members_require_prefer_header() {
    let (simulator, client) = with_graph(20, GraphBehaviour::default()).await;
    let url = client.url.join(&format!("{INCIDENTS}?$expand=alerts")).unwrap();
    let without = client.http.get(url).bearer_auth(&client.token).send().await.unwrap();
    let without = without.text().await.unwrap();
    let with = client.list(&format!("{INCIDENTS}?$expand=alerts")).await.to_string();
    let is_hidden = |text: &str| {
        (text.contains("unknownFutureValue"), text.contains(r#""remediationStatus":"active""#))
    };
    assert_eq!((is_hidden(&without), is_hidden(&with)), ((true, false), (false, true)));
    let graph = GraphBehaviour { ignores_prefer: true, ..GraphBehaviour::default() };
    simulator.world().set_graph(TENANT, graph);
    let ignored = client.list(&format!("{INCIDENTS}?$expand=alerts")).await.to_string();
    assert_eq!(is_hidden(&ignored), (true, false));
}

#[tokio::test]
async fn documented_graph_sample_is_served_unchanged() {
    for sample in [
        WIRE,
        include_str!("../../../../tests/data/graph_docs_list_incidents_example1.json"),
        include_str!(
            "../../../../tests/data/graph_docs_list_incidents_expand_alerts_example2_FIXED.json"
        ),
    ] {
        let (simulator, client) = with_graph(0, GraphBehaviour::default()).await;
        simulator.world().add_graph_sample(TENANT, sample);
        let sample: Value = serde_json::from_str(sample).unwrap();
        let order = |rows: &[Value]| -> BTreeMap<String, Value> {
            rows.iter().map(|row| (row["id"].to_string(), row.clone())).collect()
        };
        let expanded = client.rows(&format!("{INCIDENTS}?$expand=alerts")).await;
        assert_eq!(order(&expanded), order(list(&sample, "value")));
        let plain = client.rows(INCIDENTS).await;
        assert!(plain.iter().all(|row| row["alerts"] == Value::Null));
        let alerts: usize =
            list(&sample, "value").iter().map(|row| list(row, "alerts").len()).sum();
        assert_eq!(client.rows(ALERTS).await.len(), alerts);
        assert!(simulator.world().truth(TENANT).is_empty());
        assert_eq!(client.status("/81").await, 404, "Defender lacks them");
    }
}

#[tokio::test]
async fn invalid_incident_is_served_by_both_apis() {
    let (simulator, client) = with_graph(0, GraphBehaviour::default()).await;
    let now = simulator.world().now();
    simulator.world().add_raw(TENANT, 1, now, "{\"incidentId\": 1, oops");
    let text = client.graph(INCIDENTS).await.text().await.unwrap();
    assert!(text.contains("{\"incidentId\": 1, oops]}"), "{text}");
    simulator.world().add_raw(
        TENANT,
        1,
        now,
        r#"{"incidentId":"x","status":7,"alerts":[5,{"alertId":null}],"comments":{}}"#,
    );
    let row = client.rows(&format!("{INCIDENTS}?$expand=alerts")).await.remove(0);
    assert_eq!(
        (&row["id"], &row["status"], &row["comments"]),
        (&json!("x"), &json!(7), &json!({}))
    );
    assert_eq!((&row["alerts"][0], &row["alerts"][1]["id"]), (&json!(5), &Value::Null));
    simulator.world().add_raw(TENANT, 1, now, r#"{"incidentId":1,"alerts":"none"}"#);
    assert_eq!(client.rows(&format!("{INCIDENTS}?$expand=alerts")).await[0]["alerts"], "none");
}

#[tokio::test]
async fn graph_ids_and_times_differ_when_configured() {
    let (simulator, client) = with_graph(2, GraphBehaviour::default()).await;
    let before = client.list(&format!("{INCIDENTS}/1?$expand=alerts")).await;
    simulator.world().set_graph(
        TENANT,
        GraphBehaviour {
            uppercase_alert_ids: true,
            created_later_s: 1,
            embedded_alerts_max: Some(2),
            ..GraphBehaviour::default()
        },
    );
    let after = client.list(&format!("{INCIDENTS}/1?$expand=alerts")).await;
    assert_ne!(before["createdDateTime"], after["createdDateTime"]);
    assert_eq!(before["lastUpdateDateTime"], after["lastUpdateDateTime"]);
    let (old, new) = (before["alerts"][0]["id"].as_str(), after["alerts"][0]["id"].as_str());
    assert_eq!(old.map(str::to_uppercase).as_deref(), new);
    assert_ne!(old, new);
    assert_eq!((list(&before, "alerts").len(), list(&after, "alerts").len()), (3, 2));
    let rest = client.rows(after["alerts@odata.nextLink"].as_str().unwrap()).await;
    assert_eq!(rest[0]["title"], before["alerts"][2]["title"]);
}

#[tokio::test]
async fn graph_values_differ_only_when_configured() {
    let (simulator, _client) = with_graph(40, GraphBehaviour::default()).await;
    let kinds = |percent, differs| {
        let behaviour =
            GraphBehaviour { new_evidence_percent: percent, differs, ..GraphBehaviour::default() };
        simulator.world().set_graph(TENANT, behaviour);
        let text = Value::from(simulator.world().graph_truth(TENANT)).to_string();
        ["oauthApplicationEvidence", "incident2", "compromisedAccount", "\"Soc Tier1\""]
            .map(|word| text.contains(word))
    };
    assert_eq!(kinds(0, false), [false; 4]);
    assert_eq!(kinds(50, false), [true, false, false, false]);
    assert_eq!(kinds(0, true), [false, true, true, true]);
}
