//! What decode accepts, Postgres stores: pages of broken incidents through a real run. `tests/mutate/mod.rs` says how a
//! failing seed is run again.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;
use incident_sync::incident::raw;
use incident_sync::store::runs::Outcome;
use incident_sync::tenant::Source;
use serde_json::Value;
use simulator::{Endpoint, ScriptedReply};

use crate::mutate::{Json, each_seed};
use crate::support::world::{World, id};

const SAMPLE: &str = include_str!("../data/defender_docs_list_incidents.json");
/// More than three pages.
const INCIDENTS: usize = 330;

/// Incidents of the documentation and of the simulator, as they should be.
fn good_incidents(world: &World) -> Vec<Value> {
    let documented: Value = serde_json::from_str(SAMPLE).unwrap();
    let documented = documented["value"].as_array().unwrap().clone();
    documented.into_iter().chain(world.service().truth(id(1))).collect()
}

/// Texts with the time under which the list shows them, by the key that a whole one has as its id.
type Served = BTreeMap<i64, (DateTime<Utc>, String)>;

/// A third as it should be, whose ids are answered too, and the rest broken.
fn incidents(good: &[Value], random: &mut Rng) -> (Served, Vec<i64>) {
    let mut served = BTreeMap::new();
    let mut whole = Vec::new();
    let mut updated: DateTime<Utc> = "2026-11-01T00:00:00Z".parse().unwrap();
    for at in 0..INCIDENTS {
        let key = 5_000_000 + i64::try_from(at).unwrap();
        updated += TimeDelta::minutes(7);
        let mut incident = good[at % good.len()].clone();
        incident["incidentId"] = key.into();
        incident["lastUpdateTime"] =
            updated.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into();
        let json = Json::from(&incident);
        let text = if at % 3 == 0 {
            whole.push(key);
            json.to_string()
        } else {
            json.mutated(random).to_string()
        };
        served.insert(key, (updated, text));
    }
    (served, whole)
}

async fn stored<T>(world: &World, query: &'static str) -> Vec<T>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(query).fetch_all(world.pool()).await.unwrap()
}

async fn broken_incidents_are_stored_or_set_aside(seed: u64) {
    let world = World::of(20).await;
    let (served, whole) = incidents(&good_incidents(&world), &mut Rng::with_seed(seed));
    for (key, (updated, text)) in &served {
        world.service().add_raw(id(1), *key, *updated, text);
    }
    let results = world.run().await;
    assert_eq!(results[0].outcome, Outcome::Ok, "{:?}", results[0].report.failure);

    let known: HashSet<Vec<u8>> = stored(
        &world,
        "SELECT content_hash FROM defender.incident_payloads UNION SELECT content_hash FROM defender.rejected_payloads",
    )
    .await
    .into_iter()
    .collect();
    let ids: HashSet<i64> =
        stored(&world, "SELECT incident_id FROM defender.incidents").await.into_iter().collect();
    for element in raw::elements(Source::Defender, served.values().map(|(_, text)| text.as_str())) {
        // Two broken ones may have come to the same id; then the newer one stands.
        let is_there = known.contains(&element.hash[..])
            || element.head.incident_id.is_some_and(|id| ids.contains(&id));
        assert!(is_there, "nowhere: {}", element.text);
    }
    for key in whole {
        assert!(ids.contains(&key), "incident {key} was lost beside broken ones");
    }
    let refused: Vec<String> = stored(
        &world,
        "SELECT reason FROM defender.rejected_payloads WHERE reason LIKE 'database%'",
    )
    .await;
    assert_eq!(refused, Vec::<String>::new(), "Postgres refused what decode accepted");

    let before = world.tuples().await;
    world.later();
    world.successful_run().await;
    assert_eq!(world.tuples().await, before, "a run without changes wrote something");
}

#[test]
fn decoded_incidents_are_accepted_by_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    each_seed(2, |seed| runtime.block_on(broken_incidents_are_stored_or_set_aside(seed)));
}

#[tokio::test]
async fn error_with_nul_character_is_recorded() {
    let world = World::of(1).await;
    let body = r#"{"error":{"code":"Bad\u0000Request","target":"\u0000"}}"#.to_owned();
    let refused = ScriptedReply::Status { code: 400, body, headers: Vec::new() };
    world.service().script(id(1), Endpoint::Incidents, vec![refused]);
    assert_eq!(world.run().await[0].outcome, Outcome::Failed);
    let recorded = "SELECT count(*) FROM defender.sync_runs WHERE error_class = 'bad_request'";
    assert_eq!(world.number(recorded).await, 1);
    world.successful_run().await;
    world.assert_truth().await;
}
