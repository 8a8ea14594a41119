//! The secrets that all tests use. They are recognisable, and every test searches for them at its end.

use std::path::Path;

/// The client secret. Its middle, the canary, survives every encoding that a text may meet.
pub(crate) const SECRET: &str = "Qx8~canary5f2d77c0.~";
pub(crate) const CANARY: &str = "canary5f2d77c0";
/// Of the database. A server that trusts all connections does not ask for it.
pub(crate) const PASSWORD: &str = "canaryd1b96e02";

/// A line of each private key that tests use, as PEM has it.
pub(crate) fn key_lines() -> [String; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/credentials");
    ["first.key.pem", "second.key.pem"].map(|name| {
        let key = std::fs::read_to_string(folder.join(name)).unwrap();
        key.lines().nth(5).unwrap().to_owned()
    })
}
