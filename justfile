# List the recipes.
default:
    @just --list

# Run the demonstration; `just demo --once` reads each tenant once and exits.
demo *ARGS:
    scripts/demo {{ARGS}}

# Run all tests.
test *ARGS:
    scripts/test {{ARGS}}

# Run everything that must pass before a change lands.
ci:
    .ci/run

# Format the code.
fmt:
    cargo fmt

# Lint the code.
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Check documents, sample configuration and alerts against the code.
docs:
    cargo test --locked --test docs

# Render docs/ as a book into target/book.
book:
    mdbook build

# Write the generated pages of docs/.
generate:
    UPDATE=1 cargo test --locked --test docs cli && UPDATE=1 cargo test --locked --test engine dictionary

# Test the alert rules.
alerts:
    scripts/check-alerts

# Run the examples for analysts on made-up data.
examples *ARGS:
    examples/try {{ARGS}}

# Measure sync.
bench:
    cargo bench --bench sync

# Build the Debian package.
package:
    scripts/build-package

# Try a package in a container.
try-package PACKAGE:
    sudo scripts/try-package {{PACKAGE}}
