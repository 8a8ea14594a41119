//! Every statement fits the schema, and every file is used.

use std::path::Path;

use sqlx::{Connection, Executor, PgConnection};

use incident_sync::incident::columns::{AlertColumns, Columns, EvidenceColumns};

use crate::support::postgres;

/// All Rust sources of a folder and the folders in it, as one text.
fn sources_below(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources_below(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[tokio::test]
async fn every_statement_prepares_and_is_used() {
    let mut connection = PgConnection::connect_with(&postgres::database().await).await.unwrap();
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let sources = sources_below(&store);
    let mut count = 0;
    for entry in std::fs::read_dir(store.join("sql")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let statement = std::fs::read_to_string(&path).unwrap();
        assert!(
            statement.starts_with(&format!("-- {}", name.trim_end_matches(".sql"))),
            "{name} does not begin with its name"
        );
        assert!(sources.contains(&format!("sql/{name}")), "{name} is used nowhere");
        connection
            .prepare(sqlx::SqlStr::from_static(Box::leak(statement.into_boxed_str())))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        count += 1;
    }
    assert!(count > 20);
}

/// Their values are sent without names.
#[tokio::test]
async fn record_types_have_the_columns_in_order() {
    let mut connection = PgConnection::connect_with(&postgres::database().await).await.unwrap();
    let alert = [
        &["alert_id", "incident_id"],
        AlertColumns::NAMES,
        &["last_seen", "devices_without_id", "extra"],
    ]
    .concat();
    let evidence = [&["alert_id", "evidence_hash"], EvidenceColumns::NAMES, &["extra"]].concat();
    for (name, columns) in [("alert_record_3", alert), ("evidence_record_2", evidence)] {
        let attributes: Vec<String> = sqlx::query_scalar(
            "SELECT attribute_name::text FROM information_schema.attributes
             WHERE udt_schema = 'defender' AND udt_name = $1 ORDER BY ordinal_position",
        )
        .bind(name)
        .fetch_all(&mut connection)
        .await
        .unwrap();
        assert_eq!(attributes, columns, "{name}");
    }
}
