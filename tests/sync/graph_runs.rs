//! Tenants that are read from Graph: every quirk of its lists, alerts that cannot be expanded, and fleets on both sources.

use std::time::Duration;

use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use incident_sync::tenant::Source;
use serde_json::Value;
use simulator::{
    CeilingAnswer, Endpoint, GraphBehaviour, NextLink, Order, SkipCeiling, TenantSpec,
};
use uuid::Uuid;

use crate::support::truth::{self, Tables};
use crate::support::world::{World, id, spec};

const ORDERS: [Order; 6] = [
    Order::NewestFirst,
    Order::OldestFirst,
    Order::ById,
    Order::ByCreated,
    Order::Hashed,
    Order::Random,
];

fn behaving(number: u128, incidents: usize, graph: GraphBehaviour) -> TenantSpec {
    TenantSpec { graph, ..spec(number, incidents) }
}

fn assert_good(results: &[TenantResult]) {
    for result in results {
        let failure = &result.report.failure;
        assert_eq!(result.outcome, Outcome::Ok, "{}: {failure:?}", result.tenant.name);
    }
}

/// The queries of one tenant's requests for Graph's incidents.
fn queries(world: &World, tenant: Uuid) -> Vec<String> {
    let calls = world.service().calls(tenant).into_iter();
    calls.filter(|call| call.endpoint == Endpoint::GraphIncidents).map(|call| call.query).collect()
}

/// Every page that was asked for follows the rules that keep the reading complete.
fn assert_polite_queries(world: &World) {
    for tenant in world.tenants() {
        let queries = queries(world, tenant.id.0);
        assert!(!queries.is_empty());
        for query in queries {
            let number = |name: &str| {
                let (_, rest) = query.split_once(name)?;
                rest.split('&').next()?.parse::<usize>().ok()
            };
            assert!(number("$top=") <= Some(50), "{query}");
            assert!(number("$skip=") <= Some(450), "{query}");
            assert!(!query.contains("$skiptoken"), "a link was followed: {query}");
        }
    }
}

/// One run that stores everything, and one that writes nothing.
async fn assert_read_completely(world: &World) {
    world.successful_run().await;
    world.assert_settled().await;
    assert_polite_queries(world);
}

#[tokio::test]
async fn documented_samples_fill_all_tables() {
    let samples = [
        include_str!("../data/graph_docs_list_incidents.json"),
        include_str!("../data/graph_docs_list_incidents_expand_alerts.json"),
        include_str!("../data/graph_wire_shape_expand_alerts.json"),
    ];
    let world = World::of_graph((1..=3).map(|number| spec(number, 0)).collect()).await;
    for (number, sample) in (1..).zip(samples) {
        let sample =
            sample.replace("b3c1b5fc-828c-45fa-a1e1-10d74f6d6e9c", &id(number).to_string());
        let sample =
            sample.replace("11111111-2222-3333-4444-555555555555", &id(number).to_string());
        world.service().add_graph_sample(id(number), &sample);
    }
    assert_read_completely(&world).await;
    for (rows, query) in [
        (5, "SELECT count(*) FROM defender.incidents"),
        (4, "SELECT count(*) FROM defender.alerts"),
        (15, "SELECT count(*) FROM defender.evidence"),
        (3, "SELECT count(*) FROM defender.incident_comments"),
    ] {
        assert_eq!(world.number(query).await, rows, "{query}");
    }
}

#[tokio::test]
async fn graph_tenants_changing_while_paged_lose_nothing() {
    let specs = (0..20).map(|at| match at % 5 {
        // All incidents have one time: far more than a page holds.
        0 => TenantSpec { order: ORDERS[at / 5], spread_days: 0, ..spec(at as u128, 350) },
        _ => TenantSpec { order: ORDERS[at % ORDERS.len()], ..spec(at as u128, 350) },
    });
    let world = World::of_graph(specs.collect()).await;
    for tenant in world.tenants() {
        // Groups of equal times across the edges of pages.
        for _ in 0..4 {
            world.later();
            (0..30).for_each(|_| assert!(world.service().update_random(tenant.id.0).is_some()));
        }
        world.service().churn(tenant.id.0, 3);
    }
    for _ in 0..3 {
        world.successful_run().await;
        world.service().advance(Duration::from_secs(300));
    }
    for tenant in world.tenants() {
        world.service().churn_stop(tenant.id.0);
    }
    world.later();
    assert_read_completely(&world).await;
}

#[tokio::test]
async fn links_of_full_pages_are_not_followed() {
    let links = [NextLink::Skip, NextLink::SkipToken, NextLink::Absent];
    let counts = [49, 50, 51, 100, 350];
    let specs = (0..15).map(|at| {
        let graph = GraphBehaviour { next_link: links[at % 3], ..GraphBehaviour::default() };
        behaving(at as u128, counts[at / 3], graph)
    });
    let world = World::of_graph(specs.collect()).await;
    assert_read_completely(&world).await;
}

fn ceilings() -> [SkipCeiling; 3] {
    [CeilingAnswer::BadRequest, CeilingAnswer::EmptyPage, CeilingAnswer::ShortPage]
        .map(|answer| SkipCeiling { rows: 500, answer })
}

#[tokio::test]
async fn skip_ceiling_hides_no_incident() {
    let mut specs = Vec::new();
    for (at, ceiling) in ceilings().into_iter().enumerate() {
        for (place, ignores_order) in [false, true].into_iter().enumerate() {
            let graph = GraphBehaviour {
                skip_ceiling: Some(ceiling),
                ignores_order,
                ..GraphBehaviour::default()
            };
            specs.push(behaving((2 * at + place) as u128, 560, graph));
        }
    }
    // Of one instant, as many as can be read by `$skip`.
    for (at, ceiling) in (10..).zip(ceilings()) {
        let graph = GraphBehaviour { skip_ceiling: Some(ceiling), ..GraphBehaviour::default() };
        specs.push(TenantSpec { spread_days: 0, ..behaving(at, 300, graph) });
    }
    let world = World::of_graph(specs).await;
    world.later();
    assert_read_completely(&world).await;
}

#[tokio::test]
async fn instant_beyond_the_skip_ceiling_fails_the_run() {
    let specs = (1..).zip(ceilings()).map(|(number, ceiling)| {
        let graph = GraphBehaviour { skip_ceiling: Some(ceiling), ..GraphBehaviour::default() };
        TenantSpec { spread_days: 0, ..behaving(number, 560, graph) }
    });
    let world = World::of_graph(specs.collect()).await;
    world.later();
    for _ in 0..2 {
        for result in world.run().await {
            assert_eq!(result.outcome, Outcome::Failed, "{:?}", result.report);
            let watermark =
                world.state(result.tenant.id.0, "(watermark <= '2026-11-23 12:00+00')").await;
            assert_ne!(watermark.as_deref(), Some("false"), "it passed over the instant");
            assert_eq!(world.state(result.tenant.id.0, "backfilled_at").await, None);
        }
        sqlx::query("UPDATE defender.sync_state SET next_attempt_at = now()")
            .execute(world.pool())
            .await
            .unwrap();
    }
    assert_polite_queries(&world);
}

#[tokio::test]
async fn list_that_ignores_order_loses_nothing() {
    let graph = GraphBehaviour { ignores_order: true, ..GraphBehaviour::default() };
    let specs = (1..).zip(ORDERS);
    let specs = specs.map(|(number, order)| TenantSpec { order, ..behaving(number, 350, graph) });
    let world = World::of_graph(specs.collect()).await;
    for tenant in world.tenants() {
        world.service().churn(tenant.id.0, 1);
    }
    for _ in 0..2 {
        world.successful_run().await;
        world.service().advance(Duration::from_secs(300));
    }
    for tenant in world.tenants() {
        world.service().churn_stop(tenant.id.0);
    }
    world.later();
    assert_read_completely(&world).await;
}

#[tokio::test]
async fn partial_list_is_never_taken_for_whole() {
    let partial = GraphBehaviour { partial: true, ..GraphBehaviour::default() };
    let world = World::of_graph(vec![behaving(1, 120, partial), spec(2, 120)]).await;
    for _ in 0..2 {
        let results = world.run().await;
        let diagnosis = results[0].diagnosis.as_ref().expect("half of the rows are missing");
        assert_eq!((results[0].outcome, diagnosis.class.as_str()), (Outcome::Failed, "upstream"));
        let calls = results[0].report.counts.api_calls;
        assert!(calls < 16, "an outage costs {calls} calls");
        assert_eq!(results[1].outcome, Outcome::Ok);
        assert_eq!(world.state(id(1), "watermark").await, None);
        assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 120);
        assert_eq!(world.number("SELECT count(*) FROM defender.sync_gaps").await, 0);
    }
    world.service().set_graph(id(1), GraphBehaviour::default());
    sqlx::query("UPDATE defender.sync_state SET next_attempt_at = now()")
        .execute(world.pool())
        .await
        .unwrap();
    assert_read_completely(&world).await;
}

/// The rows without the alerts of this incident.
fn without_alerts(mut tables: Tables, incident: i64) -> Tables {
    let of = |row: &std::collections::BTreeMap<String, Value>| row["incident_id"] == incident;
    let lost: Vec<String> =
        tables.alerts.iter().filter(|(_, row)| of(row)).map(|(alert, _)| alert.clone()).collect();
    assert!(!lost.is_empty());
    tables.alerts.retain(|_, row| !of(row));
    tables.evidence.retain(|(alert, _)| !lost.contains(alert));
    tables.alert_devices.retain(|(alert, _)| !lost.contains(alert));
    tables.payloads.get_mut(&incident).unwrap()["alerts"] = Value::Array(Vec::new());
    tables
}

async fn gaps(world: &World) -> i64 {
    world.number("SELECT count(*) FROM defender.sync_gaps").await
}

#[tokio::test]
async fn unreadable_alerts_cost_only_themselves() {
    let places = [1_i64, 60, 200];
    let mut specs: Vec<_> = (1..=3).map(|number| spec(number, 200)).collect();
    specs.push(spec(4, 20));
    let world = World::of_graph(specs).await;
    for (number, place) in (1..).zip(places) {
        world.service().poison_expansion(id(number), place);
    }
    let first = world.run().await;
    assert_good(&first);
    for (number, place) in (1..).zip(places) {
        let tenant = &world.tenants()[number - 1];
        let stored = truth::stored(world.pool(), tenant.id.0).await;
        let expected = without_alerts(world.expected(tenant), place);
        truth::assert_same(&stored, &expected, &tenant.name);
    }
    let calls: Vec<usize> = first.iter().map(|result| result.report.counts.api_calls).collect();
    assert!(calls[..3].iter().all(|calls| *calls < 60), "{calls:?}");
    let precise = "SELECT count(*) FROM defender.sync_gaps g JOIN defender.incidents i
        ON i.tenant_id = g.tenant_id AND i.last_update_time = g.window_from
        WHERE window_to - window_from <= interval '1 microsecond' AND error_class = 'upstream' AND i.incident_id IN (1, 60, 200)";
    assert_eq!((world.number(precise).await, gaps(&world).await), (3, 3));

    // A gap is tried again, not searched for again.
    world.later();
    let second = world.run().await;
    assert_good(&second);
    let calls: Vec<usize> = second.iter().map(|result| result.report.counts.api_calls).collect();
    assert!(calls.iter().all(|calls| *calls <= 12), "{calls:?}");
    assert_eq!(gaps(&world).await, 3);

    for number in 1..=3 {
        world.service().heal(id(number));
    }
    assert_good(&world.run().await);
    assert_eq!(gaps(&world).await, 0);
    assert_read_completely(&world).await;
}

#[tokio::test]
async fn oversized_graph_pages_are_read_in_pieces() {
    let world = World::of_graph(vec![spec(1, 120), spec(2, 120)]).await;
    // Together more than a body may have.
    let padding = "x".repeat(12 * 1024 * 1024);
    for number in 1..=6 {
        let time = format!("2026-11-{:02}T08:00:00Z", 10 + number);
        let raw = format!(
            r#"{{"id":"{0}","createdDateTime":"{time}","lastUpdateDateTime":"{time}","description":"{padding}","comments":[],"alerts":[{{"id":"da{0}","incidentId":"{0}","evidence":[]}}]}}"#,
            1_000 + number
        );
        world.service().add_graph_raw(id(1), 1_000 + number, time.parse().unwrap(), &raw);
    }
    assert_read_completely(&world).await;
    assert_eq!(gaps(&world).await, 0);
    let whole =
        "SELECT count(*) FROM defender.incidents WHERE length(description) = 12 * 1024 * 1024";
    assert_eq!(world.number(whole).await, 6);
}

#[tokio::test]
async fn alerts_behind_an_embedded_link_are_read() {
    let graph =
        |max| GraphBehaviour { embedded_alerts_max: Some(max), ..GraphBehaviour::default() };
    let specs = vec![behaving(1, 60, graph(0)), behaving(2, 60, graph(1)), spec(3, 60)];
    let world = World::of_graph(specs).await;
    assert_read_completely(&world).await;
}

#[tokio::test]
async fn unreadable_alerts_behind_a_link_leave_a_gap() {
    let graph = GraphBehaviour { embedded_alerts_max: Some(1), ..GraphBehaviour::default() };
    let world = World::of_graph(vec![behaving(1, 60, graph)]).await;
    world.service().poison_alerts(id(1), 30);
    assert_good(&world.run().await);
    assert_eq!(gaps(&world).await, 1);
    let tenant = &world.tenants()[0];
    let stored = truth::stored(world.pool(), id(1)).await;
    let expected = without_alerts(world.expected(tenant), 30);
    truth::assert_same(&stored, &expected, &tenant.name);
    world.service().heal(id(1));
    world.later();
    assert_good(&world.run().await);
    assert_eq!(gaps(&world).await, 0);
    assert_read_completely(&world).await;
}

#[tokio::test]
async fn alert_newer_than_its_incident_is_stored() {
    let world = World::of_graph(vec![spec(1, 60)]).await;
    for incident in 1..=60 {
        assert!(world.service().touch_alert_only(id(1), incident));
    }
    assert_read_completely(&world).await;
    let newer = "SELECT count(DISTINCT incident_id) FROM defender.alerts a JOIN defender.incidents i USING (incident_id)
        WHERE a.last_updated_time > i.last_update_time + interval '1 minute'";
    assert!(world.number(newer).await > 50);
}

#[tokio::test]
async fn withheld_enum_member_is_null_and_counted() {
    let graph = GraphBehaviour { ignores_prefer: true, ..GraphBehaviour::default() };
    let world = World::of_graph(vec![behaving(1, 40, graph), spec(2, 40)]).await;
    let results = world.run().await;
    assert_good(&results);
    let withheld = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM defender.evidence WHERE tenant_id = $1 AND remediation_status = 'Active'",
    );
    let named = withheld.bind(id(2)).fetch_one(world.pool()).await.unwrap();
    assert!(named > 20);
    let counted: Vec<usize> =
        results.iter().map(|result| result.report.counts.mistyped_fields).collect();
    assert_eq!(counted[1], 0, "the header asks for every member");
    assert!(counted[0] > 20, "{counted:?}");
    assert_read_completely(&world).await;
}

#[tokio::test]
async fn evidence_that_only_graph_has_is_stored() {
    let graph = GraphBehaviour {
        new_evidence_percent: 100,
        differs: true,
        created_later_s: 2,
        ..GraphBehaviour::default()
    };
    let world = World::of_graph(vec![behaving(1, 60, graph)]).await;
    assert_read_completely(&world).await;
    let types = "SELECT count(DISTINCT entity_type) FROM defender.evidence WHERE entity_type IN
        ('CloudApplication', 'OauthApplication', 'AzureResource', 'Malware', 'KubernetesPod')";
    assert_eq!(world.number(types).await, 5);
}

#[tokio::test]
async fn fleet_on_both_sources_equals_truth() {
    let specs = (1..=12).map(|number| {
        let source = if number % 2 == 0 { Source::Graph } else { Source::Defender };
        (source, TenantSpec { order: ORDERS[number % 6], ..spec(number as u128, 250) })
    });
    let world = World::with_sources(specs.collect()).await;
    for _ in 0..3 {
        world.successful_run().await;
        for tenant in world.tenants() {
            world.service().live(tenant.id.0, 20);
        }
        world.service().advance(Duration::from_secs(300));
    }
    for tenant in world.tenants() {
        let calls = world.service().calls(tenant.id.0);
        let is_foreign = |endpoint: Endpoint| {
            endpoint.source().is_some_and(|source| {
                (source == simulator::Source::Graph) != (tenant.source() == Source::Graph)
            })
        };
        assert!(calls.iter().all(|call| !is_foreign(call.endpoint)), "{}", tenant.name);
    }
    // Alerts that changed without their incident are found by a reading of everything.
    assert_good(&world.run_in_mode(incident_sync::sync::tenant_run::SyncMode::Full).await);
    world.assert_settled().await;
}

/// The rows without what one source alone has.
fn shared(mut tables: Tables) -> Tables {
    const ROWS: [&str; 18] = [
        "description",
        "summary",
        "resolving_comment",
        "last_modified_by",
        "priority_score",
        "system_tags",
        "alert_web_url",
        "recommended_actions",
        "product_name",
        "alert_policy_id",
        "categories",
        "investigation_id",
        "roles",
        "parent_process_image_file",
        "p1_sender",
        "p2_sender",
        "attachments_count",
        "url_count",
    ];
    for row in tables.incidents.values_mut() {
        row.retain(|key, _| !ROWS.contains(&key.as_str()));
    }
    for row in tables.alerts.values_mut() {
        row.retain(|key, _| key == "description" || !ROWS.contains(&key.as_str()));
    }
    let evidence = tables.evidence.into_iter().map(|(alert, text)| {
        let mut row: std::collections::BTreeMap<String, Value> =
            serde_json::from_str(&text).unwrap();
        row.retain(|key, _| !ROWS.contains(&key.as_str()));
        (alert, serde_json::to_string(&row).unwrap())
    });
    tables.evidence = evidence.collect();
    tables.payloads.values_mut().for_each(|payload| *payload = Value::Null);
    tables
}

#[tokio::test]
async fn same_incidents_make_same_rows_from_either_source() {
    let mut stored = Vec::new();
    let mut devices: Vec<Vec<String>> = Vec::new();
    for source in [Source::Defender, Source::Graph] {
        let world = World::with_sources(vec![(source, spec(1, 250))]).await;
        // Without alerts that change alone: their devices are newer than their incident's time says.
        for _ in 0..200 {
            world.service().advance(Duration::from_secs(1));
            assert!(world.service().update_random(id(1)).is_some());
        }
        world.later();
        world.successful_run().await;
        stored.push(shared(truth::stored(world.pool(), id(1)).await));
        let rows =
            "SELECT (to_jsonb(d) - '{os_processor,changed_at,row_version,vm_metadata,last_seen}'::text[])::text
            FROM defender.devices d ORDER BY device_id";
        devices.push(sqlx::query_scalar(rows).fetch_all(world.pool()).await.unwrap());
    }
    truth::assert_same(&stored[1], &stored[0], "either source");
    assert!(devices[0].len() > 100);
    let differing: Vec<_> = devices[0].iter().zip(&devices[1]).filter(|(a, b)| a != b).collect();
    assert!(differing.is_empty(), "{} devices differ: {:?}", differing.len(), differing[0]);
}
