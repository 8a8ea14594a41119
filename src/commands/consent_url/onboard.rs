//! `consent-url --listen`: from the admin's consent to the tenant's file. The redirect is only a claim; a token that Entra
//! issues for the tenant verifies it.

use std::io::{BufRead, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::callback::{ConsentAnswer, ConsentCallback};
use super::{ConsentArgs, ConsentRequest, tenant_file};
use crate::commands::exit::Failure;
use crate::commands::output::print;
use crate::config::{self, Config, is_printable_name};
use crate::daemon::http::server;
use crate::daemon::signals;
use crate::defender::DefenderClient;
use crate::doctor::{self, CheckResult, Finding, Group};
use crate::entra::Tenant;
use crate::entra::TokenCache;
use crate::entra::claims::TokenCheck;
use crate::error::{Diagnosis, ErrorClass, Owner, SyncError};
use crate::http_client::{self, Deadlines};
use crate::incident::paging::Request;
use crate::sync::retry;
use crate::tenant::{Cloud, TenantId};

/// The path of the redirect URI that the app registration must have.
const PATH: &str = "/consent";

/// The service polls every few seconds and waits until the directory stops changing.
const PICKED_UP_WITHIN: Duration = Duration::from_secs(20);

/// Onboards a customer.
pub(super) async fn onboard(
    config: &Config,
    file: Option<&Path>,
    args: &ConsentArgs,
    listen: SocketAddr,
) -> Result<(), Failure> {
    let request = ConsentRequest::of(config, args)?;
    check_cloud(config, args)?;
    check_confirmable(args)?;
    let name = args.name.as_deref().unwrap_or_default().trim();
    check_name(name)?;
    request.directory.map_or(Ok(()), |id| check_unknown(config, id))?;
    let place = free_place(config, name, args.print)?;
    if !listen.ip().is_loopback() {
        return Err(wrong(format!(
            "--listen must be a loopback address, such as 127.0.0.1; {listen} is not"
        )));
    }
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| {
        wrong(format!("cannot listen on {listen}: {error}. Choose another port"))
    })?;
    let address = listener.local_addr().map_err(|error| wrong(error.to_string()))?;
    let redirect_uri = args
        .redirect_uri
        .clone()
        .unwrap_or_else(|| format!("http://localhost:{}{PATH}", address.port()));
    let parsed =
        Url::parse(&redirect_uri).map_err(|error| wrong(format!("--redirect-uri: {error}")))?;
    check_connectivity(config, &request, name).await?;
    let state = Uuid::new_v4().to_string();
    let link = request.link(args.v1, &redirect_uri, &state)?;
    let mut callback = ConsentCallback::start(listener, parsed.path(), &state);
    let wait = humantime::format_duration(args.wait);
    eprintln!(
        "Open this link as Global, Privileged Role or Cloud Application Administrator of the customer:\n\n{link}\n"
    );
    eprintln!(
        "Waiting {wait} at {redirect_uri}, which the app registration must list as a redirect URI. Press Ctrl-C to stop."
    );

    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let verified = await_consent(config, &request, args, name, &mut callback, &stop).await;
    callback.close().await;
    signals.abort();
    let tenant = verified?;
    let placed = write_tenant_file(file, args, &tenant, place)?;
    match placed {
        Some(place) => report_daemon_state(config, &tenant, &place).await,
        None => eprintln!("Then run: systemctl reload incident-sync"),
    }
    Ok(())
}

/// Reports whether the running service has picked up the file.
async fn report_daemon_state(config: &Config, tenant: &Tenant, place: &Path) {
    for path in [place.parent(), Some(place)]
        .into_iter()
        .flatten()
        .filter(|path| doctor::is_for_root_alone(path))
    {
        let path = path.display();
        eprintln!("Warning: {path} is not readable by the service user. Run: chmod go+rX {path}");
    }
    let listen = config.http.listen;
    let began = Instant::now();
    loop {
        match server::ask_known(listen, tenant.id).await {
            None => {
                return eprintln!(
                    "No service answers on {listen}. The tenant is synchronized after the next start."
                );
            }
            Some(true) => return eprintln!("The running service has picked up the tenant."),
            Some(false) if began.elapsed() >= PICKED_UP_WITHIN => {
                return eprintln!(
                    "The service on {listen} has not picked up the tenant within {} s. See its log and run: incident-sync config check",
                    PICKED_UP_WITHIN.as_secs()
                );
            }
            Some(false) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

fn wrong(problem: String) -> Failure {
    Failure::Configuration(problem)
}

fn not_done(problem: String) -> Failure {
    Failure::NotDone(problem)
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() || !is_printable_name(name) {
        return Err(wrong("--name: expected a name of printable characters".to_owned()));
    }
    Ok(())
}

/// Checked before the link is shown: a failure after the consent would cost the customer's admin another one.
async fn check_connectivity(
    config: &Config,
    request: &ConsentRequest,
    name: &str,
) -> Result<(), Failure> {
    let id = request.directory.unwrap_or(TenantId(Uuid::nil()));
    let tenant =
        Tenant::with_defaults(id, name, request.endpoints.clone(), Arc::clone(&request.app));
    let found = doctor::connectivity(config, &Arc::new(tenant)).await;
    let is_of_credential = |finding: &&Finding| finding.group == Group::Credentials;
    // One valid credential is enough, and a wrong clock is compensated.
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
    Err(not_done(format!(
        "Consent cannot be verified from this machine; no link was created. {}",
        blocking.join(". ")
    )))
}

/// Another national cloud does not know the registration of `[app]`. GCC customers sign in to the commercial one.
fn check_cloud(config: &Config, args: &ConsentArgs) -> Result<(), Failure> {
    let cloud = args.cloud.as_deref().and_then(Cloud::from_name);
    let (own, other) = (config.onboarding.endpoints(None), config.onboarding.endpoints(cloud));
    if own.authority.origin() == other.authority.origin() {
        return Ok(());
    }
    Err(wrong(format!(
        "--cloud: {} does not know the registration of [app]. Create a registration in that cloud and set its client_id and credential in the tenant's file",
        other.authority
    )))
}

/// A link without a tenant works for any directory, so the operator has to confirm which one consented.
fn check_confirmable(args: &ConsentArgs) -> Result<(), Failure> {
    if args.tenant.is_some() || args.any_tenant || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(wrong(
        "without --tenant the link works for any directory, and standard input is not a terminal to confirm it. Pass --tenant with the customer's directory id, or --any-tenant"
            .to_owned(),
    ))
}

/// Asks the operator for the id of the directory.
async fn confirmed(id: TenantId, stop: &CancellationToken) -> Result<(), Failure> {
    eprintln!(
        "The response is from directory {id}. Compare it with the id that the customer gave you."
    );
    eprint!("Type the id to continue: ");
    drop(std::io::stderr().flush());
    let read = tokio::task::spawn_blocking(|| {
        let mut typed = String::new();
        std::io::stdin().lock().read_line(&mut typed).map(|_| typed)
    });
    let typed = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(not_done("stopped; nothing was written".to_owned())),
        typed = read => typed.ok().and_then(Result::ok).unwrap_or_default(),
    };
    if typed.trim().eq_ignore_ascii_case(&id.to_string()) {
        return Ok(());
    }
    let cure = "The consent remains at Microsoft. If the directory is your customer's, run the command again with --tenant";
    Err(not_done(format!("the directory was not confirmed; nothing was written. {cure}")))
}

fn check_unknown(config: &Config, id: TenantId) -> Result<(), Failure> {
    if let Some(known) = config.tenants.iter().find(|tenant| tenant.id == id) {
        let cure =
            "For another consent, print the link without --listen; then run `check --tenant`";
        return Err(wrong(format!("tenant {id} is already configured as {}. {cure}", known.name)));
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
    Err(wrong(format!("tenant {id} is in {file}, which is invalid. Run `config check` and fix it")))
}

/// The path of the tenant's file; `None` if it is printed. Checked before the link is shown and again before writing.
fn free_place(config: &Config, name: &str, is_printed: bool) -> Result<Option<PathBuf>, Failure> {
    if config.tenants.iter().any(|tenant| tenant.name == name) {
        return Err(wrong(format!("another tenant is named {name}. Choose another --name")));
    }
    let Some(dir) = config.onboarding.dir.as_ref().filter(|_| !is_printed) else { return Ok(None) };
    let place = tenant_file::path(dir, name)
        .ok_or_else(|| wrong(format!("--name: {name} has no letter or digit for a file name")))?;
    if place.exists() {
        return Err(wrong(format!("{} already exists. Choose another --name", place.display())));
    }
    access(dir, AccessFlags::W_OK).map_err(|error| {
        wrong(format!(
            "cannot write to {}: {}. Run the command as root, or pass --print",
            dir.display(),
            error.desc()
        ))
    })?;
    Ok(Some(place))
}

/// Waits for the redirect and verifies it.
async fn await_consent(
    config: &Config,
    request: &ConsentRequest,
    args: &ConsentArgs,
    name: &str,
    callback: &mut ConsentCallback,
    stop: &CancellationToken,
) -> Result<Tenant, Failure> {
    let id = consented(callback, args.wait, stop).await?;
    if let Some(asked) = request.directory.filter(|asked| *asked != id) {
        return Err(not_done(format!(
            "the response is for tenant {id} instead of {asked}; nothing was written"
        )));
    }
    check_unknown(config, id)?;
    if request.directory.is_none() && !args.any_tenant {
        confirmed(id, stop).await?;
    }
    let patience = humantime::format_duration(args.patience);
    eprintln!(
        "Received the consent of tenant {id}. Verifying it with a token, for at most {patience}."
    );
    let tenant =
        Tenant::with_defaults(id, name, request.endpoints.clone(), Arc::clone(&request.app));
    let check =
        verify_consent(config, &tenant, args.patience, stop).await.map_err(
            |error| match error {
                SyncError::Stopped => not_done(format!(
                    "stopped; nothing was written. {}",
                    manual_steps(&tenant, args)
                )),
                // Nothing in the response can be trusted.
                error @ SyncError::WrongTenant { .. } => not_done(format!(
                    "tenant {id} could not be verified; nothing was written. {}",
                    describe_error(&error)
                )),
                error => not_done(format!(
                    "tenant {id} could not be verified; nothing was written. {}\n{}",
                    describe_error(&error),
                    manual_steps(&tenant, args)
                )),
            },
        )?;
    let doubt = match check {
        TokenCheck::Valid => None,
        TokenCheck::RoleMissing => {
            Some("the API answers although the token lacks the role Incident.Read.All")
        }
        TokenCheck::Unreadable => {
            Some("the token is opaque; it was verified only by Entra issuing it for this tenant")
        }
    };
    if let Some(doubt) = doubt {
        eprintln!("Warning: {doubt}.");
    }
    Ok(tenant)
}

/// The steps left when the verification fails; the admin need not consent again. For standard error, so that no script
/// takes the lines as verified.
fn manual_steps(tenant: &Tenant, args: &ConsentArgs) -> String {
    let text = tenant_file::text(tenant.id, &tenant.name, args.cloud.as_deref());
    format!(
        "The consent remains at Microsoft. When this is fixed, add these lines to the configuration and verify them \
         with: incident-sync check --tenant {}\n\n[[tenants]]\n{text}",
        tenant.id
    )
}

async fn consented(
    callback: &mut ConsentCallback,
    wait: Duration,
    stop: &CancellationToken,
) -> Result<TenantId, Failure> {
    let answer = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(not_done("stopped; nothing was written".to_owned())),
        answer = tokio::time::timeout(wait, callback.answer()) => answer,
    };
    match answer {
        Ok(Some(ConsentAnswer::Consented(id))) => Ok(id),
        Ok(Some(ConsentAnswer::Refused(refusal))) => Err(not_done(format!(
            "the consent was refused; nothing was written. {} Entra reported: {}",
            describe_error(&refusal.error),
            refusal.description
        ))),
        Ok(None) => Err(not_done("the listener failed; nothing was written".to_owned())),
        Err(_) => Err(not_done(
            "Timed out waiting for consent; the link has expired. Run the command again".to_owned(),
        )),
    }
}

/// The advice and the owner.
fn describe_error(error: &SyncError) -> String {
    let Diagnosis { owner: who, advice: say, class, .. } = error.diagnosis();
    let who = match who {
        Owner::CustomerAdmin if class == ErrorClass::ConsentMissing => {
            "Owner: the customer. A Global, Privileged Role or Cloud Application Administrator can consent."
        }
        Owner::CustomerAdmin => "Owner: the customer's admin.",
        Owner::Operator => "Owner: you, the operator.",
        Owner::Developers => "Owner: the developers of incident-sync.",
        Owner::Nobody => "Retry later.",
    };
    format!("{say} ({error}). {who}")
}

/// Retries, because a consent takes up to some minutes to take effect everywhere.
async fn verify_consent(
    config: &Config,
    tenant: &Tenant,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<TokenCheck, SyncError> {
    let client = http_client::client_on(&config.http_client, Deadlines::default());
    let (tokens, incidents) = (&TokenCache::new(client.clone()), &DefenderClient::new(client));
    let once = || async move {
        let check = use_token(tenant, tokens, incidents).await;
        if check.is_err() {
            // The next token may have the role.
            tokens.forget(tenant).await;
        }
        check
    };
    let spreads = |error: &SyncError| {
        let diagnosis = error.diagnosis();
        diagnosis.class.awaits_consent() || diagnosis.passes_by_itself()
    };
    retry::retry_within(patience, stop, spreads, once).await
}

/// Requests a token, whose `tid` is checked, and makes one call with it.
async fn use_token(
    tenant: &Tenant,
    tokens: &TokenCache,
    incidents: &DefenderClient,
) -> Result<TokenCheck, SyncError> {
    let token = tokens.get(tenant).await?;
    incidents.page(tenant, &token, &Request::probe(), None).await?;
    Ok(token.check())
}

/// Writes the file. The configuration may have changed meanwhile; if the file cannot be written, its content is printed, so
/// that the admin need not consent again.
fn write_tenant_file(
    file: Option<&Path>,
    args: &ConsentArgs,
    tenant: &Tenant,
    place: Option<PathBuf>,
) -> Result<Option<PathBuf>, Failure> {
    let current = config::load(file).map_err(|errors| wrong(errors.to_string()));
    if let Ok(config) = &current {
        check_unknown(config, tenant.id)?;
    }
    let text = tenant_file::text(tenant.id, &tenant.name, args.cloud.as_deref());
    let written = match &place {
        None => Ok(()),
        Some(place) => {
            current.and_then(|config| free_place(&config, &tenant.name, false)).and_then(|_| {
                tenant_file::write(place, &text)
                    .map_err(|error| wrong(format!("cannot write {}: {error}", place.display())))
            })
        }
    };
    let place = place.filter(|_| written.is_ok());
    let block = format!("[[tenants]]\n{text}");
    let value = json!({ "tenant_id": tenant.id.to_string(), "name": tenant.name, "file": place, "block": block });
    let printed = print(args.json, &value, || match &place {
        Some(place) => format!("Verified {} and wrote {}", tenant.name, place.display()),
        None => block.trim_end().to_owned(),
    });
    if place.is_none() {
        eprintln!("Verified {}. Add these lines to the configuration.", tenant.name);
    }
    written.and(printed).map(|()| place)
}
