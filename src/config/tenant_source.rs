//! The key `source` in a tenant's own file, changed without a change to any other byte.

use config::{FileFormat, Map, Source as _, Value};

use crate::tenant::Source;

/// Keys that name an address of one source.
const ADDRESSES: [&str; 2] = ["base_url", "scope"];

/// The text of a tenant's file with this source; the error says why it must be changed by hand.
pub fn with_source(text: &str, source: Source) -> Result<String, String> {
    let before = parse(text)?;
    let edited = match own_source(text) {
        Some((from, to)) => format!("{}\"{}\"{}", &text[..from], source.as_str(), &text[to..]),
        None => inserted(text, source),
    };
    // A line inside a text of several lines may look like the key: only the parser knows.
    let is_exact = parse(&edited).is_ok_and(|mut after| {
        let is_set = after
            .remove("source")
            .is_some_and(|value| value.into_string().is_ok_and(|name| name == source.as_str()));
        let rest = before.into_iter().filter(|(key, _)| key != "source").collect();
        is_set && after == rest
    });
    if is_exact {
        return Ok(edited);
    }
    Err(format!("its lines cannot be changed safely; set source = \"{}\" by hand", source.as_str()))
}

/// The addresses that the file sets itself, as key and value.
pub fn own_addresses(text: &str) -> Vec<(&'static str, String)> {
    let Ok(mut keys) = parse(text) else { return Vec::new() };
    let own = |key| Some((key, keys.remove(key)?.into_string().ok()?));
    ADDRESSES.into_iter().filter_map(own).collect()
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    // The parser's message may quote a line with a secret.
    config::File::from_str(text, FileFormat::Toml)
        .collect()
        .map_err(|_| "it is not valid TOML; see incident-sync config check".to_owned())
}

/// The lines before the first table, with their positions.
fn top_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    let lines = text.split_inclusive('\n').map(move |line| {
        at += line.len();
        (at - line.len(), line)
    });
    lines.take_while(|(_, line)| !line.trim_start().starts_with('['))
}

/// Where the value of the key stands, with its quotes.
fn own_source(text: &str) -> Option<(usize, usize)> {
    top_lines(text).find_map(|(at, line)| {
        let rest = line.trim_start().strip_prefix("source")?.trim_start().strip_prefix('=')?;
        let value = rest.trim_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let length = value[1..].find(quote)? + 2;
        let from = at + line.len() - value.len();
        Some((from, from + length))
    })
}

/// A line with the key after the last key before the first table.
fn inserted(text: &str, source: Source) -> String {
    let is_key = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let keys = top_lines(text).filter(|(_, line)| is_key(line));
    let at = keys.last().map_or(0, |(at, line)| at + line.len());
    let (before, after) = text.split_at(at);
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { end };
    format!("{before}{gap}source = \"{}\"{end}{after}", source.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: &str = "# Contoso\r\nid = \"1\" # theirs\r\nname = 'Contoso'\r\n\r\n# billing\r\n[labels]\r\nsource = \"crm\"\r\n";

    #[test]
    fn source_is_added_before_the_first_table() {
        let expected = OTHERS.replace("'Contoso'\r\n", "'Contoso'\r\nsource = \"graph\"\r\n");
        assert_eq!(with_source(OTHERS, Source::Graph).unwrap(), expected);
        assert_eq!(
            with_source("id = \"1\"", Source::Graph).unwrap(),
            "id = \"1\"\nsource = \"graph\"\n"
        );
        assert_eq!(
            with_source("# c\n[labels]\na = \"b\"\n", Source::Graph).unwrap(),
            "source = \"graph\"\n# c\n[labels]\na = \"b\"\n"
        );
    }

    #[test]
    fn source_is_replaced_with_its_comment_kept() {
        for line in ["source = \"graph\" # since May\n", "  source='graph'# since May\n"] {
            let text = format!("id = \"1\"\n{line}name = \"x\"\n");
            let expected =
                text.replace("\"graph\"", "\"defender\"").replace("'graph'", "\"defender\"");
            assert_eq!(with_source(&text, Source::Defender).unwrap(), expected);
        }
    }

    #[test]
    fn text_that_only_looks_like_the_key_is_refused_or_kept() {
        let hidden = "id = \"1\"\nname = \"\"\"\nsource = \"graph\"\n\"\"\"\n";
        assert!(with_source(hidden, Source::Defender).is_err());
        let array = "id = \"1\"\nretention = [\n[1],\n]\n";
        assert!(with_source(array, Source::Graph).map_or(true, |text| text.contains("[1]")));
        assert!(with_source("id = ", Source::Graph).is_err());
        assert!(with_source("\"source\" = \"graph\"\n", Source::Defender).is_err());
    }

    #[test]
    fn own_addresses_are_found_at_top_level_only() {
        let text = "base_url = \"https://a/\"\n[labels]\nscope = \"x\"\n";
        assert_eq!(own_addresses(text), [("base_url", "https://a/".to_owned())]);
    }
}
