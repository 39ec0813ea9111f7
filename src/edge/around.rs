//! What every request and every answer goes through, in this order: one spelling of the path, a request id and one log
//! line, CORS, who may, the route, and last the reading of a body that nobody read.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, Version, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};
use tokio::time::Instant;

use crate::dialects::tus::wire;
use crate::edge::access::Origins;
use crate::edge::body::{Draining, Inlet};
use crate::edge::clients::Client;
use crate::edge::listen::exchange::HangUp;
use crate::edge::metrics::method_name;
use crate::edge::pace::MinRate;
use crate::edge::problem::{Problem, ProblemCode, RequestId, new_request_id};
use crate::edge::refusals::Reason;
use crate::edge::rejections::Rejected;
use crate::edge::route::Route;
use crate::edge::shares::{Part, UsedUp};
use crate::edge::{Shared, json, path};
use domain::dialect::Dialect;
use domain::id::UploadId;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");

/// Where Google's libraries start sessions.
const BUCKETS: &str = "/upload/";

pub(crate) async fn around(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let began = Instant::now();
    path::tidy(&mut request);
    let shared = request.app_data::<web::Data<Shared>>().expect("every app has its shared state").clone();
    let peer = request.peer_addr().map(|peer| peer.ip());
    let client = shared.proxies.client(peer, request.headers());
    request.extensions_mut().insert(Client(client));
    let chosen = if is_near(peer, &shared) { chosen_id(request.headers()) } else { None };
    let id = chosen.unwrap_or_else(new_request_id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let inlet = Inlet::tap(&mut request, min_rate(client, &shared));
    if carries_body(request.headers()) {
        detach(request.headers_mut());
    }

    let refused = shared.access.admit(&request, shared.engine.now()).and_then(|principal| {
        request.extensions_mut().insert(principal);
        take_share(&request, client, &shared)
    });
    let mut response = match refused {
        Err(refusal) => {
            let refusal = refusal.respond(request.request());
            request.into_response(refusal)
        }
        Ok(_part) => next.call(request).await?.map_into_boxed_body(),
    };
    if let Some(error) = response.response().error() {
        let rendered = from_framework(error, response.request());
        response = response.into_response(rendered);
    }
    if inlet.is_broken() {
        let detail = "the chunked framing of the body is broken; what came before that is kept";
        let broken = Problem::bad_request("broken-framing", detail).respond(response.request());
        response = response.into_response(broken);
    }
    let (http, mut answer) = response.into_parts();
    answer = shared.answers.hold(&http, answer).await;
    if inlet.is_too_slow() {
        shared.refusals.note(Reason::SlowBody, client, "limits.min_rate");
        answer.extensions_mut().insert(HangUp);
    }
    add_headers(&http, &shared, &id, answer.headers_mut());
    let route = Route::of(http.match_info().as_str());
    shared.metrics.answered(http.method().as_str(), route, answer.status());
    let problem = answer.extensions_mut().remove::<ProblemCode>();
    if let Some(code) = problem {
        // As long as its client likes, so it is logged only where it is a known one.
        let (status, method) = (answer.status(), method_name(http.method().as_str()));
        shared.rejections.note(code, &Rejected { status, method, route, client, request: &id });
    }
    tracing::debug!(
        request = %id,
        client = client.map(tracing::field::display),
        method = %http.method(),
        path = %path_for_log(http.path()),
        status = answer.status().as_u16(),
        took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    // HTTP/2 refuses the rest of a body without ending the connection, and an answer is over only when its body is.
    if http.version() != Version::HTTP_2 && !inlet.is_spent() && carries_body(http.headers()) {
        answer = answer.map_body(|_, body| BoxBody::new(Draining::new(body, inlet, shared.drain_timeout)));
    }
    Ok(ServiceResponse::new(http, answer))
}

/// A path without what a client calls its file: a plain upload names it there.
fn path_for_log(path: &str) -> Cow<'_, str> {
    match path.strip_prefix(wire::BASE_PATH).and_then(|rest| rest.strip_prefix('/')) {
        Some(name) if !name.is_empty() && name.parse::<UploadId>().is_err() => {
            Cow::Owned(format!("{}/{{name}}", wire::BASE_PATH))
        }
        Some(_) | None => Cow::Borrowed(path),
    }
}

/// Whether a request comes from this machine, or through a proxy that is trusted.
fn is_near(peer: Option<IpAddr>, shared: &Shared) -> bool {
    peer.is_some_and(|peer| peer.to_canonical().is_loopback() || shared.proxies.trusts(peer))
}

/// What the body of a request has to keep up with. Programs on this machine are not in a hurry.
fn min_rate(client: Option<IpAddr>, shared: &Shared) -> Option<MinRate> {
    let least = MinRate { bytes_per_second: shared.min_rate_bytes, window: shared.idle_timeout };
    let is_far = client.is_some_and(|client| !client.is_loopback());
    Some(least).filter(|least| is_far && least.bytes_per_second > 0)
}

/// Part of the client's share of uploads, for a request that brings bytes of one.
fn take_share(request: &ServiceRequest, client: Option<IpAddr>, shared: &Shared) -> Result<Part, Problem> {
    let path = request.path();
    let brings_bytes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        && (path.starts_with(wire::BASE_PATH) || path.starts_with(BUCKETS))
        && carries_body(request.headers());
    if !brings_bytes {
        return Ok(Part::default());
    }
    shared.shares.uploads.take(client).map_err(|UsedUp| {
        shared.refusals.note(Reason::Uploads, client, path);
        let detail =
            "clients at this address are sending as many uploads as are allowed at once; come back in a moment";
        Problem::try_again("too-many-uploads", detail, Duration::from_secs(5))
    })
}

/// A request id sent along is kept if it is one, so that logs of several servers can be joined.
fn chosen_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((8..=64).contains(&id.len()) && id.bytes().all(plain)).then(|| id.to_owned())
}

/// What the HTTP layer refused by itself, in our form.
fn from_framework(error: &Error, request: &HttpRequest) -> HttpResponse {
    let status = error.as_response_error().status_code();
    if status.is_server_error() {
        tracing::error!(error = %error, "the HTTP layer could not serve a request");
        return Problem::new(status, "internal", "the server could not do this").respond(request);
    }
    Problem::new(status, "bad-request", "the request could not be read").respond(request)
}

fn add_headers(request: &HttpRequest, shared: &Shared, id: &str, headers: &mut HeaderMap) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if headers.contains_key(header::CONTENT_TYPE) {
        json::name_charset(headers);
        confine(request, &shared.access.origins, headers);
    }
    // tus 1.0, Tus-Resumable: on every answer but that to OPTIONS. The clients of other dialects have no use for it.
    let route = request.match_pattern().unwrap_or_else(|| request.path().to_owned());
    let other = request.extensions().get::<Dialect>().is_some_and(|dialect| *dialect != Dialect::Tus);
    if route.starts_with(wire::BASE_PATH) && request.method() != Method::OPTIONS && !other {
        headers.insert(TUS_RESUMABLE, HeaderValue::from_static(wire::VERSION));
    }
    shared.cors.add_to(headers, request, &shared.access.origins);
}

/// Keeps an answer with content out of pages that may not read it, and what it shows from telling where it was.
fn confine(request: &HttpRequest, origins: &Origins, headers: &mut HeaderMap) {
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let is_shared = *origins == Origins::Any || origin.is_some_and(|origin| origins.allow(origin));
    let reach = if is_shared { "cross-origin" } else { "same-site" };
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static(reach));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
}

/// Copies header fields out of the buffer they were read into, into a map that is no larger than it must be.
///
/// The buffer is the connection's. While a field shares it, bytes of the body need another one beside it, for as long as
/// the body takes.
fn detach(headers: &mut HeaderMap) {
    let mut detached = HeaderMap::with_capacity(headers.len_keys());
    for (name, value) in headers.iter() {
        // Whatever the parser let pass can be copied; should it not be so one day, sharing does no harm.
        let copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        detached.append(name.clone(), copy);
    }
    *headers = detached;
}

fn carries_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
    length.is_some_and(|length| length != b"0") || headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn detached_fields_are_the_same_and_share_nothing() {
        let buffer = Bytes::from(b"first second 5".to_vec());
        let mut headers = HeaderMap::new();
        for (name, place) in [("upload-offset", 13..14), ("upload-metadata", 0..5), ("upload-metadata", 6..12)] {
            let value = HeaderValue::from_maybe_shared(buffer.slice(place)).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        assert!(!buffer.is_unique());
        detach(&mut headers);
        assert!(buffer.is_unique());
        let values = |name: &str| headers.get_all(name).map(HeaderValue::as_bytes).collect::<Vec<_>>();
        assert_eq!(
            (values("upload-offset"), values("upload-metadata")),
            (vec![&b"5"[..]], vec![&b"first"[..], b"second"])
        );
    }
}
