//! Replaces what differs from run to run, so that the rest can be compared with a snapshot.

use std::path::Path;

use regex::{Captures, Regex};

/// Without times, ids, ports, versions and the folder of the installation. What may stand in a table keeps its width, so that
/// lines break where they did. The ids of the tests' tenants stay.
pub(crate) fn redact(text: &str, folder: &Path) -> String {
    let text = text.replace(folder.to_str().unwrap(), "/tmp/is-service-xxxxxx");
    let text = text.replace(env!("CARGO_PKG_VERSION"), "x.y.z");
    let text =
        replace(&text, r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z|\+00:00)?", "[time]");
    let text = replace(&text, r"(127\.0\.0\.1|localhost)(:|%3A)\d{5}", "${1}${2}xxxxx");
    // The notice about the end of an API depends on the day, and how a table breaks it as well.
    let notice_row =
        r"(│ configuration ┆ retirement [^\n]*┆) \d+ tenants? uses?[^\n]*\n(│ +┆[^\n]*\n)*";
    let text = replace(&text, notice_row, "${1} [retirement notice]\n");
    let text = replace(&text, r#"("days_left": )-?\d+"#, "${1}[days]");
    let text = replace(
        &text,
        r#"\d+ tenants? uses? the Defender API, which [^\n<"]*"#,
        "[retirement notice]",
    );
    let text = replace(&text, r#"("[a-z_]*seconds": )-?\d[\d.e-]*"#, "${1}[seconds]");
    let uuid = Regex::new(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
    let id = |found: &Captures<'_>| {
        let is_tenant = found[0].starts_with("aaaa0000-0000-4000-8000-0000000000");
        let all = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
        if is_tenant { found[0].to_owned() } else { all.to_owned() }
    };
    uuid.replace_all(&text, id).into_owned()
}

/// What a command printed for people on standard error, without its log.
pub(crate) fn messages(stderr: &str, folder: &Path) -> String {
    let text = redact(stderr, folder);
    text.lines()
        .filter(|line| !line.starts_with("[time]"))
        .map(|line| format!("{line}\n"))
        .collect()
}

pub(crate) fn replace(text: &str, pattern: &str, with: &str) -> String {
    Regex::new(pattern).unwrap().replace_all(text, with).into_owned()
}
