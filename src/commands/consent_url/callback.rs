//! The redirect target of the consent link on this machine. Requests are untrusted: only one with the right `state`
//! is accepted, and only once; one of another directory than the named one is reported, and the listener continues.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;
use uuid::Uuid;

use super::ConsentRequest;
use crate::error::{EntraDetails, SyncError, codes_in, first_sentence, shown, visible};
use crate::tenant::TenantId;

/// The time for the browser to receive the last page.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Entra's descriptions are a few sentences; anything longer is cut.
const DESCRIPTION_MAX: usize = 600;

/// Entra's answer through the admin's browser. Unverified.
#[derive(Debug, Clone)]
pub(super) enum ConsentAnswer {
    /// An admin of this tenant consented.
    Consented(TenantId),
    /// The consent was refused.
    Refused(Refusal),
}

#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// The error as the token endpoint would report it.
    pub(super) error: SyncError,
    pub(super) description: String,
}

/// The running listener.
pub(super) struct ConsentCallback {
    answer: oneshot::Receiver<ConsentAnswer>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

struct CallbackState {
    path: String,
    state: [u8; 32],
    expected: Option<TenantId>,
    client_id: String,
    answer: Mutex<Option<oneshot::Sender<ConsentAnswer>>>,
}

impl ConsentCallback {
    /// Accepts one request at this path with this `state`, of the named directory if there is one.
    pub(super) fn start(
        listener: TcpListener,
        path: &str,
        state: &str,
        request: &ConsentRequest,
    ) -> Self {
        let (sender, answer) = oneshot::channel();
        let expected = CallbackState {
            path: path.to_owned(),
            state: Sha256::digest(state).into(),
            expected: request.directory,
            client_id: request.app.client_id.clone(),
            answer: Mutex::new(Some(sender)),
        };
        let router = Router::new().fallback(receive).with_state(Arc::new(expected));
        let stop = CancellationToken::new();
        let server =
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(error = %error, "The listener for the consent failed");
            }
        });
        Self { answer, stop, server }
    }

    /// Waits for the answer. `None` if the listener failed.
    pub(super) async fn answer(&mut self) -> Option<ConsentAnswer> {
        (&mut self.answer).await.ok()
    }

    /// Stops after the browser has received its page.
    pub(super) async fn close(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.server).await;
    }
}

async fn receive(State(expected): State<Arc<CallbackState>>, method: Method, uri: Uri) -> Response {
    if method != Method::GET || uri.path() != expected.path {
        return page(StatusCode::NOT_FOUND, "Not found", "");
    }
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let parameters: HashMap<String, String> = query.into_owned().collect();
    let state = parameters.get("state").map(String::as_str).unwrap_or_default();
    // Comparing hashes takes the same time for every value.
    if <[u8; 32]>::from(Sha256::digest(state)) != expected.state {
        eprintln!("Rejected a response with a wrong state; still waiting.");
        let text = "This response does not belong to the link that incident-sync is waiting for. Open the newest link. \
                    Nothing was changed.";
        return page(StatusCode::BAD_REQUEST, "Wrong link", text);
    }
    let Some(answer) = read(&parameters) else {
        eprintln!(
            "Rejected a response without a directory id and without an error; still waiting."
        );
        let text = "The response contains neither a tenant nor an error. Open the link again.";
        return page(StatusCode::BAD_REQUEST, "Invalid response", text);
    };
    if let (ConsentAnswer::Consented(id), Some(directory)) = (&answer, expected.expected)
        && *id != directory
    {
        let text = stray_consent(*id, directory, &expected.client_id);
        eprintln!("{text} Still waiting for {directory}.");
        return page(StatusCode::CONFLICT, "Wrong directory", &text);
    }
    let sender = expected.answer.lock().take();
    if sender.is_none_or(|sender| sender.send(answer.clone()).is_err()) {
        let text =
            "The response was received before. See the output of incident-sync for its result.";
        return page(StatusCode::GONE, "This link was already used", text);
    }
    match answer {
        ConsentAnswer::Consented(_) => page(
            StatusCode::OK,
            "Thank you",
            "The consent was received. incident-sync now verifies it by requesting a token, which may take some \
             minutes. You can close this page.",
        ),
        ConsentAnswer::Refused(refusal) => {
            let Refusal { error, description } = &refusal;
            let text = format!("{}. Entra reported: {description}", error.diagnosis().advice);
            page(StatusCode::OK, "The consent was not given", &text)
        }
    }
}

/// Often an admin who is a guest in the named directory, and signed in with the account of another one.
fn stray_consent(id: TenantId, directory: TenantId, client_id: &str) -> String {
    format!(
        "Directory {id} consented instead of {directory}; nothing was written. It now holds a consent that is not needed: its \
         admin should delete the app {client_id} there, under Enterprise applications, Properties. Open the link again in a \
         private window and sign in with an admin account of {directory}."
    )
}

fn read(parameters: &HashMap<String, String>) -> Option<ConsentAnswer> {
    let of = |name: &str| parameters.get(name).map(String::as_str);
    if let Some(error) = of("error") {
        let described: String =
            of("error_description").unwrap_or_default().chars().take(DESCRIPTION_MAX).collect();
        let description = visible(&described);
        let details =
            EntraDetails { sentence: first_sentence(&description), ..EntraDetails::default() };
        let error = SyncError::Entra {
            status: 400,
            error: shown(error),
            codes: codes_in(&description),
            retry_after: None,
            details: Box::new(details),
        };
        return Some(ConsentAnswer::Refused(Refusal { error, description }));
    }
    let tenant = of("tenant")
        .filter(|tenant| tenant.len() == 36)
        .and_then(|tenant| Uuid::try_parse(tenant).ok())?;
    let is_consent =
        of("admin_consent").is_some_and(|consent| consent.eq_ignore_ascii_case("true"));
    is_consent.then_some(ConsentAnswer::Consented(TenantId(tenant)))
}

/// A page without external resources.
fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let title = escaped(title);
    let text = escaped(text);
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} - incident-sync</title>\
         <style>:root{{color-scheme:light dark}}body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;\
         margin:15vh auto;padding:0 1rem}}</style></head>\n<body><h1>{title}</h1><p>{text}</p></body></html>\n"
    );
    let mut response = (status, Html(html)).into_response();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Option<ConsentAnswer> {
        read(&form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    #[test]
    fn incomplete_answer_is_ignored() {
        let tenant = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
        let good = of(&format!("admin_consent=True&tenant={tenant}"));
        assert!(
            matches!(good, Some(ConsentAnswer::Consented(id)) if id.to_string() == tenant),
            "{good:?}"
        );
        for odd in
            ["", "tenant=7&admin_consent=True", &format!("tenant={tenant}"), "admin_consent=True"]
        {
            assert!(of(odd).is_none(), "{odd}");
        }
        let both = of(&format!("admin_consent=True&tenant={tenant}&error=access_denied"));
        assert!(
            matches!(both, Some(ConsentAnswer::Refused(_))),
            "an error wins over a tenant: {both:?}"
        );
    }

    #[test]
    fn refusal_is_classified_by_code_then_error() {
        let class = |query: &str| match of(query) {
            Some(ConsentAnswer::Refused(refusal)) => refusal.error.diagnosis().class.as_str(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            class("error=x&error_description=AADSTS500011:+The+resource+AADSTS1"),
            "not_licensed"
        );
        assert_eq!(
            class("error=permission_denied&error_description=The+admin+canceled"),
            "consent_missing"
        );
        assert_eq!(
            class("error=%00%0A&error_description=AADSTS99999999999999999999"),
            "unknown_entra_error"
        );
    }

    #[test]
    fn shown_text_is_escaped() {
        let text = escaped("<script>alert('a' & \"b\")</script>");
        assert_eq!(text, "&lt;script&gt;alert(&#39;a&#39; &amp; &quot;b&quot;)&lt;/script&gt;");
    }
}
