//! `consent-url --listen`: from the admin's click to the tenant's file. What the browser brings is a claim; a token that
//! Entra gives us for that tenant is the proof.

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
use crate::defender::paging::Request;
use crate::doctor::{self, CheckResult, Finding, Group};
use crate::entra::TokenCache;
use crate::entra::claims::TokenCheck;
use crate::error::{Diagnosis, ErrorClass, Owner, SyncError};
use crate::http_client::{self, Deadlines};
use crate::sync::retry;
use crate::tenant::{Cloud, Tenant, TenantId};

/// The path of the redirect URI that the app registration must have.
const PATH: &str = "/consent";

/// The service looks every few seconds, and waits until a directory that is being written rests.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);

/// Takes a customer on.
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
            "{listen} is no address of this machine alone; listen on 127.0.0.1"
        )));
    }
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| {
        wrong(format!("cannot listen on {listen}: {error}; choose another port"))
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
        "Waiting at {redirect_uri}, a redirect URI that the app registration must have, for {wait}. Ctrl-C ends it."
    );

    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(stop.clone()));
    let admitted = await_consent(config, &request, args, name, &mut callback, &stop).await;
    callback.close().await;
    signals.abort();
    let tenant = admitted?;
    let placed = write_tenant_file(file, args, &tenant, place)?;
    match placed {
        Some(place) => report_daemon_state(config, &tenant, &place).await,
        None => eprintln!("A running service reads it at: systemctl reload incident-sync"),
    }
    Ok(())
}

/// What the operator would look for next: whether the service has seen the file.
async fn report_daemon_state(config: &Config, tenant: &Tenant, place: &Path) {
    for path in [place.parent(), Some(place)]
        .into_iter()
        .flatten()
        .filter(|path| doctor::is_for_root_alone(path))
    {
        let path = path.display();
        eprintln!(
            "Warning: {path} can be read by root alone, and the service runs as a user of its own; run chmod go+rX {path}."
        );
    }
    let listen = config.http.listen;
    let began = Instant::now();
    loop {
        match server::ask_known(listen, tenant.id).await {
            None => {
                return eprintln!(
                    "No service listens on {listen}; its next start begins with the tenant."
                );
            }
            Some(true) => return eprintln!("The running service has taken it over."),
            Some(false) if began.elapsed() >= TAKEN_OVER_WITHIN => {
                return eprintln!(
                    "The service on {listen} has not taken it over within {} s; see its log, and incident-sync config check.",
                    TAKEN_OVER_WITHIN.as_secs()
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

/// As the configuration will judge it.
fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() || !is_printable_name(name) {
        return Err(wrong(
            "--name: set the name that reports and metrics show, without characters that are not seen".to_owned(),
        ));
    }
    Ok(())
}

/// What fails after the click costs the customer's admin another one, so it is looked at before.
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
    // One credential that is good is enough, and a clock that is wrong is made up for.
    let is_expired =
        found.iter().filter(is_of_credential).all(|finding| finding.result == CheckResult::Failure);
    let hinders = |finding: &&Finding| {
        finding.result == CheckResult::Failure
            && finding.check != "clock"
            && (finding.group != Group::Credentials || is_expired)
    };
    let told = |finding: &Finding| {
        let error =
            finding.error.as_ref().map_or_else(String::new, |error| format!(" ({})", error.text));
        format!("{}: {}{error}", finding.about, finding.advice)
    };
    for finding in found
        .iter()
        .filter(|finding| matches!(finding.result, CheckResult::Failure | CheckResult::Warning))
    {
        if !hinders(&finding) {
            eprintln!("Warning: {}.", told(finding));
        }
    }
    let hindrances: Vec<String> = found.iter().filter(hinders).map(told).collect();
    if hindrances.is_empty() {
        return Ok(());
    }
    Err(not_done(format!(
        "a consent could not be proven from here, so there is no link yet. {}",
        hindrances.join(". ")
    )))
}

/// Another national cloud knows nothing of the registration of `[app]`. GCC's customers sign in where commercial ones do.
fn check_cloud(config: &Config, args: &ConsentArgs) -> Result<(), Failure> {
    let cloud = args.cloud.as_deref().and_then(Cloud::from_name);
    let (own, other) = (config.onboarding.endpoints(None), config.onboarding.endpoints(cloud));
    if own.authority.origin() == other.authority.origin() {
        return Ok(());
    }
    Err(wrong(format!(
        "--cloud: {} knows nothing of the registration of [app]; such a customer needs a registration in that cloud, whose client_id and credential stand in the tenant's own file",
        other.authority
    )))
}

/// Whoever has a link for any customer decides which one it is: somebody has to compare.
fn check_confirmable(args: &ConsentArgs) -> Result<(), Failure> {
    if args.tenant.is_some() || args.any_tenant || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(wrong(
        "without --tenant the link works for any directory, and nobody is there to confirm which; give the customer's directory id by --tenant, or add --any-tenant"
            .to_owned(),
    ))
}

/// Lets the operator type the directory that was not asked for by name.
async fn confirmed(id: TenantId, stop: &CancellationToken) -> Result<(), Failure> {
    eprintln!("The answer is of the directory {id}. Compare it with what the customer tells you.");
    eprint!("Type it to go on: ");
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
    let cure =
        "the consent stands at Microsoft; if it is your customer's, run it again with --tenant";
    Err(not_done(format!("the directory was not confirmed, and nothing was written; {cure}")))
}

fn check_unknown(config: &Config, id: TenantId) -> Result<(), Failure> {
    if let Some(known) = config.tenants.iter().find(|tenant| tenant.id == id) {
        let cure = "print the link alone for another consent, and see `check --tenant`";
        return Err(wrong(format!("tenant {id} is configured already as {}; {cure}", known.name)));
    }
    // What is wrong with such a file may be anything, so its text is what is looked at.
    let holds = |file: &&str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.to_ascii_lowercase().contains(&id.to_string())
    };
    let Some(file) = config.refused.iter().map(|error| error.file.as_str()).find(holds) else {
        return Ok(());
    };
    Err(wrong(format!(
        "tenant {id} stands in {file}, which is refused; see `config check`, and mend it"
    )))
}

/// Where the tenant's file goes, `None` if it is to be printed. Asked before the admin clicks, and before it is written.
fn free_place(config: &Config, name: &str, is_printed: bool) -> Result<Option<PathBuf>, Failure> {
    if config.tenants.iter().any(|tenant| tenant.name == name) {
        return Err(wrong(format!("another tenant is called {name}; choose another --name")));
    }
    let Some(dir) = config.onboarding.dir.as_ref().filter(|_| !is_printed) else { return Ok(None) };
    let place = tenant_file::path(dir, name)
        .ok_or_else(|| wrong(format!("--name: {name} has no letter for a file name")))?;
    if place.exists() {
        return Err(wrong(format!("{} is there already; choose another --name", place.display())));
    }
    access(dir, AccessFlags::W_OK).map_err(|error| {
        wrong(format!(
            "cannot write to {}: {}; run it as root, or add --print",
            dir.display(),
            error.desc()
        ))
    })?;
    Ok(Some(place))
}

/// Waits for the admin and proves what the browser says.
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
            "the answer is for tenant {id}, and {asked} was asked for; nothing was written"
        )));
    }
    check_unknown(config, id)?;
    if request.directory.is_none() && !args.any_tenant {
        confirmed(id, stop).await?;
    }
    let patience = humantime::format_duration(args.patience);
    eprintln!(
        "The answer says that tenant {id} has consented. Proving it by a token, for at most {patience}."
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
                // Nothing of it can be believed.
                error @ SyncError::WrongTenant { .. } => not_done(format!(
                    "tenant {id} is not proven, and nothing was written. {}",
                    told(&error)
                )),
                error => not_done(format!(
                    "tenant {id} is not proven, and nothing was written. {}\n{}",
                    told(&error),
                    manual_steps(&tenant, args)
                )),
            },
        )?;
    let doubt = match check {
        TokenCheck::Valid => None,
        TokenCheck::RoleMissing => {
            Some("the API answers although the token shows no role Incident.Read.All")
        }
        TokenCheck::Unreadable => {
            Some("the token cannot be read; that Entra gave it for this tenant is the proof")
        }
    };
    if let Some(doubt) = doubt {
        eprintln!("Warning: {doubt}.");
    }
    Ok(tenant)
}

/// What is left to do when the proof fails: the admin need not click again. On standard error, so that no script takes the
/// lines for proven.
fn manual_steps(tenant: &Tenant, args: &ConsentArgs) -> String {
    let text = tenant_file::text(tenant.id, &tenant.name, args.cloud.as_deref());
    format!(
        "What the admin has accepted stands at Microsoft. When this is mended, add the lines below to the configuration, \
         and prove it by: incident-sync check --tenant {}\n\n[[tenants]]\n{text}",
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
            "the consent was not given, and nothing was written. {} Entra said: {}",
            told(&refusal.error),
            refusal.description
        ))),
        Ok(None) => Err(not_done("the listener has ended; nothing was written".to_owned())),
        Err(_) => Err(not_done(
            "nobody came in time, and the link is worth nothing now; run it again".to_owned(),
        )),
    }
}

/// What happened and who must do what.
fn told(error: &SyncError) -> String {
    let Diagnosis { owner: who, advice: say, class, .. } = error.diagnosis();
    let who = match who {
        Owner::CustomerAdmin if class == ErrorClass::ConsentMissing => {
            "The customer must act: a Global, Privileged Role or Cloud Application Administrator can consent."
        }
        Owner::CustomerAdmin => "The customer's admin must act.",
        Owner::Operator => "You must act.",
        Owner::Developers => "The developers of incident-sync must act.",
        Owner::Nobody => "Try it again later.",
    };
    format!("{say} ({error}). {who}")
}

/// A consent takes up to some minutes until all of Entra and the API know of it.
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
            // The next one may have the role that this one lacks.
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

/// A token, whose `tid` is compared as for every tenant, and one call with it.
async fn use_token(
    tenant: &Tenant,
    tokens: &TokenCache,
    incidents: &DefenderClient,
) -> Result<TokenCheck, SyncError> {
    let token = tokens.get(tenant).await?;
    incidents.page(tenant, &token, &Request::probe(), None).await?;
    Ok(token.check())
}

/// Writes the file. The configuration may have changed while the admin slept; what cannot be written is printed, so that
/// nobody has to click again.
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
        Some(place) => format!("{} is proven and written to {}", tenant.name, place.display()),
        None => block.trim_end().to_owned(),
    });
    if place.is_none() {
        eprintln!("{} is proven. Add these lines to the configuration.", tenant.name);
    }
    written.and(printed).map(|()| place)
}
