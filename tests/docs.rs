//! The documents agree with the code: configuration (by the sample, which the configuration's own tests compare with the
//! code), errors, metrics, log fields, the command line, invariants and their tests, and links.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chrono::DateTime;
use incident_sync::error::aadsts::KNOWN_CODES;
use incident_sync::error::{Peer, Retry, SyncError, TokenCheck};
use incident_sync::tenant::Source;

const ARCHITECTURE: &str = include_str!("../ARCHITECTURE.md");
const ERRORS: &str = include_str!("../docs/reference/errors.md");
const CLI: &str = include_str!("../docs/reference/cli.md");
const CONFIGURATION: &str = include_str!("../docs/reference/configuration.md");
const CONTRIBUTING: &str = include_str!("../CONTRIBUTING.md");
const INVARIANTS: &str = include_str!("../docs/development/invariants.md");
const FIELD_CASES: &str = include_str!("../docs/reference/field-cases.md");
const SUMMARY: &str = include_str!("../docs/SUMMARY.md");
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

/// The lines below a section's heading on the page of the configuration.
fn documented_section(section: &str) -> &'static str {
    let heading = if section.is_empty() {
        "\n## Top level\n".to_owned()
    } else {
        format!("\n## `{section}`\n")
    };
    let text = CONFIGURATION.split(&heading).nth(1);
    let text = text.unwrap_or_else(|| panic!("configuration.md has no heading for {section:?}"));
    text.split("\n## ").next().unwrap_or(text)
}

#[test]
fn every_sample_key_is_documented() {
    let keys = sample_keys();
    assert!(keys.len() > 25, "the sample was not understood: {keys:?}");
    for (section, key, _) in keys {
        let has_row = documented_section(section).contains(&format!("\n| `{key}` |"));
        assert!(has_row, "configuration.md lacks {section} {key}");
    }
}

#[test]
fn every_documented_key_is_in_the_sample() {
    let mut sections: Vec<&str> = sample_keys().into_iter().map(|(section, ..)| section).collect();
    sections.dedup();
    for section in sections {
        for row in documented_section(section).lines().filter_map(|line| line.strip_prefix("| `")) {
            let key = row.split('`').next().unwrap_or(row);
            assert!(SAMPLE.contains(key), "the sample lacks {section} {key}");
        }
    }
}

#[test]
fn documented_defaults_equal_the_sample() {
    let mut compared = 0;
    for (section, key, value) in sample_keys() {
        let cell = documented_section(section)
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
fn files_and_tests_named_in_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String =
        ["src", "tests", "simulator"].map(|folder| sources(&root.join(folder)).unwrap()).concat();
    let mut named = 0;
    let words = [ARCHITECTURE, CONTRIBUTING, INVARIANTS, FIELD_CASES]
        .into_iter()
        .flat_map(|text| text.split('`').skip(1).step_by(2));
    for word in words {
        let is_test = word.matches('_').count() >= 3
            && !word.starts_with("incident_sync_")
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        // The example of a name in CONTRIBUTING.md.
        if is_test && word != "tenants_dir_file_retried_after_read_failure" {
            assert!(code.contains(&format!("fn {word}(")), "there is no test {word}");
            named += 1;
        } else if ["src/", "simulator/", "tests/", "benches/", "scripts/", "systemd/"]
            .iter()
            .any(|folder| word.starts_with(folder))
        {
            let path = word.split(' ').next().unwrap_or(word);
            assert!(root.join(path).exists(), "there is no {path}");
            named += 1;
        }
    }
    assert!(named > 150, "only {named} names were found");
}

/// All Markdown files below a folder.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// Everything that people read: the pages of the book and the files beside it.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "migrations/README.md",
        "examples/README.md",
    ];
    let mut paths: Vec<PathBuf> = beside.into_iter().map(|name| root.join(name)).collect();
    paths.extend(pages(&root.join("docs")));
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a document is text")))
        .collect()
}

/// As GitHub and mdBook make them of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
}

#[test]
fn links_between_documents_have_targets() {
    let mut followed = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if !fragment.is_empty() {
                let linked = fs::read_to_string(&target).unwrap();
                let has_anchor =
                    linked.lines().any(|line| line.starts_with('#') && anchor(line) == fragment);
                assert!(has_anchor, "{}: no heading for {link}", path.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 150, "only {followed} links were followed");
}

#[test]
fn every_document_is_in_the_summary() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for page in pages(&docs) {
        let name = page.strip_prefix(&docs).unwrap().display().to_string();
        assert!(
            name == "SUMMARY.md" || SUMMARY.contains(&format!("]({name})")),
            "SUMMARY.md lacks {name}"
        );
    }
}

/// Begins the generated part of the page of the command line.
const GENERATED: &str =
    "<!-- The text below is generated: UPDATE=1 cargo test --test docs cli -->\n";

/// The short help of a command without the global options, and the names of its own commands.
fn help(command: &[String]) -> (String, Vec<String>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
    let done =
        program.args(command).arg("-h").env_remove("COLUMNS").output().expect("the binary starts");
    let text = String::from_utf8(done.stdout).expect("the help is text");
    let is_global = |line: &&str| {
        !command.is_empty()
            && ["-v, --verbose", "--log-format ", "--config ", "-h, --help"]
                .iter()
                .any(|option| line.trim_start().starts_with(option))
    };
    let lines: Vec<&str> =
        text.lines().filter(|line| !is_global(line)).map(str::trim_end).collect();
    let own = text
        .split("\nCommands:\n")
        .nth(1)
        .unwrap_or_default()
        .split("\n\n")
        .next()
        .unwrap_or_default();
    let names = own.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names =
        names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    (
        lines.join("\n").trim_end_matches("\n\nOptions:").trim_end().to_owned(),
        names.map(str::to_owned).collect(),
    )
}

/// The help of a command and of all below it, as Markdown.
fn reference(command: &[String]) -> String {
    let (text, below) = help(command);
    let name: Vec<&str> =
        std::iter::once("incident-sync").chain(command.iter().map(String::as_str)).collect();
    let mut page = format!("\n## `{}`\n```text\n{text}\n```\n", name.join(" "));
    for name in below {
        page += &reference(&[command, &[name]].concat());
    }
    page
}

#[test]
fn cli_page_equals_the_help() {
    let current = reference(&[]);
    assert!(current.matches("\n## ").count() > 20, "{current}");
    let (by_hand, generated) = CLI.split_once(GENERATED).expect("the page has its mark");
    if std::env::var_os("UPDATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/cli.md");
        fs::write(path, format!("{by_hand}{GENERATED}{current}")).unwrap();
        return;
    }
    assert!(
        generated == current,
        "docs/reference/cli.md is not current: UPDATE=1 cargo test --test docs cli"
    );
}

/// A row of `docs/reference/errors.md`: what one sees, in quotes, then the other cells.
fn error_rows() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    let rows =
        ERRORS.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| you see"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].split('`').skip(1).step_by(2).collect(), cells)).collect()
}

/// Who, when it is tried again, and class, in the words of `docs/reference/errors.md`.
fn judged(error: &SyncError) -> [&'static str; 3] {
    let diagnosis = error.diagnosis();
    let again = match diagnosis.retry {
        Retry::Now => "immediately",
        Retry::After(_) => "after the pause",
        Retry::WithNewToken => "new token",
        Retry::NextRun => "next run",
        Retry::OnceFixed => "hourly",
    };
    [diagnosis.owner.as_str(), again, diagnosis.class.as_str()]
}

fn entra(code: u32) -> SyncError {
    let (error, details) = (String::new(), Box::default());
    SyncError::Entra { status: 400, error, codes: vec![code], retry_after: None, details }
}

fn api(api: Source, status: u16, code: &str, token: TokenCheck) -> SyncError {
    let code = code.to_owned();
    let (target, names_licence) = (String::new(), false);
    SyncError::Api { api, status, code, target, retry_after: None, token, names_licence }
}

/// What begins with a code of Entra, of the API or of Postgres.
fn coded(seen: &str, cell: &str) -> Option<SyncError> {
    if let Some(code) = seen.strip_prefix("AADSTS") {
        return Some(entra(code.parse().expect("a number stands behind AADSTS")));
    }
    if let Some(class) = seen.strip_prefix("SQLSTATE ") {
        // A whole code, or the class.
        let (sqlstate, what) = (Some(format!("{class:0<5}")), String::new());
        return Some(SyncError::Database { step: "reading", sqlstate, what, fault: None });
    }
    let (status, word) = seen.split_once(' ').unwrap_or((seen, ""));
    let token = if cell.contains("token lacks") {
        TokenCheck::RoleMissing
    } else if cell.contains("token has") {
        TokenCheck::Valid
    } else {
        TokenCheck::Unreadable
    };
    let source = if cell.contains("Graph") { Source::Graph } else { Source::Defender };
    Some(api(source, status.parse().ok()?, word, token))
}

/// One of each kind of error that has no code.
fn uncoded() -> Vec<SyncError> {
    let peer = Peer::Defender;
    let text = String::new;
    let identity = |status| SyncError::ManagedIdentity { status, what: text() };
    vec![
        identity(400),
        identity(404),
        identity(410),
        identity(429),
        identity(503),
        SyncError::Assertion { what: "the assertion could not be signed" },
        SyncError::Proxy { peer, wants_password: true },
        SyncError::Proxy { peer, wants_password: false },
        SyncError::TokenReply { what: "" },
        SyncError::WrongTenant { token_tid: text() },
        SyncError::ApiReply { api: Source::Defender, what: text() },
        SyncError::TokenRejected {
            api: Source::Defender,
            code: text(),
            target: text(),
            request: Box::default(),
        },
        SyncError::ClockSkew { server: DateTime::UNIX_EPOCH, database: DateTime::UNIX_EPOCH },
        SyncError::BodyTooLarge { peer, bytes_max: 1 },
        SyncError::Redirected { peer, status: 302 },
        SyncError::Transport { peer, what: text(), fault: None },
        SyncError::Timeout { peer },
        SyncError::Transport { peer: Peer::ManagedIdentity, what: text(), fault: None },
        SyncError::Timeout { peer: Peer::ManagedIdentity },
        SyncError::ForeignNextLink { origin: text() },
        SyncError::ForeignIncident { incident_id: 1, uri_tid: text() },
        SyncError::SourceMismatch { api: Source::Graph, incident_id: Some(1), what: "" },
        SyncError::UnstableListing { window: text() },
        SyncError::EndlessListing { window: text() },
        SyncError::PartialAlerts,
        SyncError::Schema { what: text() },
        SyncError::Paused { wait: Duration::from_secs(9) },
        SyncError::StalePlan { step: "reading" },
        SyncError::LostCommit,
        SyncError::StateOutOfBounds { columns: text() },
        SyncError::LeaseLost,
        SyncError::CredentialBreaker { code: 7_000_215 },
        SyncError::ApiRetired { api: Source::Defender },
        SyncError::ApiInDoubt { api: Source::Defender, status: 410 },
        SyncError::EntraHold { left: Duration::from_secs(9) },
        SyncError::Stopped,
        SyncError::Panicked { what: text() },
    ]
}

#[test]
fn errors_page_equals_the_diagnoses_of_the_code() {
    let uncoded = uncoded();
    let mut compared = 0;
    for (seen, cells) in error_rows() {
        assert_eq!(cells.len(), 6, "{cells:?}");
        let documented = [cells[2], cells[4], cells[5]];
        for seen in seen.iter().filter(|seen| !seen.contains("Incident.")) {
            let has_text = |error: &&SyncError| error.to_string().contains(seen);
            let error = coded(seen, cells[0]).or_else(|| uncoded.iter().find(has_text).cloned());
            let error = error.unwrap_or_else(|| {
                panic!("docs/reference/errors.md has {seen}, which is in no error")
            });
            assert_eq!(judged(&error), documented, "docs/reference/errors.md, {seen}");
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
fn errors_page_has_every_error_exactly_once() {
    let seen: Vec<&str> = error_rows().into_iter().flat_map(|(seen, _)| seen).collect();
    let codes: Vec<u32> = KNOWN_CODES.iter().flat_map(|known| known.codes).copied().collect();
    assert!(codes.len() > 70, "{}", codes.len());
    for code in codes {
        let name = format!("AADSTS{code}");
        assert_eq!(
            seen.iter().filter(|seen| **seen == name).count(),
            1,
            "docs/reference/errors.md, {name}"
        );
    }
    for name in seen.iter().filter(|seen| seen.starts_with("AADSTS")) {
        let code = name["AADSTS".len()..].parse().unwrap();
        assert!(
            KNOWN_CODES.iter().any(|known| known.codes.contains(&code)),
            "docs/reference/errors.md has {name}, which has no advice"
        );
    }
    for name in API_ERRORS {
        assert!(seen.contains(&name), "docs/reference/errors.md lacks {name}");
    }
    for error in uncoded() {
        let text = error.to_string();
        assert!(
            seen.iter().any(|seen| text.contains(seen)),
            "docs/reference/errors.md lacks: {text}"
        );
    }
}

const METRICS_AND_LOGS: &str = include_str!("../docs/reference/metrics-and-logs.md");
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
fn documents_name_every_metric_and_no_other() {
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
    let documents = documents();
    let pages = documents.iter().map(|(path, text)| (path.to_str().unwrap(), text.as_str()));
    for (name, text) in [("alerts", ALERTS), ("dashboard", OPERATION)].into_iter().chain(pages) {
        let unknown: Vec<&str> = metrics_in(text).difference(&recorded).copied().collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

const EVENTS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "$level"];

/// The names of the fields of each event or span in a source file.
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
fn every_log_field_is_documented() {
    let source = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let mut fields = fields_in(&source, &EVENTS);
    fields.retain(|name| name != "failpoint"); // Of tests only.
    assert!(
        fields.len() > 20 && fields.contains("tenant.id") && fields.contains("duration_ms"),
        "{fields:?}"
    );
    fields.extend(["timestamp", "level", "message"].map(str::to_owned));
    assert_eq!(names_of_rows("| field | means |", 1), fields);
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
