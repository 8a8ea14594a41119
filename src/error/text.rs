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
