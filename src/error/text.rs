//! Text of other systems, made safe for the log, the terminal and Postgres.

use std::ops::RangeInclusive;

/// A text of another system for a line of the log or a column of Postgres: at most 80 visible characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).take(80).collect()
}

/// A text without invisible characters, such as a path for the terminal.
pub(crate) fn visible(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).collect()
}

/// Control characters and those that break lines, reverse the following text or are invisible: Unicode's categories Cc, Cf, Zl
/// and Zp.
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_control()
        || FORMAT.iter().any(|range| range.contains(&c))
        || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The category Cf. Source: Unicode 17, `DerivedGeneralCategory.txt`.
const FORMAT: [RangeInclusive<char>; 21] = [
    '\u{ad}'..='\u{ad}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{2064}',
    '\u{2066}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0001}'..='\u{e0001}',
    '\u{e0020}'..='\u{e007f}',
];

/// The first sentence of Entra's description of an error, without what may be a secret, an id or a name: quoted text, GUIDs,
/// addresses and long words.
pub(crate) fn first_sentence(description: &str) -> String {
    const CHARS_MAX: usize = 160;
    let text: String =
        description.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let text = visible(text.split("Trace ID:").next().unwrap_or_default());
    let text = text.trim();
    let text = match text.strip_prefix("AADSTS").and_then(|rest| rest.split_once(':')) {
        Some((code, rest)) if code.bytes().all(|byte| byte.is_ascii_digit()) => rest.trim_start(),
        _ => text,
    };
    let sentence = text.find(". ").map_or(text, |end| &text[..end]);
    let unquoted = without_quoted(sentence.trim_end_matches('.'));
    let words: Vec<&str> =
        unquoted.split(' ').map(|word| if may_identify(word) { "..." } else { word }).collect();
    words.join(" ").chars().take(CHARS_MAX).collect()
}

/// The numbers behind `AADSTS` in a description.
pub(crate) fn codes_in(description: &str) -> Vec<u32> {
    let numbers = description.split("AADSTS").skip(1);
    let digits = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().ok()
    };
    numbers.filter_map(digits).collect()
}

/// An apostrophe between letters is no quotation mark. A quotation that does not end is left out with all that follows it.
fn without_quoted(text: &str) -> String {
    const MARKS: [(char, char); 5] =
        [('\'', '\''), ('"', '"'), ('`', '`'), ('\u{2018}', '\u{2019}'), ('\u{201c}', '\u{201d}')];
    let mut kept = String::new();
    let mut end = None;
    let mut before = ' ';
    for c in text.chars() {
        let opened = MARKS.iter().find(|(open, _)| *open == c && !before.is_alphanumeric());
        match end {
            Some(mark) if c == mark => end = None,
            Some(_) => {}
            None if opened.is_some() => {
                end = opened.map(|(_, close)| *close);
                kept.push_str("...");
            }
            None => kept.push(c),
        }
        before = c;
    }
    kept
}

fn may_identify(word: &str) -> bool {
    const LONGEST_WORD: usize = 24;
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
    bare.contains('@')
        || bare.chars().count() > LONGEST_WORD
        || bare.parse::<std::net::IpAddr>().is_ok()
        // A domain name.
        || bare.contains('.')
}

/// The message of a panic up to its first quotation, which may be a customer's text: the message about a slice within a character
/// quotes the string.
pub(crate) fn panic_message(text: &str) -> &str {
    text.split(['`', '"', '\'']).next().unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_shown_without_invisible_chars() {
        let said = "a\u{202e}gnp.\u{2028}e\u{2029}x\u{200b}e\u{feff}\u{ad}\u{2066}\u{e0041}\u{1b}[31m\u{85}\r\n";
        assert_eq!(
            (shown(said), visible(said)),
            ("agnp.exe[31m".to_owned(), "agnp.exe[31m".to_owned())
        );
        let text = "Größe 字 \u{e9} \u{301} 😀";
        assert_eq!(shown(text), text);
        assert_eq!((shown(&"x".repeat(99)).len(), visible(&"x".repeat(99)).len()), (80, 99));
        assert!(FORMAT.is_sorted_by(|a, b| a.end() < b.start()));
    }

    #[test]
    fn first_sentence_holds_no_secret_or_id() {
        for (description, expected) in [
            (
                "AADSTS5000225: This tenant has been blocked due to inactivity. To learn more, see https://aka.ms/x. Trace ID: 0000",
                "This tenant has been blocked due to inactivity",
            ),
            ("AADSTS1: stands for Entra's sentence. Trace ID: 0", "stands for Entra's sentence"),
            (
                "AADSTS7000215: Invalid client secret 'abc~def' for app 00000000-1111-4222-8333-444444444444\r\nTrace ID: 1",
                "Invalid client secret ... for app ...",
            ),
            (
                "User jane@contoso.com of contoso.com at 203.0.113.7 failed.",
                "User ... of ... at ... failed",
            ),
            ("The 'unfinished quotation with a secret", "The ..."),
            ("", ""),
        ] {
            assert_eq!(first_sentence(description), expected, "{description}");
        }
        assert_eq!(first_sentence(&"ab ".repeat(999)).len(), 160);
    }

    #[test]
    fn panic_message_is_cut_before_quoted_text() {
        let title = "\u{e9}: a customer's incident".to_owned();
        let panic = std::panic::catch_unwind(|| title[1..].len()).unwrap_err();
        let said = panic.downcast_ref::<String>().unwrap();
        assert!(said.contains("customer"), "this is why: {said}");
        assert!(
            panic_message(said).contains("char boundary")
                && !panic_message(said).contains("customer")
        );
    }
}
