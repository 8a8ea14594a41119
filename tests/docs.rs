//! What the README says of the configuration is what the sample says, which the configuration's own tests hold to the
//! code; and what the page of errors says is what the code judges.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use chrono::DateTime;
use incident_sync::error::aadsts::KNOWN_CODES;
use incident_sync::error::{Peer, Retry, SyncError};

const ARCHITECTURE: &str = include_str!("../ARCHITECTURE.md");
const ERRORS: &str = include_str!("../docs/errors.md");
const PROMISES: &str = include_str!("../docs/promises.md");
const README: &str = include_str!("../README.md");
const SAMPLE: &str = include_str!("../config/incident-sync.toml");

/// Section, key and value of each line of the sample that sets something, commented out or not.
fn sample_keys() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut section = "";
    let mut keys = Vec::new();
    for line in SAMPLE.lines() {
        let line = line.trim_start_matches('#').trim();
        if line.starts_with('[') && line.ends_with(']') {
            section = line;
        } else if let Some((key, value)) = line.split_once(" = ")
            && key.chars().all(|character| character.is_ascii_lowercase() || character == '_')
        {
            keys.push((section, key, value.trim_matches('"')));
        }
    }
    keys
}

/// The lines below the README's heading of a section; all lines for keys that stand in none.
fn readme_section(section: &str) -> &'static str {
    let heading = format!("\n### `{section}`\n");
    let text = if section.is_empty() { Some(README) } else { README.split(&heading).nth(1) };
    let text = text.unwrap_or_else(|| panic!("README.md has no heading for {section}"));
    text.split("\n##").next().unwrap_or(text)
}

#[test]
fn every_key_of_the_sample_is_in_the_readme() {
    let keys = sample_keys();
    assert!(keys.len() > 25, "the sample was not understood: {keys:?}");
    for (section, key, _) in keys.into_iter().filter(|(section, ..)| !section.is_empty()) {
        assert!(
            readme_section(section).contains(&format!("\n| `{key}` |")),
            "README.md lacks {section} {key}"
        );
    }
    assert!(README.contains("`tenants_dir` (top level"), "README.md lacks tenants_dir");
}

#[test]
fn every_key_of_the_readme_is_in_the_sample() {
    let mut sections: Vec<&str> = sample_keys().into_iter().map(|(section, ..)| section).collect();
    sections.dedup();
    for section in sections.into_iter().filter(|section| !section.is_empty()) {
        for row in readme_section(section).lines().filter_map(|line| line.strip_prefix("| `")) {
            let key = row.split('`').next().unwrap_or(row);
            assert!(SAMPLE.contains(key), "the sample lacks {section} {key}");
        }
    }
}

#[test]
fn the_readme_and_the_sample_show_the_same_defaults() {
    let mut compared = 0;
    for (section, key, value) in sample_keys() {
        let cell = readme_section(section)
            .split(&format!("\n| `{key}` | "))
            .nth(1)
            .and_then(|row| row.split(" |").next());
        // Only a default that is a plain value can be compared.
        let plain = cell
            .and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'))
            .filter(|cell| !cell.contains('`'));
        if let Some(default) = plain {
            assert_eq!(default, value, "{section} {key}");
            compared += 1;
        }
    }
    assert!(compared > 12, "only {compared} defaults were compared");
}

/// All Rust sources below a folder, as one text.
fn sources(folder: &Path) -> io::Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            text += &sources(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(path)?;
        }
    }
    Ok(text)
}

#[test]
fn the_files_and_tests_that_architecture_and_promises_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String =
        ["src", "tests", "simulator"].map(|folder| sources(&root.join(folder)).unwrap()).concat();
    let mut named = 0;
    let words =
        [ARCHITECTURE, PROMISES].into_iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    for word in words {
        let is_test = word.matches('_').count() >= 3
            && !word.starts_with("incident_sync_")
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_test {
            assert!(code.contains(&format!("fn {word}(")), "there is no test {word}");
            named += 1;
        } else if ["src/", "simulator/", "tests/", "benches/", "scripts/", "systemd/"]
            .iter()
            .any(|folder| word.starts_with(folder))
        {
            assert!(root.join(word).exists(), "there is no {word}");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} names were found");
}

/// A row of `docs/errors.md`: what one sees, in quotes, then the other cells.
fn error_rows() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    let rows =
        ERRORS.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| you see"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].split('`').skip(1).step_by(2).collect(), cells)).collect()
}

/// Who, when it is tried again, and class, in the words of `docs/errors.md`.
fn judged(error: &SyncError) -> [&'static str; 3] {
    let diagnosis = error.diagnosis();
    let again = match diagnosis.retry {
        Retry::Now => "at once",
        Retry::After(_) => "after the pause",
        Retry::WithNewToken => "new token",
        Retry::NextRun => "next run",
        Retry::OnceFixed => "hourly",
    };
    [diagnosis.owner.as_str(), again, diagnosis.class]
}

fn entra(code: u32) -> SyncError {
    let (error, trace_id) = (String::new(), String::new());
    SyncError::Entra { status: 400, error, codes: vec![code], trace_id, retry_after: None }
}

fn api(status: u16, code: &str, hint: &str) -> SyncError {
    let (code, hint) = (code.to_owned(), hint.to_owned());
    SyncError::Api { status, code, target: String::new(), retry_after: None, hint }
}

/// What begins with a code of Entra, of the API or of Postgres.
fn coded(seen: &str, cell: &str) -> Option<SyncError> {
    if let Some(code) = seen.strip_prefix("AADSTS") {
        return Some(entra(code.parse().expect("a number stands behind AADSTS")));
    }
    if let Some(class) = seen.strip_prefix("SQLSTATE ") {
        let (sqlstate, what) = (Some(format!("{class}000")), String::new());
        return Some(SyncError::Database { step: "reading", sqlstate, what });
    }
    let (status, word) = seen.split_once(' ').unwrap_or((seen, ""));
    let hint = if cell.contains("token lacks") {
        "; the token's roles lack Incident.Read.All"
    } else {
        ""
    };
    Some(api(status.parse().ok()?, word, hint))
}

/// One of each kind that has no code, besides those with one.
fn uncoded() -> Vec<SyncError> {
    let peer = Peer::Defender;
    let text = String::new;
    let identity = |status| SyncError::ManagedIdentity { status, what: text() };
    let proxy = |what: &str, wants_password| SyncError::Proxy {
        peer,
        what: what.to_owned(),
        wants_password,
    };
    vec![
        identity(400),
        identity(404),
        identity(410),
        identity(429),
        identity(503),
        SyncError::Assertion { what: "the assertion could not be signed" },
        proxy("407", true),
        proxy("it did not connect us", false),
        SyncError::TokenReply { what: "" },
        SyncError::WrongTenant { token_tid: text() },
        SyncError::ApiReply { what: text() },
        SyncError::ClockSkew { server: DateTime::UNIX_EPOCH, database: DateTime::UNIX_EPOCH },
        SyncError::BodyTooLarge { peer, bytes_max: 1 },
        SyncError::Redirected { peer, status: 302 },
        SyncError::Transport { peer, what: text() },
        SyncError::Timeout { peer },
        SyncError::Transport { peer: Peer::ManagedIdentity, what: text() },
        SyncError::Timeout { peer: Peer::ManagedIdentity },
        SyncError::ForeignNextLink { origin: text() },
        SyncError::ForeignIncident { incident_id: 1, uri_tid: text() },
        SyncError::UnstableListing { window: text() },
        SyncError::EndlessListing { window: text() },
        SyncError::Schema { what: text() },
        SyncError::Paused { wait: Duration::from_secs(9) },
        SyncError::LostCommit,
        SyncError::StateOutOfBounds { columns: text() },
        SyncError::LeaseLost,
        SyncError::CredentialBreaker { code: 7_000_215 },
        SyncError::EntraHold { left: Duration::from_secs(9) },
        SyncError::Stopped,
        SyncError::Panicked { what: text() },
    ]
}

#[test]
fn the_page_of_errors_says_of_each_what_the_code_judges() {
    let uncoded = uncoded();
    let mut compared = 0;
    for (seen, cells) in error_rows() {
        assert_eq!(cells.len(), 6, "{cells:?}");
        let told = [cells[2], cells[4], cells[5]];
        for seen in seen.iter().filter(|seen| !seen.starts_with("Incident.")) {
            let said = |error: &&SyncError| error.to_string().contains(seen);
            let error = coded(seen, cells[0]).or_else(|| uncoded.iter().find(said).cloned());
            let error =
                error.unwrap_or_else(|| panic!("docs/errors.md has {seen}, which nothing says"));
            assert_eq!(judged(&error), told, "docs/errors.md, {seen}");
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} were compared");
    let any_other =
        error_rows().into_iter().find(|(_, cells)| cells[0].starts_with("any other")).unwrap().1;
    assert_eq!(judged(&entra(1)), [any_other[2], any_other[4], any_other[5]]);
}

/// Those of Microsoft's page of error codes that this API answers with.
const API_ERRORS: [&str; 16] = [
    "400 BadRequest",
    "400 ODataError",
    "400 InvalidInput",
    "400 InvalidRequestBody",
    "400 MissingRequiredParameter",
    "401 Unauthorized",
    "403 Forbidden",
    "403 DisabledFeature",
    "403 DisallowedOperation",
    "404 NotFound",
    "404 ResourceNotFound",
    "429 TooManyRequests",
    "500 InternalServerError",
    "502",
    "503",
    "504",
];

#[test]
fn every_error_of_the_code_is_on_the_page_of_errors_once() {
    let seen: Vec<&str> = error_rows().into_iter().flat_map(|(seen, _)| seen).collect();
    let codes: Vec<u32> = KNOWN_CODES.iter().flat_map(|known| known.codes).copied().collect();
    assert!(codes.len() > 70, "{}", codes.len());
    for code in codes {
        let name = format!("AADSTS{code}");
        assert_eq!(seen.iter().filter(|seen| **seen == name).count(), 1, "docs/errors.md, {name}");
    }
    for name in seen.iter().filter(|seen| seen.starts_with("AADSTS")) {
        let code = name["AADSTS".len()..].parse().unwrap();
        assert!(
            KNOWN_CODES.iter().any(|known| known.codes.contains(&code)),
            "docs/errors.md has {name}, which has no sentence"
        );
    }
    for name in API_ERRORS {
        assert!(seen.contains(&name), "docs/errors.md lacks {name}");
    }
    for error in uncoded() {
        let said = error.to_string();
        assert!(seen.iter().any(|seen| said.contains(seen)), "docs/errors.md lacks: {said}");
    }
}

const METRICS_AND_LOGS: &str = include_str!("../docs/metrics-and-logs.md");
const ALERTS: &str = include_str!("../ops/prometheus-alerts.yml");
const OPERATION: &str = include_str!("../ops/grafana-operation.json");

/// What is called alike and is no metric: roles and a channel of the database.
const NO_METRICS: [&str; 5] = [
    "incident_sync_changes",
    "incident_sync_dispatcher",
    "incident_sync_reader",
    "incident_sync_tenant_reader",
    "incident_sync_writer",
];

/// Names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let is_part = |character: char| character.is_ascii_lowercase() || character == '_';
    let names = text
        .split(|character: char| !is_part(character))
        .filter(|name| name.starts_with("incident_sync_"));
    // A series of a histogram.
    let names = names.map(|name| name.strip_suffix("_bucket").unwrap_or(name));
    names.filter(|name| !name.ends_with('_') && !NO_METRICS.contains(name)).collect()
}

#[test]
fn every_metric_is_explained_and_alerts_and_dashboard_ask_for_no_other() {
    let source = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let recorded: BTreeSet<&str> = metrics_in(&source)
        .into_iter()
        .filter(|name| source.contains(&format!("\"{name}\"")))
        .collect();
    assert!(recorded.len() > 15, "{recorded:?}");
    let rows =
        METRICS_AND_LOGS.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let explained: BTreeSet<&str> =
        rows.filter(|name| name.starts_with("incident_sync_")).collect();
    assert_eq!(explained, recorded);
    for (name, text) in [("alerts", ALERTS), ("dashboard", OPERATION), ("README", README)] {
        let unknown: Vec<&str> = metrics_in(text).difference(&recorded).copied().collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

const EVENTS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "$level"];

/// The names of the fields of each event, or span, that a source tells.
fn fields_in(source: &str, macros: &[&str]) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for rest in source.split("tracing::").skip(1) {
        let Some((_, rest)) = rest.split_once("!(").filter(|(name, _)| macros.contains(name))
        else {
            continue;
        };
        let (mut depth, mut in_text, mut part, mut escaped) = (1, false, String::new(), false);
        for character in rest.chars() {
            match character {
                '"' if !escaped => in_text = !in_text,
                '(' | '[' | '{' if !in_text => depth += 1,
                ')' | ']' | '}' if !in_text => depth -= 1,
                _ => {}
            }
            escaped = in_text && character == '\\' && !escaped;
            if depth == 0 || depth == 1 && character == ',' && !in_text {
                fields.extend(field(&part));
                part.clear();
            } else if !in_text && depth == 1 {
                part.push(character);
            }
            if depth == 0 {
                break;
            }
        }
    }
    fields
}

/// `name = value`, or `name` alone.
fn field(part: &str) -> Option<String> {
    let name = part.split('=').next().unwrap_or(part).trim();
    let is_name =
        |character: char| character.is_ascii_lowercase() || character == '_' || character == '.';
    (!name.is_empty() && name.chars().all(is_name)).then(|| name.to_owned())
}

#[test]
fn every_field_of_the_log_is_explained() {
    let source = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let mut told = fields_in(&source, &EVENTS);
    told.retain(|name| name != "failpoint"); // Of tests only.
    assert!(
        told.len() > 20 && told.contains("tenant.id") && told.contains("duration_ms"),
        "{told:?}"
    );
    told.extend(["timestamp", "level", "message"].map(str::to_owned));
    assert_eq!(names_of_rows("| field | means |", 1), told);
}

#[test]
fn every_span_is_explained() {
    let source = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let spans = source.split("info_span!(").skip(1);
    let spans: BTreeSet<String> =
        spans.map(|rest| rest.split('"').nth(1).unwrap().to_owned()).collect();
    assert!(spans.len() > 3, "{spans:?}");
    let head = "| span | attributes | is |";
    assert_eq!(names_of_rows(head, 1), spans);
    let mut told = fields_in(&source, &["info_span"]);
    told.remove("otel.status_code"); // Becomes the status of the span.
    assert_eq!(names_of_rows(head, 2), told);
}

/// The names in one column of a table of the page.
fn names_of_rows(head: &str, column: usize) -> BTreeSet<String> {
    let table = METRICS_AND_LOGS.split(head).nth(1).unwrap_or_default();
    let rows = table
        .split("\n\n")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|line| line.split('|').nth(column));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}
