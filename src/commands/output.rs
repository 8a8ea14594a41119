//! Printing: tables for people, JSON for scripts.

use std::fmt::Display;
use std::io::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use console::Term;
use serde_json::Value;

use crate::commands::exit::Failure;

/// Sentences wrap at this width, or at that of a narrower terminal.
const TABLE_WIDTH: u16 = 150;
/// Nothing can be read below this width.
const NARROWEST: u16 = 40;

/// Prints the value as JSON, or the text.
pub fn print(json: bool, value: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if json { print_line(format_args!("{value:#}")) } else { print_line(text()) }
}

pub fn print_line(text: impl Display) -> Result<(), Failure> {
    write_result(writeln!(std::io::stdout(), "{text}"))
}

/// The result of writing to standard output. A closed reader, such as `head`, is not a failure.
pub fn write_result(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::NotDone(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The width of the terminal, or `$COLUMNS`, or what tables may take.
pub fn width() -> u16 {
    let terminal = Term::stdout().size_checked().map(|(_, columns)| columns);
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal.or_else(columns).map_or(TABLE_WIDTH, |columns| columns.clamp(NARROWEST, TABLE_WIDTH))
}

/// A table with these columns and the borders of all commands.
pub fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width());
    table.set_header(header);
    table
}
