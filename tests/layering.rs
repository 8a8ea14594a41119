//! Imports go downwards only, and no files import each other in a circle. A single crate has no walls inside, so the layers
//! are read from the source text.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From top to bottom. A module imports modules of lower rows only; those of one row do not know each other.
const LAYERS: [&[&str]; 10] = [
    &["commands"],
    &["daemon", "doctor"],
    &["context", "telemetry"],
    &["sync"],
    &["store", "config"],
    &["api"],
    &["entra"],
    &["incident", "http_client", "postgres"],
    &["error"],
    &["tenant", "failpoint"],
];

/// `src/` itself: the modules above, `lib.rs` and `main.rs`.
const ENTRIES_MAX: usize = 18;

/// The code of each module of the library, without comments, strings and tests.
struct Sources {
    code: BTreeMap<String, String>,
}

impl Sources {
    fn load() -> Self {
        let mut code = BTreeMap::new();
        read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut code);
        let tests: Vec<String> = code
            .iter()
            .flat_map(|(module, text)| {
                test_modules(text).into_iter().map(move |name| join(module, &name))
            })
            .collect();
        code.retain(|module, _| {
            !tests.iter().any(|test| module == test || module.starts_with(&format!("{test}::")))
        });
        assert!(code.len() > 60, "only {} modules were found", code.len());
        for text in code.values_mut() {
            let end = text.find("#[cfg(test)]").unwrap_or(text.len());
            text.truncate(end);
        }
        Self { code }
    }

    /// The modules that a module names by `crate::` or `super::`, itself and its ancestors left out.
    fn imports(&self, module: &str) -> BTreeSet<&str> {
        let paths =
            paths(&self.code[module]).into_iter().filter_map(|path| absolute(module, &path));
        let known = paths.filter_map(|path| self.longest_known(&path));
        known
            .filter(|known| *known != module && !module.starts_with(&format!("{known}::")))
            .collect()
    }

    /// The module that a path leads into, which may end in an item.
    fn longest_known(&self, path: &[String]) -> Option<&str> {
        (1..=path.len()).rev().find_map(|length| {
            let (module, _) = self.code.get_key_value(&path[..length].join("::"))?;
            Some(module.as_str())
        })
    }
}

fn read_folder(folder: &Path, module: &str, code: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            read_folder(&path, &join(module, &name), code);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            let own = if matches!(name.as_str(), "mod" | "lib") {
                module.to_owned()
            } else {
                join(module, &name)
            };
            code.insert(own, without_comments_and_strings(&fs::read_to_string(path).unwrap()));
        }
    }
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

/// Names of the modules in files of their own that are there for tests only.
fn test_modules(code: &str) -> Vec<String> {
    let parts = code.split("#[cfg(test)]").skip(1);
    let declared = parts.filter_map(|part| part.split_once("mod ")?.1.split_once([';', '{']));
    declared.map(|(name, _)| name.trim().to_owned()).collect()
}

fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            raw_string(rest)
        } else if character == '"' {
            string(rest)
        } else if character == '\'' {
            character_literal(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(character);
            rest = &rest[character.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length of the string that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Length of the raw string that begins here; 0 for a raw identifier.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|character| *character == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let from = hashes + 2;
    text[from..].find(&end).map_or(text.len(), |at| from + at + end.len())
}

/// Length of a character literal; 0 for a lifetime.
fn character_literal(text: &str) -> usize {
    let inner = &text[1..];
    if inner.starts_with('\\') {
        return inner[2..].find('\'').map_or(0, |at| at + 4);
    }
    let first = inner.chars().next().map_or(0, char::len_utf8);
    if inner[first..].starts_with('\'') { first + 2 } else { 0 }
}

/// Every path that begins with `crate` or `super`, the branches of a `use` one by one.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|before| !is_name(before) && before != ':') {
                branch(&code[at..], &[], &mut found);
            }
        }
    }
    found
}

/// Reads one branch of a tree of paths, and answers what follows it.
fn branch<'a>(code: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = prefix.to_vec();
    let mut rest = code.trim_start();
    loop {
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                inner = branch(inner, &path, found).trim_start();
                match inner.strip_prefix(',') {
                    Some(more) => inner = more.trim_start(),
                    None => return inner.strip_prefix('}').unwrap_or(inner),
                }
            }
        }
        let length = rest
            .find(|character: char| !character.is_alphanumeric() && character != '_')
            .unwrap_or(rest.len());
        if length == 0 {
            break;
        }
        path.push(rest[..length].to_owned());
        rest = &rest[length..];
        match rest.strip_prefix("::") {
            Some(more) => rest = more.trim_start(),
            None => break,
        }
    }
    found.push(path);
    // An alias, or `*`.
    let end = rest.find([',', '}', ';']).unwrap_or(rest.len());
    &rest[end..]
}

/// A path from the root of the crate.
fn absolute(module: &str, path: &[String]) -> Option<Vec<String>> {
    if path.first()? == "crate" {
        return Some(path[1..].to_vec());
    }
    let supers = path.iter().take_while(|name| *name == "super").count();
    let base: Vec<String> = module.split("::").map(str::to_owned).collect();
    let kept = base.len().checked_sub(supers)?;
    Some([&base[..kept], &path[supers..]].concat())
}

fn layer(top: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&top));
    found.unwrap_or_else(|| panic!("src/{top} has no place in LAYERS"))
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

#[test]
fn modules_import_lower_layers_only() {
    let sources = Sources::load();
    let mut wrong = BTreeSet::new();
    for module in sources.code.keys().filter(|module| !module.is_empty()) {
        let here = top(module);
        let imported = sources.imports(module).into_iter().map(top).filter(|there| *there != here);
        wrong.extend(
            imported
                .filter(|there| layer(there) <= layer(here))
                .map(|there| (module.as_str(), there)),
        );
    }
    assert_eq!(wrong, BTreeSet::new());
}

/// Network and database meet in `incident` only.
#[test]
fn store_imports_nothing_of_defender() {
    let sources = Sources::load();
    let modules = sources.code.keys().filter(|module| top(module) == "store");
    let wrong: Vec<&String> = modules
        .filter(|module| sources.imports(module).into_iter().any(|there| top(there) == "defender"))
        .collect();
    assert_eq!(wrong, Vec::<&String>::new());
}

#[test]
fn only_the_demo_imports_the_simulator() {
    let sources = Sources::load();
    let users: Vec<&str> = sources
        .code
        .iter()
        .filter(|(_, code)| code.contains("use simulator::") || code.contains(" simulator::"))
        .map(|(module, _)| module.as_str())
        .collect();
    assert_eq!(users, ["commands::demo", "commands::demo::simulate"]);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = Sources::load();
    let edges: BTreeMap<&str, BTreeSet<&str>> =
        sources.code.keys().map(|module| (module.as_str(), sources.imports(module))).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|module| (*module, reachable(module, &edges))).collect();
    let mut circles = BTreeSet::new();
    for module in edges.keys().filter(|module| reached[**module].contains(**module)) {
        let others = reached[module].iter().filter(|other| reached[**other].contains(module));
        circles.insert(others.copied().collect::<Vec<&str>>());
    }
    assert_eq!(circles, BTreeSet::new());
}

/// Every module that imports lead to; the module itself only by a circle.
fn reachable<'a>(from: &str, edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = edges[from].iter().copied().collect();
    while let Some(module) = open.pop() {
        if reached.insert(module) {
            open.extend(&edges[module]);
        }
    }
    reached
}

#[test]
fn src_has_few_entries() {
    let entries: BTreeSet<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(entries.len() <= ENTRIES_MAX, "{} entries: {entries:?}", entries.len());
}
