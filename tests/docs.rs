//! What the README says of the configuration is what the sample says, which the configuration's own tests hold to the
//! code.

use std::fs;
use std::io;
use std::path::Path;

const ARCHITECTURE: &str = include_str!("../ARCHITECTURE.md");
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
        assert!(readme_section(section).contains(&format!("\n| `{key}` |")), "README.md lacks {section} {key}");
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
        let cell =
            readme_section(section).split(&format!("\n| `{key}` | ")).nth(1).and_then(|row| row.split(" |").next());
        // Only a default that is a plain value can be compared.
        let plain = cell.and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`')).filter(|cell| !cell.contains('`'));
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
    let code = sources(&root.join("src")).unwrap() + &sources(&root.join("tests")).unwrap();
    let mut named = 0;
    let words = [ARCHITECTURE, PROMISES].into_iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    for word in words {
        let is_test = word.matches('_').count() >= 3
            && !word.starts_with("incident_sync_")
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_test {
            assert!(code.contains(&format!("fn {word}(")), "there is no test {word}");
            named += 1;
        } else if ["src/", "tests/", "benches/", "scripts/", "systemd/"].iter().any(|folder| word.starts_with(folder)) {
            assert!(root.join(word).exists(), "there is no {word}");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} names were found");
}
