//! The security API of Microsoft Graph. Sources: `microsoftgraph/microsoft-graph-docs-contrib`, `security-list-incidents.md`,
//! `security-incident-get.md`, `security-error-codes.md`; bodies of errors as seen in public logs.

use std::time::Duration;

use reqwest::{RequestBuilder, Url};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::error::{SyncError, TokenCheck};
use crate::http_client;
use crate::incident::paging::{Listing, Request};
use crate::tenant::Source;

/// Without `Prefer`, members that were added to an enumeration later come as `unknownFutureValue`. Microsoft's support finds a
/// request by the `client-request-id`.
pub(super) fn headers(request: RequestBuilder) -> RequestBuilder {
    request
        .header("Prefer", "include-unknown-enum-members")
        .header("client-request-id", Uuid::new_v4().to_string())
}

pub(super) fn page_url(base: &Url, request: &Request) -> Url {
    let list = if request.listing == Listing::Alerts { "alerts_v2" } else { "incidents" };
    let mut url = security_url(base, list);
    let mut query = url.query_pairs_mut();
    if let Some(filter) = request.window.filter(Source::Graph) {
        query.append_pair("$filter", &filter);
    }
    if request.is_ascending {
        query.append_pair("$orderby", "lastUpdateDateTime asc");
    }
    query.append_pair("$top", &request.top.to_string());
    if request.skip > 0 {
        query.append_pair("$skip", &request.skip.to_string());
    }
    match request.listing {
        Listing::Versions => {
            query.append_pair("$select", "id,lastUpdateDateTime");
        }
        Listing::Incidents | Listing::Incident(_) => {
            query.append_pair("$expand", "alerts");
        }
        Listing::Alerts => {}
    }
    drop(query);
    url
}

/// One incident with its alerts.
pub(super) fn whole_incident_url(base: &Url, id: i64) -> Url {
    let mut url = incident_url(base, id);
    url.query_pairs_mut().append_pair("$expand", "alerts");
    url
}

/// One incident without its alerts.
pub(super) fn incident_url(base: &Url, id: i64) -> Url {
    security_url(base, &format!("incidents/{id}"))
}

/// The first page of the alerts of one incident.
pub(super) fn alerts_url(base: &Url, id: i64) -> Url {
    security_url(base, &format!("incidents/{id}/alerts"))
}

fn security_url(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/v1.0/security/{path}", base.path().trim_end_matches('/')));
    url
}

/// Graph's own errors may have an empty code. The message is free text and stays out.
pub(super) fn refusal(
    status: u16,
    body: &str,
    retry_after: Option<Duration>,
    token: TokenCheck,
) -> SyncError {
    let api = Source::Graph;
    let error = http_client::field(body, "error").map_or("", RawValue::get);
    let code = http_client::word(error, "code");
    let inner = http_client::field(error, "innerError").map(RawValue::get);
    let target = http_client::word(inner.unwrap_or_default(), "request-id");
    let is_foreign = if status == 401 {
        super::is_html(body)
    } else {
        !super::is_error_object(error)
            && matches!(status, 400..=499)
            && !matches!(status, 408 | 429)
    };
    if is_foreign {
        let what = format!("status {status} without an error of the API");
        return SyncError::ApiReply { api, what };
    }
    let names_licence = super::names_licence(error);
    SyncError::Api { api, status, code, target, retry_after, token, names_licence }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorClass, Owner, Retry};
    use crate::incident::window::Window;

    const TOP_LIMIT: &str = include_str!("../../tests/data/graph_error_top_limit_exceeded.json");
    const NO_ROLES: &str = include_str!("../../tests/data/graph_docs_error_403_missing_roles.json");
    const BAD_TOKEN: &str =
        include_str!("../../tests/data/graph_docs_error_401_invalid_token.json");

    fn request(listing: Listing) -> Request {
        let from = Some("2026-01-02T03:04:05.123456Z".parse().unwrap());
        let window = Window { from, to: None, status: None };
        Request { listing, window, skip: 0, top: 50, is_ascending: true, link: None }
    }

    #[test]
    fn list_url_orders_and_expands_alerts() {
        let base = "https://graph.microsoft.com/".parse().unwrap();
        let start = "https://graph.microsoft.com/v1.0/security/incidents?%24filter=lastUpdateDateTime+ge+2026-01-02T03%3A04%3A05.123456Z&%24orderby=lastUpdateDateTime+asc&%24top=50";
        let incidents = page_url(&base, &request(Listing::Incidents));
        assert_eq!(incidents.as_str(), format!("{start}&%24expand=alerts"));
        let versions = page_url(&base, &request(Listing::Versions));
        assert_eq!(versions.as_str(), format!("{start}&%24select=id%2ClastUpdateDateTime"));
        let alerts = page_url(&base, &request(Listing::Alerts));
        assert_eq!(alerts.as_str(), start.replace("/incidents?", "/alerts_v2?"));
    }

    #[test]
    fn error_of_graph_becomes_class_owner_retry() {
        use {ErrorClass as Class, TokenCheck::*};
        let table = [
            (400, TOP_LIMIT, Valid, Class::BadRequest, Owner::Developers, Retry::NextRun),
            (401, BAD_TOKEN, Valid, Class::Unauthorized, Owner::Nobody, Retry::WithNewToken),
            (
                403,
                NO_ROLES,
                RoleMissing,
                Class::MissingRole,
                Owner::CustomerAdmin,
                Retry::WithNewToken,
            ),
            (403, NO_ROLES, Valid, Class::NotLicensed, Owner::CustomerAdmin, Retry::OnceFixed),
            (
                403,
                NO_ROLES,
                Unreadable,
                Class::Forbidden,
                Owner::CustomerAdmin,
                Retry::WithNewToken,
            ),
            (404, TOP_LIMIT, Valid, Class::TenantConfig, Owner::CustomerAdmin, Retry::OnceFixed),
            (206, "", Valid, Class::Upstream, Owner::Nobody, Retry::Now),
            (500, "", Valid, Class::Upstream, Owner::Nobody, Retry::Now),
            (403, "<html>", Valid, Class::BadReply, Owner::Nobody, Retry::Now),
            (400, r#"{"error":"x"}"#, Valid, Class::BadReply, Owner::Nobody, Retry::Now),
        ];
        for (status, body, token, class, owner, retry) in table {
            let diagnosis = refusal(status, body, None, token).diagnosis();
            let found = (diagnosis.class, diagnosis.owner, diagnosis.retry);
            assert_eq!(found, (class, owner, retry), "{status} {token:?} {body}");
        }
    }

    #[test]
    fn tracking_id_is_the_request_id() {
        let error = refusal(400, TOP_LIMIT, None, TokenCheck::Valid);
        assert!(error.to_string().contains("65fe78a8-cade-409c-9e18-61374c132118"), "{error}");
    }

    #[test]
    fn partial_page_is_retried_smaller() {
        assert!(refusal(206, "", None, TokenCheck::Valid).smaller_page_may_help());
    }
}
