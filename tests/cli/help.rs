//! The help of every command, as a snapshot: changes of options and texts show up in review.

use std::process::Command;

fn help(command: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_incident-sync"));
    program.env_remove("INCIDENT_SYNC_CONFIG").env("COLUMNS", "100");
    let done = program.args(command).arg("--help").output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The commands that a help lists.
fn listed(help: &str) -> Vec<String> {
    let Some(list) = help.split("Commands:\n").nth(1) else { return Vec::new() };
    let list = list.split("\n\n").next().unwrap();
    // A description that wraps is indented deeper than a name.
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

#[test]
fn help_of_every_command_matches_snapshot() {
    let main = help(&[]);
    let mut text = format!("# incident-sync\n\n{main}");
    let commands = listed(&main);
    assert!(commands.len() > 10, "{commands:?}");
    for command in &commands {
        let own = help(&[command]);
        text += &format!("\n# {command}\n\n{own}");
        for inner in listed(&own) {
            text += &format!("\n# {command} {inner}\n\n{}", help(&[command, &inner]));
        }
    }
    insta::assert_snapshot!(text);
}
