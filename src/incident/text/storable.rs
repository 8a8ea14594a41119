//! What Postgres cannot store, replaced.

use std::borrow::Cow;

/// The text of an incident with what Postgres cannot store replaced by U+FFFD: `\u0000` and lone surrogates.
pub fn storable(raw: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memmem::find(raw.as_bytes(), b"\\u") else {
        return Cow::Borrowed(raw);
    };
    let mut clean = String::new();
    let mut copied = 0;
    let mut at = first.saturating_sub(preceding_backslashes(raw, first));
    while let Some(found) = memchr::memchr(b'\\', &raw.as_bytes()[at..]) {
        at += found;
        let width = match escape_at(raw, at) {
            Escape::Fine { width } => width,
            Escape::Unstorable { width } => {
                clean.push_str(&raw[copied..at]);
                clean.push_str("\\ufffd");
                copied = at + width;
                width
            }
        };
        at = (at + width).min(raw.len());
    }
    if copied == 0 {
        return Cow::Borrowed(raw);
    }
    clean.push_str(&raw[copied..]);
    Cow::Owned(clean)
}

fn preceding_backslashes(raw: &str, at: usize) -> usize {
    raw.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\').count()
}

enum Escape {
    Fine { width: usize },
    Unstorable { width: usize },
}

fn escape_at(raw: &str, at: usize) -> Escape {
    let unit = |at: usize| {
        let digits = raw.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    match unit(at) {
        Some(0 | 0xdc00..=0xdfff) => Escape::Unstorable { width: 6 },
        Some(0xd800..=0xdbff) => match unit(at + 6) {
            Some(0xdc00..=0xdfff) => Escape::Fine { width: 12 },
            _ => Escape::Unstorable { width: 6 },
        },
        Some(_) => Escape::Fine { width: 6 },
        None => Escape::Fine { width: 2 },
    }
}
