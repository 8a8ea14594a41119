//! The errors of a configuration.

use std::fmt;

use serde::Serialize;

use crate::error::visible;

/// Every error of one load.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// One error in the configuration. None of its texts contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file, or `environment`.
    pub file: String,
    /// The key such as `tenants[3] (Contoso).id`, or the variable; empty if the error concerns the whole file.
    pub key: String,
    /// Cause and fix.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", visible(&self.file), visible_lines(&self.problem)),
            key => write!(
                f,
                "{}: {}: {}",
                visible(&self.file),
                visible(key),
                visible_lines(&self.problem)
            ),
        }
    }
}

/// A text of several lines without invisible characters.
fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}
