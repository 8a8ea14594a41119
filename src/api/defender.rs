//! The incidents API of Microsoft 365 Defender. Sources: `MicrosoftDocs/defender-docs`, `api-list-incidents.md` and
//! `api-error-codes.md`.

use std::time::Duration;

use reqwest::Url;
use serde_json::value::RawValue;

use crate::error::{SyncError, TokenCheck};
use crate::http_client;
use crate::incident::paging::Request;
use crate::tenant::Source;

pub(super) fn page_url(base: &Url, request: &Request) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/api/incidents", base.path().trim_end_matches('/')));
    let mut query = url.query_pairs_mut();
    if let Some(filter) = request.window.filter(Source::Defender) {
        query.append_pair("$filter", &filter);
    }
    query.append_pair("$top", &request.top.to_string());
    if request.skip > 0 {
        query.append_pair("$skip", &request.skip.to_string());
    }
    drop(query);
    url
}

/// The message is free text and stays out. An error object is the API's word, even with an empty code; another body comes from
/// something on the network path. The statuses that are left out say enough without a body.
pub(super) fn refusal(
    status: u16,
    body: &str,
    retry_after: Option<Duration>,
    token: TokenCheck,
) -> SyncError {
    let api = Source::Defender;
    let error = http_client::field(body, "error").map_or("", RawValue::get);
    let code = http_client::word(error, "code");
    let target = http_client::word(error, "target");
    let is_foreign = if status == 401 {
        super::is_html(body)
    } else {
        !super::is_error_object(error)
            && matches!(status, 400..=499)
            && !matches!(status, 408 | 429)
            && (status, token) != (403, TokenCheck::RoleMissing)
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
    use fastrand::Rng;

    use super::*;
    use crate::error::Owner;
    use crate::incident::window::Window;
    use crate::mutate::{Json, each_seed, garbled};

    #[test]
    fn request_url_encodes_filter_and_paging() {
        let base = "https://api.security.microsoft.com/".parse().unwrap();
        let from = Some("2026-01-02T03:04:05Z".parse().unwrap());
        let request = Request {
            window: Window { from, to: None, status: None },
            skip: 99,
            top: 100,
            ..Request::probe()
        };
        let expected = "https://api.security.microsoft.com/api/incidents?%24filter=lastUpdateTime+ge+2026-01-02T03%3A04%3A05Z&%24top=100&%24skip=99";
        assert_eq!(page_url(&base, &request).as_str(), expected);
    }

    #[test]
    fn error_reply_becomes_code_target_and_class() {
        let body = include_str!("../../tests/data/defender_docs_error_resource_not_found.json");
        let SyncError::Api { status, code, target, .. } =
            refusal(404, body, None, TokenCheck::Valid)
        else {
            panic!("wrong kind")
        };
        assert_eq!(
            (status, code.as_str(), target.as_str()),
            (404, "ResourceNotFound", "43f4cb08-8fac-4b65-9db1-745c2ae65f3a")
        );
        for status in [400, 403, 404] {
            for body in ["", "<html>blocked by policy</html>", "{}", r#"{"error":"blocked"}"#] {
                let diagnosis = refusal(status, body, None, TokenCheck::Valid).diagnosis();
                assert_eq!(
                    (diagnosis.class.as_str(), diagnosis.owner),
                    ("bad_reply", Owner::Nobody),
                    "{status} {body}"
                );
            }
        }
        let error = refusal(401, "<!DOCTYPE html><html>sign in</html>", None, TokenCheck::Valid);
        assert_eq!(error.diagnosis().class.as_str(), "bad_reply");
        for status in [408, 429, 500, 502] {
            assert!(
                matches!(refusal(status, "<html>", None, TokenCheck::Valid), SyncError::Api { .. }),
                "{status}"
            );
        }
        let error = refusal(403, "<html>", None, TokenCheck::RoleMissing);
        assert!(error.to_string().contains("Incident.Read.All"));
    }

    #[test]
    fn any_error_reply_is_short_and_printable() {
        let documented =
            Json::of(include_str!("../../tests/data/defender_docs_error_resource_not_found.json"));
        let mut read = 0;
        each_seed(1_000, |seed| {
            let mut random = Rng::with_seed(seed);
            let status = 300 + u16::try_from(random.usize(..300)).unwrap();
            let body = documented.mutated(&mut random).to_string();
            for body in [&body, &garbled(&body, &mut random)] {
                let error = refusal(status, body, None, TokenCheck::Valid);
                let text = error.to_string();
                assert!(text.chars().count() < 250 && !text.contains(char::is_control), "{text:?}");
                error.diagnosis();
                read += usize::from(text.contains("ResourceNotFound"));
            }
        });
        assert!(read > 0, "no error word was read");
    }

    #[test]
    fn malformed_error_field_hides_no_other() {
        let body = r#"{"error":{"code":"A\u0000B\nC","target":7},"error":{"code":"A\u0000B\nC","target":[7]}}"#;
        let SyncError::Api { code, target, .. } = refusal(400, body, None, TokenCheck::Valid)
        else {
            panic!("wrong kind")
        };
        assert_eq!((code.as_str(), target.as_str()), ("ABC", ""));
    }
}
