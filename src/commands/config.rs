//! The commands `config check` and `config show`.

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::commands::exit::Failure;
use crate::commands::output::{self, print, print_line};
use crate::config::{Config, ConfigError, ConfigErrors, Setting};

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Validate all configuration files and report every error. Works offline.
    Check(CheckArgs),
    /// Print the effective configuration with the source of each value. Secrets are redacted.
    Show(ConfigArgs),
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Succeed if only files of `tenants_dir` are invalid, which the daemon ignores, as the unit needs it before a reload.
    #[arg(long)]
    reload: bool,
    #[command(flatten)]
    form: ConfigArgs,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(config: &Config, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(args) => {
            print(args.json, &json!(config.settings), || settings_table(&config.settings))
        }
        ConfigCommand::Check(args) => check(config, args),
    }
}

/// Includes the warnings, independent of the log level.
fn check(config: &Config, args: &CheckArgs) -> Result<(), Failure> {
    let Config { file, tenants, warnings, tenants_dir_errors, .. } = config;
    let value = check_json(file.as_deref(), Some(tenants.len()), warnings, tenants_dir_errors);
    print(args.form.json, &value, || {
        let file = file
            .as_ref()
            .map_or_else(|| "no file, defaults only".to_owned(), |file| file.display().to_string());
        let result = match tenants_dir_errors[..] {
            [] => "valid",
            [..] => "valid except for files in tenants_dir",
        };
        let warnings =
            warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect::<String>();
        format!("{file}: {result}, {} tenants{warnings}", tenants.len())
    })?;
    if tenants_dir_errors.is_empty() {
        return Ok(());
    }
    let errors = ConfigErrors(tenants_dir_errors.clone()).to_string();
    if args.reload {
        eprintln!("incident-sync: {errors}");
        return Ok(());
    }
    Err(Failure::Configuration(errors))
}

/// Reports a configuration that was rejected as a whole, without a number of tenants.
pub(crate) fn report_rejected(
    file: Option<&Path>,
    errors: &ConfigErrors,
    args: &CheckArgs,
) -> Failure {
    let printed = if args.form.json {
        print_line(format_args!("{:#}", check_json(file, None, &[], &errors.0)))
    } else {
        Ok(())
    };
    printed.err().unwrap_or_else(|| Failure::Configuration(errors.to_string()))
}

fn check_json(
    file: Option<&Path>,
    tenants: Option<usize>,
    warnings: &[String],
    errors: &[ConfigError],
) -> Value {
    json!({ "ok": errors.is_empty(), "file": file, "tenants": tenants, "warnings": warnings, "errors": errors })
}

fn settings_table(settings: &[Setting]) -> String {
    let mut table = output::table(["tenant", "key", "value", "from"]);
    for Setting { key, tenant, value, source } in settings {
        table.add_row([tenant.as_deref().unwrap_or_default(), key, value, source]);
    }
    table.to_string()
}
