//! Sends the reply of an endpoint, with the scripted faults.

use std::io::Write;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use futures::stream;
use uuid::Uuid;

use super::fault::{Endpoint, ScriptedReply, defender_error, graph_error};
use super::graph;
use super::source::Source;
use super::tenant::Tenant;
use super::{Encoding, Service};

/// The content type of the real service. Its parameters test that clients do not compare the whole value.
const ODATA_JSON: &str =
    "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8";

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) headers: Vec<(String, String)>,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), headers: Vec::new() }
    }

    /// An error of the Defender API.
    pub(super) fn refusal(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, defender_error(code, message))
    }

    pub(super) fn odata(body: Vec<u8>) -> Self {
        Self {
            status: 200,
            body,
            headers: vec![
                ("Content-Type".to_owned(), ODATA_JSON.to_owned()),
                ("OData-Version".to_owned(), "4.0".to_owned()),
            ],
        }
    }
}

/// How a body is sent.
enum Delivery {
    Whole,
    Cut(usize),
    Drip(usize, Duration),
}

impl Service {
    /// Answers one request of a tenant: logs it, and sends the scripted reply or that of `normal`.
    pub(super) async fn serve(
        &self,
        tenant: Uuid,
        endpoint: Endpoint,
        query: String,
        request: &HeaderMap,
        normal: impl FnOnce() -> Answer,
    ) -> Response {
        let now = self.world.now();
        let (call, next) = self.world.with(tenant, |tenant| {
            let call = tenant.traffic.arrive(endpoint, now, query);
            (call, next_step(tenant, endpoint, now))
        });
        let reply = next.unwrap_or_else(|seconds| throttled(endpoint, seconds));
        let (answer, delivery) = match reply {
            ScriptedReply::Pass => (normal(), Delivery::Whole),
            ScriptedReply::CutBody { after_bytes } => (normal(), Delivery::Cut(after_bytes)),
            ScriptedReply::Drip { bytes, every } => (normal(), Delivery::Drip(bytes, every)),
            ScriptedReply::Delay(pause) => {
                tokio::time::sleep(pause).await;
                (normal(), Delivery::Whole)
            }
            ScriptedReply::Body(body) => (Answer::odata(body.into_bytes()), Delivery::Whole),
            ScriptedReply::Status { code, body, headers } => {
                (Answer { status: code, body: body.into_bytes(), headers }, Delivery::Whole)
            }
            ScriptedReply::ExpireToken => {
                self.world.revoke_tokens(tenant);
                let refusal = match endpoint.source() {
                    Some(Source::Graph) => graph::unauthorized(request),
                    _ => unauthorized(),
                };
                (refusal, Delivery::Whole)
            }
            ScriptedReply::Hang => {
                self.shutdown.cancelled().await;
                return self.send(Answer::new(503, ""), request, &Delivery::Whole);
            }
        };
        self.world.with(tenant, |tenant| {
            tenant.traffic.answered(call, answer.status);
        });
        self.send(answer, request, &delivery)
    }

    /// A response outside of any tenant's traffic.
    pub(super) fn reply(&self, answer: Answer, request: &HeaderMap) -> Response {
        self.send(answer, request, &Delivery::Whole)
    }

    fn send(&self, answer: Answer, request: &HeaderMap, delivery: &Delivery) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(answer.status).expect("a script gives valid statuses");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::DATE, text(&httpdate::fmt_http_date(self.world.now().into())));
        for (name, value) in &answer.headers {
            let name = HeaderName::try_from(name).expect("a script gives valid header names");
            headers.insert(name, text(value));
        }
        let mut body = answer.body;
        let encoding = self.encoding.name();
        if let Some(encoding) = encoding
            && answer.status == 200
            && accepts(request, encoding)
            && !headers.contains_key(header::CONTENT_ENCODING)
        {
            body = self.encoding.compress(&body);
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let body = Bytes::from(body);
        // The announced length is that of the whole body, so that a client detects the truncation.
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        *response.body_mut() = match delivery {
            Delivery::Whole => Body::from(body),
            Delivery::Cut(bytes) => cut(body, *bytes),
            Delivery::Drip(bytes, every) => self.drip(body, (*bytes).max(1), *every),
        };
        response
    }

    fn drip(&self, body: Bytes, bytes: usize, every: Duration) -> Body {
        let shutdown = self.shutdown.clone();
        Body::from_stream(stream::try_unfold(
            (body, shutdown),
            move |(mut rest, shutdown)| async move {
                if rest.is_empty() {
                    return Ok(None);
                }
                let ended = shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_none();
                if ended {
                    return Err(broken());
                }
                let piece = rest.split_to(bytes.min(rest.len()));
                Ok(Some((piece, (rest, shutdown))))
            },
        ))
    }
}

/// The reply to a request, or the seconds to wait. Every request counts against the quota; one beyond the quota consumes no
/// scripted reply.
fn next_step(
    tenant: &mut Tenant,
    endpoint: Endpoint,
    now: DateTime<Utc>,
) -> Result<ScriptedReply, i64> {
    if let Some(source) = endpoint.source() {
        if tenant.spec.behaviour.hang {
            return Ok(ScriptedReply::Hang);
        }
        tenant.traffic.admit(source, now)?;
    }
    let scripted = tenant.traffic.script(endpoint).pop_front();
    Ok(scripted.unwrap_or(ScriptedReply::Pass))
}

fn throttled(endpoint: Endpoint, seconds: i64) -> ScriptedReply {
    let text = format!("You have sent too many requests. Try again in {seconds} seconds.");
    let body = match endpoint.source() {
        Some(Source::Graph) => graph_error("TooManyRequests", &text, None),
        _ => defender_error("TooManyRequests", &text),
    };
    ScriptedReply::Status {
        code: 429,
        body,
        headers: vec![("Retry-After".to_owned(), seconds.to_string())],
    }
}

/// The 401 of the API.
pub(super) fn unauthorized() -> Answer {
    Answer::refusal(401, "Unauthorized", "Invalid or expired authorization header.")
}

fn cut(mut body: Bytes, after: usize) -> Body {
    if after >= body.len() {
        return Body::from(body);
    }
    body.truncate(after);
    // The pause sends the first part before the error resets the connection.
    Body::from_stream(stream::unfold(Some(body), |part| async move {
        match part {
            Some(part) if !part.is_empty() => Some((Ok(part), Some(Bytes::new()))),
            Some(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Err(broken()), None))
            }
            None => None,
        }
    }))
}

fn broken() -> std::io::Error {
    std::io::Error::other("the simulator breaks the connection here")
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::try_from(value).expect("a script gives valid header values")
}

/// Whether the client lists the encoding. Quality 0 is not supported.
fn accepts(request: &HeaderMap, encoding: &str) -> bool {
    request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offer| offer.split(';').next().is_some_and(|name| name.trim() == encoding))
}

impl Encoding {
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
        }
    }

    /// `deflate` is a raw stream, although RFC 9110 says zlib.
    fn compress(self, body: &[u8]) -> Vec<u8> {
        let into = Vec::with_capacity(body.len() / 4);
        let compressed = match self {
            Self::Identity => return body.to_vec(),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(into, Compression::fast());
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = DeflateEncoder::new(into, Compression::fast());
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
        };
        compressed.expect("writing into memory does not fail")
    }
}
