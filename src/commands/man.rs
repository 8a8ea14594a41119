//! Shell completions and man pages, made from the commands themselves so that they cannot fall behind.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

/// The completions of a shell, as text for standard output.
///
/// They are gathered in memory because a reader that has gone would make clap panic.
pub fn completions<C: CommandFactory>(shell: Shell) -> Vec<u8> {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    text
}

/// Writes a man page for the program and one for each of its commands into a directory, which is made if it is absent.
pub fn write_man_pages<C: CommandFactory>(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(C::command(), directory)
}
