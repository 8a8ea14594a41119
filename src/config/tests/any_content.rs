//! Files and environments of any content.

use fastrand::Rng;

use super::*;
use crate::mutate::{each_seed, garbled, pick};

/// The sample with every setting active, a secret in every suitable place, and the files that it names.
fn everything() -> (Etc, String) {
    let is_setting = |line: &str| {
        line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
    };
    let settings = SAMPLE.lines().filter_map(|line| match line.strip_prefix('#') {
        Some(setting) if is_setting(line) => Some(setting),
        Some(_) => None,
        None => Some(line),
    });
    let text = settings.collect::<Vec<&str>>().join("\n");
    let text =
        text.replace("postgres://incident_sync@", &format!("postgres://incident_sync:{CANARY}@"));
    let text = text
        .replace("password_file", "#password_file")
        .replace("client_secret_file =", "#client_secret_file =");
    let text = text.replace("name = ", &format!("client_secret = \"{CANARY}\"\nname = "));
    let etc =
        Etc::with(&text).file("postgres-ca.pem", "").file("tenants.d/readme.md", "not a tenant");
    etc.good();
    (etc, text)
}

/// Free text that is shown unchanged, so no place for a secret.
const SHOWN: [&str; 7] =
    ["name", "labels", "scope", "tenants_dir", "sslrootcert", "embedded_dir", "postgres_bin"];

/// Breaks a few lines. None of the values is valid for every key.
fn break_lines(text: &str, random: &mut Rng) -> String {
    const VALUES: [&str; 30] = [
        "''",
        "'x'",
        "0",
        "-1",
        "1",
        "99999999999999999999",
        "1e400",
        "nan",
        "true",
        "[]",
        "[[1]]",
        "{}",
        "{ a = 1 }",
        "{ a = 'b', c = { d = 1 } }",
        "2026-01-01T00:00:00Z",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "'''a\nb'''",
        "'10m'",
        "'99999999999999999y'",
        "'0s'",
        "'0 0 0 31 2 *'",
        "'0-59/99 * * * * *'",
        "'* * * * * *'",
        "'postgres://u:CANARY@h/x?password=CANARY'",
        "'https://user:CANARY@example.com/CANARY'",
        "'CANARY'",
        "CANARY",
        "\"CANARY",
        "\"CANARY\\n\"",
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..1 + random.usize(..4) {
        let at = random.usize(..lines.len());
        let other = random.usize(..lines.len());
        let key = lines[at].split('=').next().unwrap_or_default().to_owned();
        match random.usize(..8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[other].clone()),
            2 => lines.swap(at, other),
            // Without its colon, a password would be part of the user name, which is shown.
            3 if !lines[at].contains(CANARY) => lines[at] = garbled(&lines[at], random),
            4 => {
                let middle = key.char_indices().nth(key.chars().count() / 2);
                lines[at].insert(middle.map_or(0, |(byte, _)| byte), 'x');
            }
            5 => lines[at] = lines[at].replace(['"', '\''], ""),
            _ if lines[at].contains('=') => {
                let content = if SHOWN.contains(&key.trim()) { "" } else { CANARY };
                lines[at] = format!("{key}= {}", pick(random, &VALUES).replace("CANARY", content));
            }
            _ => {}
        }
    }
    lines.join("\n")
}

#[test]
fn any_file_is_valid_or_rejected_without_secrets() {
    let (etc, text) = everything();
    let path = etc.dir.path().join("incident-sync.toml");
    let mut good = 0;
    let mut rejected = 0;
    each_seed(500, |seed| {
        let mut random = Rng::with_seed(seed);
        fs::write(&path, break_lines(&text, &mut random)).unwrap();
        let output = match etc.load() {
            Ok(config) => {
                good += 1;
                format!("{config:?} {}", config.warnings.join("\n"))
            }
            Err(errors) => {
                rejected += 1;
                assert!(!errors.0.is_empty());
                for error in &errors.0 {
                    assert_eq!(error.file, path.display().to_string(), "{error:?}");
                    assert!(!error.problem.is_empty(), "{error:?}");
                    assert!(
                        !error.key.is_empty() || errors.0.len() == 1,
                        "no key is named: {error:?}"
                    );
                }
                errors.to_string()
            }
        };
        assert!(!output.contains(CANARY), "{output}");
    });
    assert!(good + rejected == 1 || good > 0 && rejected > 0, "{good} valid, {rejected} rejected");
}

#[test]
fn any_environment_is_valid_or_rejected_safely() {
    let (etc, text) = everything();
    let mut section = "";
    let mut names = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('[') {
            Some(rest) => section = rest.trim_matches(['[', ']']),
            None => names
                .extend(line.split_once('=').map(|(key, _)| format!("{section}__{}", key.trim()))),
        }
    }
    each_seed(300, |seed| {
        let mut random = Rng::with_seed(seed);
        let mut environment = Variables::new();
        for _ in 0..1 + random.usize(..4) {
            let key = names[random.usize(..names.len())].trim_start_matches("__").to_uppercase();
            let key = if random.usize(..6) == 0 { garbled(&key, &mut random) } else { key };
            let is_shown = SHOWN.iter().any(|shown| key.ends_with(&shown.to_uppercase()));
            let content = if is_shown { "shown" } else { CANARY };
            let values = [
                "",
                "x",
                "0",
                "-1",
                "9999999999",
                "true",
                "10m",
                "0 0 0 * * *",
                content,
                "\u{0}",
                "\n",
            ];
            environment
                .insert(format!("INCIDENT_SYNC__{key}"), pick(&mut random, &values).to_owned());
        }
        let output =
            match load_with(Some(&etc.dir.path().join("incident-sync.toml")), None, &environment) {
                Ok(config) => format!("{config:?} {}", config.warnings.join("\n")),
                Err(errors) => {
                    assert!(
                        errors
                            .0
                            .iter()
                            .all(|error| !error.file.is_empty() && !error.key.is_empty()),
                        "{errors:?}"
                    );
                    errors.to_string()
                }
            };
        assert!(!output.contains(CANARY), "{output}");
    });
}
