//! The Graph API over HTTP.

mod access;
mod lists;
mod rendering;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};

use crate::tests::{Client, SECRET, TENANT, json as body_of, spec, start};
use crate::*;

const INCIDENTS: &str = "v1.0/security/incidents";
const ALERTS: &str = "v1.0/security/alerts_v2";
const WIRE: &str = include_str!("../../../../tests/data/graph_docs_wire_shape_expand_alerts.json");

async fn with_graph(incidents: usize, graph: GraphBehaviour) -> (Simulator, Client) {
    let simulator = start(Encoding::Identity, TenantSpec { graph, ..spec(incidents) }).await;
    let client = Client::new(&simulator).await;
    (simulator, client)
}

impl Client {
    async fn graph(&self, path: &str) -> Response {
        let request = self.http.get(self.url.join(path).unwrap()).bearer_auth(&self.token);
        request.header("Prefer", "include-unknown-enum-members").send().await.unwrap()
    }

    async fn graph_status(&self, path: &str) -> u16 {
        self.graph(path).await.status().as_u16()
    }

    async fn list(&self, path: &str) -> Value {
        let response = self.graph(path).await;
        assert_eq!(response.status().as_u16(), 200, "{path}");
        body_of(response).await
    }

    async fn rows(&self, path: &str) -> Vec<Value> {
        serde_json::from_value(self.list(path).await["value"].take()).unwrap()
    }
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_str().unwrap().parse().unwrap()).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    let keys = object.as_object().unwrap().keys();
    keys.filter(|key| !key.contains("@odata.") || *key == "@odata.type").cloned().collect()
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}
