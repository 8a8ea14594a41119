//! Completions and man pages, which packages take from the program.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs the program as a package's build does: without any configuration.
fn program(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
    let done = command.env_remove("INCIDENT_SYNC_CONFIG").args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = program(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // A description that wraps is indented deeper than a name.
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<String> =
        names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    assert!(names.len() > 10 && names.contains(&"retry-rejected".to_owned()), "{names:?}");
    names
}

#[test]
fn completions_cover_every_command_in_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = program(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell} does not know {command}");
        }
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(program(&["completions", "bash"]).as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "bash does not accept its completions");
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("man1");
    program(&["man", directory.to_str().unwrap()]);
    let main = fs::read_to_string(directory.join("incident-sync.1")).unwrap();
    for command in commands().iter().filter(|command| *command != "help") {
        let page = format!("incident-sync-{command}.1");
        let text = fs::read_to_string(directory.join(&page))
            .unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
        assert!(
            main.contains(&page.replace('-', "\\-").replace(".1", "")),
            "the main page does not name {page}: {main}"
        );
    }
    let sync = fs::read_to_string(directory.join("incident-sync-sync.1")).unwrap();
    assert!(sync.contains("since") && sync.contains("TIME"), "{sync}");
}

#[test]
fn man_names_a_directory_it_cannot_create() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
    let done = command.args(["man", "/dev/null/man1"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(2) && stderr.contains("/dev/null/man1"), "{stderr}");
}
