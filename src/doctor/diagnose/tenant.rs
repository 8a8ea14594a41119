//! Findings on a tenant: its token, its roles and one call.

use super::FindingBuilder;
use crate::doctor::tenant::{OtherScope, TenantProbe, TokenFacts};
use crate::doctor::{CheckResult, Finding, Group};
use crate::entra::claims::TokenCheck;
use crate::error::{Owner, SyncError};
use crate::tenant::Source;

pub(super) fn findings(probe: &TenantProbe, all: &[TenantProbe]) -> Vec<Finding> {
    let rows = FindingBuilder { group: Group::Tenants, about: &probe.name };
    let facts = match &probe.token {
        Some(Ok(facts)) => facts,
        Some(Err(error @ SyncError::WrongTenant { .. })) => {
            let mut found =
                vec![rows.ok("token", "Entra issues a token"), rows.error("tid", error)];
            found.extend(
                ["roles", "audience", "call"]
                    .map(|check| rows.not_tried(check, "the token is for another tenant")),
            );
            return found;
        }
        Some(Err(error)) => {
            let token = with_other_scope(refused_token(&rows, error, all), probe);
            let mut found = vec![token];
            found.extend(
                ["tid", "roles", "audience", "call"].map(|check| rows.not_tried(check, "no token")),
            );
            return found;
        }
        None => {
            let because = "Entra was not reached";
            return ["token", "tid", "roles", "audience", "call"]
                .map(|check| rows.not_tried(check, because))
                .into();
        }
    };
    let call = match &probe.call {
        Some(Ok(())) => rows.ok("call", "the API answers"),
        Some(Err(error)) if error.diagnosis().class.is_database() => uncounted(&rows, error),
        Some(Err(error)) => with_other_scope(rows.error("call", error), probe),
        None => rows.not_tried("call", "the API was not reached"),
    };
    let answers = matches!(probe.call, Some(Ok(())));
    let [tid, roles] = claims(&rows, facts.check, probe.source, answers);
    vec![token(&rows, facts), tid, roles, audience(&rows, facts, probe), call]
}

/// A token by another credential hides that the first one is refused.
fn token(rows: &FindingBuilder, facts: &TokenFacts) -> Finding {
    let Some((credential, error)) = &facts.refused else {
        return rows.ok("token", "Entra issues a token");
    };
    let problem = format!("Entra issues a token, but refuses the credential {credential}");
    let row = rows.warning("token", format!("{problem}. {}", error.diagnosis().advice));
    Finding { error: Some(error.into()), ..row }
}

/// Which of the two scopes works.
fn with_other_scope(row: Finding, probe: &TenantProbe) -> Finding {
    let Some(OtherScope { scope, call }) = &probe.other_scope else { return row };
    let refused = &probe.scope;
    let advice = match call {
        Ok(()) => format!(
            "The scope {refused} does not work in this tenant, and {scope} does. Set scope = \"{scope}\""
        ),
        Err(error) => {
            format!("{} Both scopes were tried; {scope} was refused as well: {error}", row.advice)
        }
    };
    let who = Some(Owner::Operator.as_str()).filter(|_| call.is_ok());
    Finding { advice, who_must_act: who.or(row.who_must_act), ..row }
}

/// A call that cannot be counted against the quota is not made.
fn uncounted(rows: &FindingBuilder, error: &SyncError) -> Finding {
    let problem = "the database, which counts the calls, failed; see its findings";
    Finding { error: Some(error.into()), ..rows.not_tried("call", problem) }
}

/// A refused credential is the cause for every tenant, including those that the circuit breaker skipped.
fn refused_token(rows: &FindingBuilder, error: &SyncError, all: &[TenantProbe]) -> Finding {
    let row = rows.error("token", error);
    let SyncError::CredentialBreaker { code } = error else { return row };
    let failures = all.iter().filter_map(|probe| probe.token.as_ref()?.as_ref().err());
    let cause =
        failures.into_iter().find(|failure| failure.shared_credential_code() == Some(*code));
    let advice =
        cause.map_or_else(|| row.advice.clone(), |cause| cause.diagnosis().advice.into_owned());
    Finding { advice, ..row }
}

fn claims(rows: &FindingBuilder, check: TokenCheck, source: Source, answers: bool) -> [Finding; 2] {
    let (permission, resource) = (source.permission(), source.resource());
    let opaque = "the token is opaque, which Microsoft reserves the right to issue";
    match check {
        TokenCheck::Valid => [
            rows.ok("tid", "the token is for this tenant"),
            rows.ok("roles", format!("the token has {permission}")),
        ],
        TokenCheck::Unreadable => [
            rows.warning(
                "tid",
                format!("{opaque}, so its tenant is unverified; it is used anyway"),
            ),
            rows.not_tried("roles", opaque),
        ],
        TokenCheck::RoleMissing => {
            let tid = rows.ok("tid", "the token is for this tenant");
            let problem = format!("The token lacks the role {permission}");
            if answers {
                return [tid, rows.warning("roles", format!("{problem}, but the API answers"))];
            }
            let fix = format!(
                "Add the application permission of {resource} to the app registration, then the customer's admin must consent again"
            );
            let who = Some(Owner::CustomerAdmin.as_str());
            [tid, rows.row("roles", CheckResult::Failure, who, format!("{problem}. {fix}"))]
        }
    }
}

/// Audiences of the Defender API: those of Microsoft Threat Protection, its former name.
pub(super) const AUDIENCES: [&str; 2] =
    ["8ee8fdad-f234-4243-8f3b-15c294843740", "https://security.microsoft.com/mtp"];

/// Tokens of Graph are opaque to clients, and no source states their audience: it is shown, and proves nothing.
fn audience(rows: &FindingBuilder, facts: &TokenFacts, probe: &TenantProbe) -> Finding {
    let check = "audience";
    let Some(audience) = &facts.audience else {
        return rows.not_tried(check, "the token is opaque");
    };
    if probe.source == Source::Graph {
        return rows
            .ok(check, format!("{audience}; a token of Microsoft Graph is not judged by it"));
    }
    let bare = audience.trim_end_matches('/');
    let requested = probe.scope.trim_end_matches(".default").trim_end_matches('/');
    // Entra also issues tokens for the scope of another service, which the API does not accept.
    let is_foreign = ["graph.microsoft.com", "securitycenter", "management.azure.com"]
        .iter()
        .any(|other| bare.contains(other));
    if AUDIENCES.contains(&bare) || (bare == requested && !is_foreign) {
        return rows.ok(check, "the token is for the API");
    }
    let problem = format!(
        "The token is for {audience}, not for the Defender API. Check scope, cloud and token_version"
    );
    match &probe.call {
        Some(Ok(())) => rows.warning(check, format!("{problem}. The API accepts it anyway")),
        _ => rows.failure(check, problem),
    }
}
