//! The Grafana dashboard works for a reader of all tenants and for a reader of one.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Column, Connection, Executor, PgConnection, Row, TypeInfo};

use crate::support::world::{World, id, spec};

const DASHBOARD: &str = include_str!("../../examples/grafana/incidents.json");
const NUMBERS: [&str; 4] = ["INT4", "INT8", "FLOAT8", "NUMERIC"];

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn variable(name: &str) -> Value {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    variables.iter().find(|variable| variable["name"] == name).unwrap().clone()
}

/// What Grafana makes of a query: chosen values in quotes, "All" as the variable says, `$__timeFilter` as a range.
fn expand(sql: &str, chosen: &str) -> String {
    let mut sql = sql.replace("${tenant:sqlstring}", chosen);
    while let Some(from) = sql.find("$__timeFilter(") {
        let to = from + sql[from..].find(')').unwrap();
        let column = sql[from + "$__timeFilter(".len()..to].to_owned();
        let range = format!("{column} BETWEEN '2026-06-01T00:00:00Z' AND '2026-11-23T12:00:00Z'");
        sql.replace_range(from..=to, &range);
    }
    assert!(!sql.contains('$'), "what stands for nothing: {sql}");
    sql
}

fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().unwrap().clone()
}

fn query(panel: &Value) -> (&str, &str) {
    let target = &panel["targets"][0];
    (target["rawSql"].as_str().unwrap(), target["format"].as_str().unwrap())
}

#[tokio::test]
async fn every_dashboard_panel_answers_each_reader_kind() {
    let world = World::with(vec![spec(1, 150), spec(2, 150)]).await;
    world.successful_run().await;
    let mut admin = PgConnection::connect_with(&world.database).await.unwrap();
    let role = format!("grafana_{}", world.database.get_database().unwrap());
    let make = format!(
        "CREATE ROLE {role} LOGIN IN ROLE incident_sync_tenant_reader;
         INSERT INTO defender.reader_tenants VALUES ('{role}', '{}', '{role}'::regrole)",
        id(2)
    );
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut admin).await.unwrap();
    let mut of_one =
        PgConnection::connect_with(&world.database.clone().username(&role)).await.unwrap();
    let mut of_all = PgConnection::connect_with(&world.database).await.unwrap();
    of_all.execute("SET ROLE incident_sync_reader").await.unwrap();

    let all = variable("tenant")["allValue"].as_str().unwrap().to_owned();
    let first = format!("'{}'", id(1));
    for panel in panels() {
        let (sql, format) = query(&panel);
        let title = &panel["title"];
        assert!(sql.contains("reporting.") && !sql.contains("defender."), "{title}");
        let rows = of_all
            .fetch_all(AssertSqlSafe(expand(sql, &all)))
            .await
            .unwrap_or_else(|e| panic!("{title}: {e}"));
        assert!(!rows.is_empty(), "{title}");
        let types: Vec<&str> =
            rows[0].columns().iter().map(|column| column.type_info().name()).collect();
        assert!(types.iter().any(|kind| NUMBERS.contains(kind)), "{title}: {types:?}");
        if format == "time_series" {
            let at = rows[0].columns().iter().position(|column| column.name() == "time");
            assert_eq!(at.map(|at| types[at]), Some("TIMESTAMP"), "{title}");
        }
        // A reader of one tenant gets the numbers of that tenant, whichever is selected, and none of others.
        let own = of_one.fetch_all(AssertSqlSafe(expand(sql, &all))).await.unwrap();
        assert!(!own.is_empty(), "{title}");
        let chosen =
            of_all.fetch_all(AssertSqlSafe(expand(sql, &format!("'{}'", id(2))))).await.unwrap();
        assert_eq!(own.len(), chosen.len(), "{title}");
        let foreign = format!("SELECT to_jsonb(q) FROM ({}) q", expand(sql, &first));
        let foreign: Vec<Value> =
            sqlx::query_scalar(AssertSqlSafe(foreign)).fetch_all(&mut of_one).await.unwrap();
        let is_nothing = |value: &Value| value.is_null() || *value == 0;
        assert!(
            foreign.iter().all(|row| row.as_object().unwrap().values().all(is_nothing)),
            "{title}: {foreign:?}"
        );
    }
}

#[tokio::test]
async fn dashboard_tenant_list_equals_visible_tenants() {
    let world = World::with(vec![spec(1, 1), spec(2, 1)]).await;
    let mut reader = PgConnection::connect_with(&world.database).await.unwrap();
    reader.execute("SET ROLE incident_sync_reader").await.unwrap();
    let query = variable("tenant")["query"].as_str().unwrap().to_owned();
    let rows: Vec<(String, String)> =
        sqlx::query_as(AssertSqlSafe(query)).fetch_all(&mut reader).await.unwrap();
    assert_eq!(
        rows,
        [("tenant-1".to_owned(), id(1).to_string()), ("tenant-2".to_owned(), id(2).to_string())]
    );
}

#[test]
fn dashboard_panels_are_unique_and_do_not_overlap() {
    let panels = panels();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in &panels {
        let place = |key: &str| panel["gridPos"][key].as_i64().unwrap();
        let title = &panel["title"];
        assert!(place("x") + place("w") <= 24, "{title}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        // A panel exported from another Grafana would name a database that exists only there.
        for datasource in [&panel["datasource"], &panel["targets"][0]["datasource"]] {
            assert_eq!(datasource["uid"], "${datasource}", "{title}");
        }
    }
}
