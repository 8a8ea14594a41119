//! The checks of `--listen` before the link is shown.

use std::io::IsTerminal;
use std::path::PathBuf;

use nix::unistd::{AccessFlags, access};
use uuid::Uuid;

use super::{ConsentArgs, ConsentRequest, tenant_file};
use crate::commands::exit::Failure;
use crate::config::{Config, is_printable_name};
use crate::doctor::{self, CheckResult, Finding, Group};
use crate::tenant::{Cloud, TenantId};

pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() || !is_printable_name(name) {
        return Err(Failure::Configuration(
            "--name: expected a name of printable characters".to_owned(),
        ));
    }
    Ok(())
}

/// Checked before the link is shown: a failure after the consent would cost the customer's admin another one.
pub(super) async fn check_connectivity(
    config: &Config,
    request: &ConsentRequest,
    name: &str,
) -> Result<(), Failure> {
    let id = request.directory.unwrap_or(TenantId(Uuid::nil()));
    let found = doctor::connectivity(config, &request.tenants(id, name)).await;
    let is_of_credential = |finding: &&Finding| finding.group == Group::Credentials;
    // One valid credential is enough, and token requests compensate a wrong clock.
    let is_expired =
        found.iter().filter(is_of_credential).all(|finding| finding.result == CheckResult::Failure);
    let is_blocking = |finding: &&Finding| {
        finding.result == CheckResult::Failure
            && finding.check != "clock"
            && (finding.group != Group::Credentials || is_expired)
    };
    let describe = |finding: &Finding| {
        let error =
            finding.error.as_ref().map_or_else(String::new, |error| format!(" ({})", error.text));
        format!("{}: {}{error}", finding.about, finding.advice)
    };
    for finding in found
        .iter()
        .filter(|finding| matches!(finding.result, CheckResult::Failure | CheckResult::Warning))
    {
        if !is_blocking(&finding) {
            eprintln!("Warning: {}.", describe(finding));
        }
    }
    let blocking: Vec<String> = found.iter().filter(is_blocking).map(describe).collect();
    if blocking.is_empty() {
        return Ok(());
    }
    Err(Failure::NotDone(format!(
        "Consent cannot be verified from this machine; no link was created. {}",
        blocking.join(". ")
    )))
}

/// The registration of `[app]` exists in one national cloud only. GCC customers sign in to the commercial one.
pub(super) fn check_cloud(config: &Config, args: &ConsentArgs) -> Result<(), Failure> {
    let cloud = args.cloud.as_deref().and_then(Cloud::from_name);
    let source = config.onboarding.source();
    let own = config.onboarding.endpoints(None, source);
    let other = config.onboarding.endpoints(cloud, source);
    if own.authority.origin() == other.authority.origin() {
        return Ok(());
    }
    Err(Failure::Configuration(format!(
        "--cloud: the registration of [app] does not exist at {}. Create a registration in that cloud and set its client_id and credential in the tenant's file",
        other.authority
    )))
}

/// A link without a tenant works for any directory, so the operator has to confirm which one consented.
pub(super) fn check_confirmable(args: &ConsentArgs) -> Result<(), Failure> {
    if args.tenant.is_some() || args.any_tenant || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::Configuration(
        "without --tenant the link works for any directory, and standard input is not a terminal to confirm it. Pass --tenant with the customer's directory id, or --any-tenant"
            .to_owned(),
    ))
}

pub(super) fn check_unknown(config: &Config, id: TenantId) -> Result<(), Failure> {
    if let Some(known) = config.tenants.iter().find(|tenant| tenant.id == id) {
        let cure =
            "For another consent, print the link without --listen; then run `check --tenant`";
        return Err(Failure::Configuration(format!(
            "tenant {id} is already configured as {}. {cure}",
            known.name
        )));
    }
    // An invalid file may not even parse, so its text is searched.
    let contains_id = |file: &&str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.to_ascii_lowercase().contains(&id.to_string())
    };
    let Some(file) =
        config.tenants_dir_errors.iter().map(|error| error.file.as_str()).find(contains_id)
    else {
        return Ok(());
    };
    Err(Failure::Configuration(format!(
        "tenant {id} is in {file}, which is invalid. Run `config check` and fix it"
    )))
}

/// The path of the tenant's file; `None` if it is printed. Checked before the link is shown and again before writing.
pub(super) fn free_path(
    config: &Config,
    name: &str,
    is_printed: bool,
) -> Result<Option<PathBuf>, Failure> {
    if config.tenants.iter().any(|tenant| tenant.name == name) {
        return Err(Failure::Configuration(format!(
            "another tenant is named {name}. Choose another --name"
        )));
    }
    let Some(dir) = config.onboarding.dir.as_ref().filter(|_| !is_printed) else { return Ok(None) };
    let path = tenant_file::path(dir, name).ok_or_else(|| {
        Failure::Configuration(format!("--name: {name} has no letter or digit for a file name"))
    })?;
    if path.exists() {
        return Err(Failure::Configuration(format!(
            "{} already exists. Choose another --name",
            path.display()
        )));
    }
    access(dir, AccessFlags::W_OK).map_err(|error| {
        Failure::Configuration(format!(
            "cannot write to {}: {}. Run the command as root, or pass --print",
            dir.display(),
            error.desc()
        ))
    })?;
    Ok(Some(path))
}
