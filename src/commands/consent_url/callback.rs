//! The other end of the consent link: a page on this machine to which Entra sends the admin's browser. Whatever arrives
//! here may come from anybody; only who knows `state` is heard, and only once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;
use uuid::Uuid;

use crate::error::{SyncError, shown, visible};
use crate::tenant::TenantId;

/// How long the browser may take to fetch the rest of its answer when we are done.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// Entra's descriptions are a few sentences; who else sends one is cut here.
const DESCRIPTION_MAX: usize = 600;

/// What Entra tells by the admin's browser. Nothing of it is proven.
#[derive(Debug, Clone)]
pub(super) enum ConsentAnswer {
    /// An admin of this tenant accepted, it says.
    Consented(TenantId),
    /// Nobody consented.
    Refused(Refusal),
}

/// Why there is no consent.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    /// As if the token endpoint had said it.
    pub(super) error: SyncError,
    /// In Entra's words.
    pub(super) description: String,
}

/// The page while it waits.
pub(super) struct ConsentCallback {
    answer: oneshot::Receiver<ConsentAnswer>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// What requests are compared with.
struct CallbackState {
    path: String,
    state: [u8; 32],
    answer: Mutex<Option<oneshot::Sender<ConsentAnswer>>>,
}

impl ConsentCallback {
    /// Waits at this path of an address for whoever knows `state`.
    pub(super) fn start(listener: TcpListener, path: &str, state: &str) -> Self {
        let (sender, answer) = oneshot::channel();
        let answered = Mutex::new(Some(sender));
        let expected = CallbackState {
            path: path.to_owned(),
            state: Sha256::digest(state).into(),
            answer: answered,
        };
        let router = Router::new().fallback(receive).with_state(Arc::new(expected));
        let stop = CancellationToken::new();
        let serving =
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let server = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(error = %error, "the listener ended");
            }
        });
        Self { answer, stop, server }
    }

    /// Waits for the one answer; `None` if the listener has ended.
    pub(super) async fn answer(&mut self) -> Option<ConsentAnswer> {
        (&mut self.answer).await.ok()
    }

    /// Lets the browser have its answer, and ends.
    pub(super) async fn close(self) {
        self.stop.cancel();
        drop(tokio::time::timeout(LAST_ANSWER, self.server).await);
    }
}

async fn receive(State(expected): State<Arc<CallbackState>>, method: Method, uri: Uri) -> Response {
    if method != Method::GET || uri.path() != expected.path {
        return page(StatusCode::NOT_FOUND, "There is nothing here", "");
    }
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let parameters: HashMap<String, String> = query.into_owned().collect();
    let state = parameters.get("state").map(String::as_str).unwrap_or_default();
    // Hashes are compared, so that the time it takes tells nothing of the value.
    if <[u8; 32]>::from(Sha256::digest(state)) != expected.state {
        eprintln!("An answer with another state was refused; waiting goes on.");
        let text = "This page was not reached by the link that incident-sync waits for. Open the newest link. \
                    Nothing was changed.";
        return page(StatusCode::BAD_REQUEST, "This is not the answer to our link", text);
    }
    let Some(answer) = read(&parameters) else {
        let text = "Entra's answer names neither a tenant nor an error. Open the link again.";
        return page(StatusCode::BAD_REQUEST, "This answer cannot be read", text);
    };
    let sender = expected.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    if sender.is_none_or(|sender| sender.send(answer.clone()).is_err()) {
        let text = "The answer was received before. Look at incident-sync for what came of it.";
        return page(StatusCode::GONE, "This link was used already", text);
    }
    match answer {
        ConsentAnswer::Consented(_) => page(
            StatusCode::OK,
            "Thank you",
            "The consent was received. incident-sync now proves it by asking Entra for a token, which may take some \
             minutes. You can close this page.",
        ),
        ConsentAnswer::Refused(refusal) => {
            let Refusal { error, description } = &refusal;
            let text = format!("{}. Entra said: {description}", error.diagnosis().advice);
            page(StatusCode::OK, "The consent was not given", &text)
        }
    }
}

fn read(parameters: &HashMap<String, String>) -> Option<ConsentAnswer> {
    let of = |name: &str| parameters.get(name).map(String::as_str);
    if let Some(error) = of("error") {
        let described: String =
            of("error_description").unwrap_or_default().chars().take(DESCRIPTION_MAX).collect();
        let description = visible(&described);
        let codes = codes(&description);
        let (error, trace_id) = (shown(error), String::new());
        let error = SyncError::Entra { status: 400, error, codes, trace_id, retry_after: None };
        return Some(ConsentAnswer::Refused(Refusal { error, description }));
    }
    let tenant = of("tenant")
        .filter(|tenant| tenant.len() == 36)
        .and_then(|tenant| Uuid::try_parse(tenant).ok())?;
    let is_consent =
        of("admin_consent").is_some_and(|consent| consent.eq_ignore_ascii_case("true"));
    is_consent.then_some(ConsentAnswer::Consented(TenantId(tenant)))
}

/// The numbers behind `AADSTS`.
fn codes(description: &str) -> Vec<u32> {
    let numbers = description.split("AADSTS").skip(1);
    let digits = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().ok()
    };
    numbers.filter_map(digits).collect()
}

/// A whole page without anything from elsewhere.
fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let (title, text) = (escaped(title), escaped(text));
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
    fn only_a_whole_answer_is_one() {
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
    fn a_refusal_is_judged_by_its_code_and_else_by_its_word() {
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
            "tenant_config"
        );
    }

    #[test]
    fn whatever_is_shown_is_text() {
        let text = escaped("<script>alert('a' & \"b\")</script>");
        assert_eq!(text, "&lt;script&gt;alert(&#39;a&#39; &amp; &quot;b&quot;)&lt;/script&gt;");
    }
}
