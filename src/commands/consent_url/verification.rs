//! The proof of a consent. The redirect is only a claim; a token that Entra issues for the tenant verifies it.

use std::io::{BufRead, Write};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::callback::{ConsentAnswer, ConsentCallback};
use super::prerequisites::check_unknown;
use super::{ConsentArgs, ConsentRequest, tenant_file};
use crate::api::{ApiClient, Query};
use crate::commands::exit::Failure;
use crate::config::Config;
use crate::entra::claims::TokenCheck;
use crate::entra::{Tenant, TokenCache};
use crate::error::{Diagnosis, ErrorClass, Owner, Peer, SyncError};
use crate::http_client::{self, Deadlines};
use crate::incident::paging::Request;
use crate::sync::retry;
use crate::tenant::{Source, TenantId};

/// Waits for the redirect and verifies it.
pub(super) async fn await_consent(
    config: &Config,
    request: &ConsentRequest,
    args: &ConsentArgs,
    name: &str,
    callback: &mut ConsentCallback,
    stop: &CancellationToken,
) -> Result<Tenant, Failure> {
    let id = receive_consent(callback, args.wait, stop).await?;
    check_unknown(config, id)?;
    if request.directory.is_none() && !args.any_tenant {
        confirm_directory(id, stop).await?;
    }
    let patience = humantime::format_duration(args.patience);
    eprintln!(
        "Received the consent of tenant {id}. Verifying it with a token, for at most {patience}."
    );
    let tenants = request.tenants(id, name);
    let manual_steps = || manual_steps(config, &tenants[0], args);
    for tenant in &tenants {
        let check = verify_consent(config, tenant, args.patience, stop).await;
        let check = check.map_err(|error| match error {
            SyncError::Stopped => {
                Failure::NotDone(format!("stopped; nothing was written. {}", manual_steps()))
            }
            // No steps are printed, because the response cannot be trusted.
            error @ SyncError::WrongTenant { .. } => Failure::NotDone(format!(
                "tenant {id} could not be verified; nothing was written. {}",
                describe_error(&error)
            )),
            error => Failure::NotDone(format!(
                "tenant {id} could not be verified; nothing was written. {}\n{}",
                describe_error(&error),
                manual_steps()
            )),
        })?;
        warn_of_doubt(check, tenant.source());
    }
    Ok(Tenant::clone(&tenants[0]))
}

/// The API has answered, but the token does not show why.
fn warn_of_doubt(check: TokenCheck, source: Source) {
    match check {
        TokenCheck::Valid => {}
        TokenCheck::RoleMissing => eprintln!(
            "Warning: {} answers although the token lacks the role {}.",
            Peer::from(source),
            source.permission()
        ),
        TokenCheck::Unreadable => eprintln!(
            "Warning: the token for {} is opaque; the only evidence is that Entra issued it for this tenant.",
            Peer::from(source)
        ),
    }
}

/// Asks the operator for the id of the directory.
async fn confirm_directory(id: TenantId, stop: &CancellationToken) -> Result<(), Failure> {
    eprintln!(
        "The response is from directory {id}. Compare it with the id that the customer gave you."
    );
    eprint!("Type the id to continue: ");
    let _ = std::io::stderr().flush();
    let read = tokio::task::spawn_blocking(|| {
        let mut typed = String::new();
        std::io::stdin().lock().read_line(&mut typed).map(|_| typed)
    });
    let typed = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Failure::NotDone("stopped; nothing was written".to_owned())),
        typed = read => typed.ok().and_then(Result::ok).unwrap_or_default(),
    };
    if typed.trim().eq_ignore_ascii_case(&id.to_string()) {
        return Ok(());
    }
    Err(Failure::NotDone(format!(
        "the directory was not confirmed; nothing was written. The consent remains at Microsoft. If directory {id} is your \
         customer's, run the command again with --tenant; if not, its admin should delete the app there, under Enterprise \
         applications, Properties"
    )))
}

/// The steps left when the verification fails; the admin need not consent again. For standard error, so that no script
/// takes the lines as verified.
fn manual_steps(config: &Config, tenant: &Tenant, args: &ConsentArgs) -> String {
    let text = tenant_file::text(tenant, args.cloud.as_deref(), config.onboarding.source());
    format!(
        "The consent remains at Microsoft. When this is fixed, add these lines to the configuration and verify them \
         with: incident-sync check --tenant {}\n\n[[tenants]]\n{text}",
        tenant.id
    )
}

async fn receive_consent(
    callback: &mut ConsentCallback,
    wait: Duration,
    stop: &CancellationToken,
) -> Result<TenantId, Failure> {
    let answer = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Failure::NotDone("stopped; nothing was written".to_owned())),
        answer = tokio::time::timeout(wait, callback.answer()) => answer,
    };
    match answer {
        Ok(Some(ConsentAnswer::Consented(id))) => Ok(id),
        Ok(Some(ConsentAnswer::Refused(refusal))) => Err(Failure::NotDone(format!(
            "the consent was refused; nothing was written. {} Entra reported: {}",
            describe_error(&refusal.error),
            refusal.description
        ))),
        Ok(None) => Err(Failure::NotDone("the listener failed; nothing was written".to_owned())),
        Err(_) => Err(Failure::NotDone(
            "Timed out waiting for consent; the link has expired. Run the command again".to_owned(),
        )),
    }
}

/// Advice, error and owner.
fn describe_error(error: &SyncError) -> String {
    let Diagnosis { owner, advice, class, .. } = error.diagnosis();
    let owner = match owner {
        Owner::CustomerAdmin if class == ErrorClass::ConsentMissing => {
            "Owner: the customer. A Global, Privileged Role or (not for Microsoft Graph) Cloud Application Administrator can consent."
        }
        Owner::CustomerAdmin => "Owner: the customer's admin.",
        Owner::Operator => "Owner: you, the operator.",
        Owner::Developers => "Owner: the developers of incident-sync.",
        Owner::Nobody => "Retry later.",
    };
    format!("{advice} ({error}). {owner}")
}

/// Retries, because a consent takes up to some minutes to take effect everywhere.
async fn verify_consent(
    config: &Config,
    tenant: &Tenant,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<TokenCheck, SyncError> {
    let client = http_client::client_on(&config.http_client, Deadlines::default());
    let tokens = &TokenCache::new(client.clone());
    let incidents = &ApiClient::new(client);
    let once = || async move {
        let check = use_token(tenant, tokens, incidents).await;
        if check.is_err() {
            // The next token may have the role.
            tokens.forget(tenant).await;
        }
        check
    };
    let is_retried = |error: &SyncError| {
        let diagnosis = error.diagnosis();
        diagnosis.class.awaits_consent()
            || diagnosis.class == ErrorClass::Unauthorized
            || diagnosis.passes_by_itself()
    };
    retry::retry_within(patience, stop, is_retried, once).await
}

/// Requests a token, whose `tid` is checked, and makes one call with it.
async fn use_token(
    tenant: &Tenant,
    tokens: &TokenCache,
    incidents: &ApiClient,
) -> Result<TokenCheck, SyncError> {
    let token = tokens.get(tenant).await?;
    match incidents.page(tenant, &token, Query::List(&Request::probe()), None).await {
        Ok(_) => Ok(token.check()),
        Err(error) => Err(tokens.judge_new_token(tenant, error).await),
    }
}
