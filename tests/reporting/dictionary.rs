//! The comments of the database, and the pages generated from them. The pages are a contract too: a column of `reporting`
//! that is removed or gets another type changes the page.
//!
//! `UPDATE=1 cargo test --test engine dictionary` writes `docs/data/dictionary.md` and `docs/data/tables.svg`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use sqlx::{Connection, PgConnection};

use crate::support::postgres;
use crate::support::roles::texts;

/// A table or view, and what is said of it.
struct Relation {
    name: String,
    about: String,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    data_type: String,
    meaning: String,
    is_key: bool,
}

async fn connect() -> PgConnection {
    PgConnection::connect_with(&postgres::database().await).await.unwrap()
}

/// The relations of a schema in the order of their names.
async fn relations(connection: &mut PgConnection, schema: &str) -> Vec<Relation> {
    let columns = "SELECT c.relname, obj_description(c.oid), a.attname, format_type(a.atttypid, a.atttypmod),
            col_description(c.oid, a.attnum), coalesce(a.attnum = ANY (k.conkey), false)
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
        WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p') AND NOT c.relispartition
        ORDER BY c.relname COLLATE \"C\", a.attnum";
    let columns: Vec<(String, String, String, String, String, bool)> =
        sqlx::query_as(columns).bind(schema).fetch_all(connection).await.unwrap();
    let mut relations: Vec<Relation> = Vec::new();
    for (relation, about, name, data_type, meaning, is_key) in columns {
        if relations.last().is_none_or(|last| last.name != relation) {
            relations.push(Relation { name: relation, about, columns: Vec::new() });
        }
        relations.last_mut().unwrap().columns.push(Column { name, data_type, meaning, is_key });
    }
    relations
}

/// Compares with what is checked in, or writes it.
fn assert_current(path: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == made,
        "{} is not current; if the contract may change: see the top of this file",
        path.display()
    );
}

#[tokio::test]
async fn every_database_object_has_a_comment() {
    let mut connection = connect().await;
    let silent = "SELECT o.what FROM (
            SELECT 'schema ' || nspname AS what, obj_description(oid, 'pg_namespace') AS about FROM pg_namespace
            WHERE nspname IN ('defender', 'reporting')
            UNION ALL
            SELECT 'relation ' || oid::regclass, obj_description(oid, 'pg_class') FROM pg_class
            WHERE relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace) AND relkind IN ('r', 'v', 'm', 'p')
            UNION ALL
            SELECT format('column %s.%s', c.oid::regclass, attname), col_description(c.oid, attnum)
            FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            WHERE relnamespace IN ('defender'::regnamespace, 'reporting'::regnamespace) AND relkind IN ('r', 'v', 'm', 'p')
            UNION ALL
            SELECT 'function ' || oid::regprocedure, obj_description(oid, 'pg_proc') FROM pg_proc
            WHERE pronamespace IN ('defender'::regnamespace, 'reporting'::regnamespace)
        ) o WHERE o.about IS NULL OR o.about = '' ORDER BY 1";
    assert_eq!(texts(&mut connection, silent).await, Vec::<String>::new());
}

#[tokio::test]
async fn data_dictionary_equals_database_comments() {
    let mut connection = connect().await;
    let mut page = "# Data dictionary\n\nFrom the comments in the database. [`reporting`](#reporting) is a contract: a column is removed, \
        renamed or given another type with a major version only; new ones may come at a view's end. The tables of \
        [`defender`](#defender) may change with any release; [a picture](tables.svg) shows how they are related.\n"
        .to_owned();
    for (schema, kind) in [("reporting", "views"), ("defender", "tables")] {
        write!(page, "\n# `{schema}`\nThe {kind}.\n").unwrap();
        for relation in relations(&mut connection, schema).await {
            let Relation { name, about, columns } = relation;
            write!(
                page,
                "\n## `{schema}.{name}`\n{about}.\n\n| column | type | meaning |\n|---|---|---|\n"
            )
            .unwrap();
            for Column { name, data_type, meaning, is_key } in columns {
                let key = if is_key { " (key)" } else { "" };
                writeln!(page, "| `{name}`{key} | {data_type} | {meaning} |").unwrap();
            }
        }
    }
    assert_current("docs/data/dictionary.md", &page);
}

#[tokio::test]
async fn tables_picture_equals_the_database() {
    let mut tables = relations(&mut connect().await, "defender").await;
    tables.retain(|table| table.columns.iter().any(|column| column.name == "tenant_id"));
    assert_current("docs/data/tables.svg", &Picture::of(&tables).svg());
}

const LINE: usize = 16;
const WIDTH: usize = 210;
const GAP: usize = 70;
const MOST_COLUMNS: usize = 9;
/// A line that goes behind a box comes out in the colour of the one that it began at.
const COLOURS: [&str; 5] = ["#bc4c00", "#1a7f37", "#0969da", "#57606a", "#8250df"];

/// Boxes in columns: what a table belongs to stands left of it.
struct Picture<'a> {
    tables: &'a [Relation],
    /// Left and top of each box.
    places: BTreeMap<&'a str, (usize, usize)>,
    /// From what a table belongs to, to the table.
    lines: Vec<(&'a str, &'a str)>,
    height: usize,
}

impl<'a> Picture<'a> {
    fn of(tables: &'a [Relation]) -> Self {
        let mut lines = Vec::new();
        for table in tables {
            let owners = tables.iter().filter(|owner| belongs(table, owner));
            let owners: Vec<&Relation> = owners.collect();
            // A tenant's incident's alert: the nearest arrow is enough.
            let nearest =
                owners.iter().filter(|owner| !owners.iter().any(|nearer| belongs(nearer, owner)));
            lines.extend(nearest.map(|owner| (owner.name.as_str(), table.name.as_str())));
        }
        let mut places = BTreeMap::new();
        let mut tops = BTreeMap::<usize, usize>::new();
        for table in tables {
            let depth = depth(&table.name, &lines);
            let top = tops.entry(depth).or_insert(20);
            places.insert(table.name.as_str(), (20 + depth * (WIDTH + GAP), *top));
            *top += height(table) + 24;
        }
        Self { tables, places, lines, height: tops.into_values().max().unwrap_or(0) }
    }

    fn svg(&self) -> String {
        let width = self.places.values().map(|(left, _)| left + WIDTH + 20).max().unwrap_or(0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{0}\" viewBox=\"0 0 {width} {0}\" \
             font-family=\"monospace\" font-size=\"12\">\n<title>The tables of the schema defender</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
            self.height
        );
        for (owner, table) in &self.lines {
            let ((left, top), (to, down)) = (self.places[owner], self.places[table]);
            let (from, middle, up, down) =
                (left + WIDTH, left + WIDTH + GAP / 2, top + LINE, down + LINE);
            writeln!(
                svg,
                "<path d=\"M{from} {up}C{middle} {up} {middle} {down} {to} {down}\" fill=\"none\" stroke=\"{}\"/>",
                self.colour(owner)
            )
            .unwrap();
        }
        for table in self.tables {
            self.draw(&mut svg, table);
        }
        svg + "</svg>\n"
    }

    fn colour(&self, owner: &str) -> &'static str {
        let mut owners: Vec<&str> = self.lines.iter().map(|(owner, _)| *owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
            .iter()
            .position(|name| *name == owner)
            .map_or("#000", |at| COLOURS[at % COLOURS.len()])
    }

    fn draw(&self, svg: &mut String, table: &Relation) {
        let (left, top) = self.places[table.name.as_str()];
        let (height, text) = (height(table), left + 8);
        writeln!(svg, "<rect x=\"{left}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{height}\" rx=\"4\" fill=\"#f6f8fa\" stroke=\"#57606a\"/>")
            .unwrap();
        let mut down = top + LINE + 2;
        writeln!(
            svg,
            "<text x=\"{text}\" y=\"{down}\" font-weight=\"bold\" fill=\"{}\">{}</text>",
            self.colour(&table.name),
            table.name
        )
        .unwrap();
        for column in table.columns.iter().take(MOST_COLUMNS) {
            down += LINE;
            let style = if column.is_key { " text-decoration=\"underline\"" } else { "" };
            writeln!(svg, "<text x=\"{text}\" y=\"{down}\"{style}>{}</text>", column.name).unwrap();
        }
        let more = table.columns.len().saturating_sub(MOST_COLUMNS);
        if more > 0 {
            let down = down + LINE;
            writeln!(
                svg,
                "<text x=\"{text}\" y=\"{down}\" fill=\"#57606a\">and {more} more</text>"
            )
            .unwrap();
        }
    }
}

fn height(table: &Relation) -> usize {
    let rows =
        table.columns.len().min(MOST_COLUMNS) + usize::from(table.columns.len() > MOST_COLUMNS);
    (rows + 1) * LINE + 12
}

/// Whether a row of `table` names one of `owner`: it has all columns of its key. A key belongs to the table that is named
/// like its last column: `alert_id` is the key of `alerts`.
fn belongs(table: &Relation, owner: &Relation) -> bool {
    let key: Vec<&str> = owner
        .columns
        .iter()
        .filter(|column| column.is_key)
        .map(|column| column.name.as_str())
        .collect();
    table.name != owner.name
        && key
            .last()
            .and_then(|last| last.strip_suffix("_id"))
            .is_some_and(|one| owner.name == format!("{one}s"))
        && key.iter().all(|part| table.columns.iter().any(|column| column.name == *part))
}

fn depth(table: &str, lines: &[(&str, &str)]) -> usize {
    let owners = lines.iter().filter(|(_, owned)| *owned == table);
    owners.map(|(owner, _)| 1 + depth(owner, lines)).max().unwrap_or(0)
}
