//! The processing of each request and its response. In this order: normalizes the path, determines the client
//! and the request id, finds the row of the route table, checks access and limits, runs the handler, adds
//! header fields (CORS among them), counts and logs the response, and discards what is left of the body.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, Version, header};
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse};
use tokio::time::Instant;

use crate::access::Origins;
use crate::address_limits::{AddressSlot, LimitReached};
use crate::body::{DrainingAnswer, RequestBody, carries_body};
use crate::body_rate::MinRate;
use crate::clients::Client;
use crate::listen::ListenerRole;
use crate::listen::exchange::HangUp;
use crate::metrics::method_name;
use crate::problem::{Problem, ProblemCode, RequestId, new_request_id};
use crate::refusals::Reason;
use crate::rejections::RejectedRequest;
use crate::table::{MarkerField, RoutePath, RoutedRequest};
use crate::{Edge, json, path};
use domain::id::UploadId;
use domain::time::milliseconds;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The position of what the client has written, which it may name in later requests.
pub const POSITION: HeaderName = HeaderName::from_static("longshore-position");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Serves a request and returns its response.
pub(crate) async fn serve(edge: &Edge, role: ListenerRole, mut request: ServiceRequest) -> ServiceResponse<BoxBody> {
    let began = Instant::now();
    path::normalize(&mut request);
    let peer = request.peer_addr().map(|peer| peer.ip());
    let client = edge.addresses.proxies.client(peer, request.headers());
    request.extensions_mut().insert(Client(client));
    let chosen = if is_near(peer, edge) { chosen_id(request.headers()) } else { None };
    let id = chosen.unwrap_or_else(new_request_id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let request_body = RequestBody::tap(&mut request, min_rate(client, edge));
    if carries_body(request.headers()) {
        detach(request.headers_mut());
    }

    let address = Arc::clone(edge.table.find(request.match_info().as_str()));
    let admitted = admit(&request, &address, role, client, edge);
    let writes = admitted.is_ok() && may_write(request.method(), &address);
    let (http, payload) = request.into_parts();
    let mut answer = match admitted {
        Err(refusal) => refusal.respond(&http),
        Ok(_part) => RoutedRequest::new(http.clone(), payload, &address).answer().await,
    };
    if let Some(error) = answer.error() {
        answer = from_framework(error, &http);
    }
    if request_body.is_broken() {
        let detail = "the chunked encoding of the body is invalid; the bytes before the error are kept";
        answer = Problem::bad_request("broken-framing", detail).respond(&http);
    }
    answer = edge.answers.hold(&http, answer).await;
    if request_body.is_too_slow() {
        edge.refusals.note(Reason::SlowBody, client, "limits.min_rate");
        answer.extensions_mut().insert(HangUp);
    }
    add_headers(&http, &address, edge, &id, answer.headers_mut());
    if writes && let Some(position) = (edge.position)().await {
        let position = HeaderValue::try_from(position.to_string()).expect("letters, digits and hyphens make a field");
        answer.headers_mut().insert(POSITION, position);
    }
    let label = address.label();
    edge.metrics.answered(http.method().as_str(), label, answer.status());
    let problem = answer.extensions_mut().remove::<ProblemCode>();
    if let Some(code) = problem {
        // A client chooses the length of its method, so the log shows one of the known names.
        let (status, method) = (answer.status(), method_name(http.method().as_str()));
        edge.rejections.note(code, &RejectedRequest { status, method, route: label.name, client, request: &id });
    }
    tracing::debug!(
        request = %id,
        client = client.map(tracing::field::display),
        method = %http.method(),
        path = %path_for_log(&http, &address),
        status = answer.status().as_u16(),
        took_ms = milliseconds(began.elapsed()),
        "answered"
    );
    // HTTP/2 rejects the rest of a body without closing the connection. Draining would delay the end of the
    // response there, because a response ends with its body.
    if http.version() != Version::HTTP_2 && !request_body.is_spent() && carries_body(http.headers()) {
        answer =
            answer.map_body(|_, body| BoxBody::new(DrainingAnswer::new(body, request_body, edge.bodies.drain_timeout)));
    }
    ServiceResponse::new(http, answer)
}

/// Admits a request to its handler: its principal has the needed right, the listener serves the method, and
/// the limit of the client's address is not reached.
fn admit(
    request: &ServiceRequest,
    address: &RoutePath,
    role: ListenerRole,
    client: Option<IpAddr>,
    edge: &Edge,
) -> Result<AddressSlot, Problem> {
    let wanted = edge.table.requested_access_at(address, request);
    let principal = edge.access.admit(request.head(), &wanted, (edge.now)())?;
    request.extensions_mut().insert(principal);
    let part = take_slot(request, address, client, edge)?;
    match role {
        ListenerRole::All => Ok(part),
        ListenerRole::Reading => address.unless_it_reads(request.method().as_str()).map_or(Ok(part), Err),
        ListenerRole::ReadNode if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) => {
            let detail = "this node serves only reads (role = \"read\"); the load balancer must send other requests to \
                          upload nodes";
            Err(Problem::try_again("read-node", detail, Duration::from_secs(1)))
        }
        ListenerRole::ReadNode => Ok(part),
    }
}

/// Reports whether a request may have changed something. HEAD at an address for uploads commits the bytes
/// that have arrived.
fn may_write(method: &Method, address: &RoutePath) -> bool {
    match *method {
        Method::GET | Method::OPTIONS => false,
        Method::HEAD => address.uploads().is_some(),
        _ => true,
    }
}

/// Returns the path without the client's file name, which the path of a plain upload contains.
fn path_for_log<'a>(request: &'a HttpRequest, address: &RoutePath) -> &'a str {
    let named = || address.parameter(request.match_info().as_str(), 0).and_then(|name| name.parse::<UploadId>().ok());
    match address.uploads() {
        Some(_) if named().is_none() => address.pattern(),
        Some(_) | None => request.path(),
    }
}

/// Returns whether a request comes from this machine or through a trusted proxy.
fn is_near(peer: Option<IpAddr>, edge: &Edge) -> bool {
    peer.is_some_and(|peer| peer.to_canonical().is_loopback() || edge.addresses.proxies.trusts(peer))
}

/// Returns the minimum rate of a request's body. It does not apply to programs on this machine.
fn min_rate(client: Option<IpAddr>, edge: &Edge) -> Option<MinRate> {
    let least = MinRate { bytes_per_second: edge.bodies.min_rate_bytes, window: edge.bodies.idle_timeout };
    let is_far = client.is_some_and(|client| !client.is_loopback());
    Some(least).filter(|least| is_far && least.bytes_per_second > 0)
}

/// Takes one of the address's upload slots for a request that carries bytes of an upload.
fn take_slot(
    request: &ServiceRequest,
    address: &RoutePath,
    client: Option<IpAddr>,
    edge: &Edge,
) -> Result<AddressSlot, Problem> {
    let brings_bytes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        && address.uploads().is_some()
        && carries_body(request.headers());
    if !brings_bytes {
        return Ok(AddressSlot::default());
    }
    edge.uploads.take(client).map_err(|LimitReached| {
        edge.refusals.note(Reason::Uploads, client, request.path());
        let detail = "the limit of concurrent uploads from this client address is reached \
                      (limits.max_active_uploads_per_address); retry in a moment";
        Problem::try_again("too-many-uploads", detail, Duration::from_secs(5))
    })
}

/// Returns the request id that the client sent, if it is a valid one, so that logs of several servers can be
/// joined.
fn chosen_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((8..=64).contains(&id.len()) && id.bytes().all(plain)).then(|| id.to_owned())
}

/// Renders an error of actix as a problem.
fn from_framework(error: &Error, request: &HttpRequest) -> HttpResponse {
    let status = error.as_response_error().status_code();
    if status.is_server_error() {
        tracing::error!(error = %error, "the HTTP layer could not serve a request");
        return Problem::new(status, "internal", "the server could not process the request").respond(request);
    }
    Problem::new(status, "bad-request", "the request could not be read").respond(request)
}

fn add_headers(request: &HttpRequest, address: &RoutePath, edge: &Edge, id: &str, headers: &mut HeaderMap) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if headers.contains_key(header::CONTENT_TYPE) {
        json::name_charset(headers);
        confine(request, &edge.access.origins, headers);
    }
    if request.method() != Method::OPTIONS {
        let extensions = request.extensions();
        let chosen = extensions.get::<MarkerField>().map(|MarkerField(chosen)| chosen);
        let marker = chosen.or(address.uploads().map(|uploads| &uploads.marker));
        if let Some((name, value)) = marker.and_then(Option::as_ref) {
            headers.insert(name.clone(), value.clone());
        }
    }
    edge.cors.add_to(headers, request, &edge.access.origins);
}

/// Keeps pages that may not read a response from embedding it, and keeps a document shown from it from
/// sending its URL as the referrer.
fn confine(request: &HttpRequest, origins: &Origins, headers: &mut HeaderMap) {
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let is_shared = *origins == Origins::Any || origin.is_some_and(|origin| origins.allow(origin));
    let reach = if is_shared { "cross-origin" } else { "same-site" };
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static(reach));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
}

/// Copies header fields from the buffer they were read into, into a map of the smallest size.
///
/// The buffer belongs to the connection. While a field shares it, bytes of the body need a second buffer, for
/// as long as the body takes.
fn detach(headers: &mut HeaderMap) {
    let mut detached = HeaderMap::with_capacity(headers.len_keys());
    for (name, value) in headers.iter() {
        // Every value that the parser accepts can be copied. If one ever could not, sharing does no harm.
        let copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        detached.append(name.clone(), copy);
    }
    *headers = detached;
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
