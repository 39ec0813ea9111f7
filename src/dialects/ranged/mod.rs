//! Ranged PUT: Google's sessions, ranges in any order, and whole files without a protocol.
//!
//! All three write with `PUT` and `Content-Range`. What an upload was created as says how it is spoken of: one of
//! Google's takes bytes in order and answers 308 until it is told the end (`google.rs`); any other takes them in any
//! order and answers with what is missing (`parallel.rs`). `plain.rs` makes one of the second kind out of a whole file.

use std::cell::Cell;
use std::rc::Rc;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::dialects::caller::caller;
use crate::dialects::download;
use crate::dialects::told;
use crate::edge::body::HeaderFields;
use crate::edge::principal::principal;
use crate::edge::problem::Problem;
use crate::edge::{Shared, body};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::Upload;
use engine::command::{Cancel, EngineError};
use engine::feed::Feed;

mod creation;
mod form;
mod google;
mod multipart;
mod parallel;
mod plain;
mod reply;
mod sized;
pub mod wire;

use sized::Sized;

const RESOURCE_METHODS: &str = "OPTIONS, HEAD, GET, PUT, POST, DELETE";
const BUCKET_METHODS: &str = "OPTIONS, POST, PUT";

/// Starts one of Google's sessions.
pub(crate) async fn start(
    request: &HttpRequest,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    Ok(google::start(request, None, payload, shared).await.unwrap_or_else(|refusal| refusal.respond(request)))
}

/// Starts one of Google's sessions at the address its libraries make of an endpoint and a bucket.
pub(crate) async fn start_in_bucket(
    request: &HttpRequest,
    bucket: &str,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    if !matches!(*request.method(), Method::POST | Method::PUT) {
        return Err(Problem::method_not_allowed(BUCKET_METHODS));
    }
    google::check_kind(request)?;
    let started = google::start(request, Some(bucket), payload, shared).await;
    Ok(started.unwrap_or_else(|refusal| refusal.respond(request)))
}

/// A whole file, or the start of a session in JSON.
pub(crate) async fn plain(
    request: &HttpRequest,
    name: Option<&str>,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    let fields = HeaderFields(request.headers());
    let refuse = |error: wire::WireError| reply::wire_problem(&error);
    wire::refuse_commands(&fields).map_err(refuse)?;
    wire::refuse_range(&fields).map_err(refuse)?;
    let media_type = wire::media_type(&fields).map_err(|error| refuse(error.into()))?;
    let posted = request.method() == Method::POST;
    match media_type.as_deref() {
        Some("application/json") if posted => parallel::start(request, payload, shared).await,
        _ if !shared.protocols.plain_uploads => Err(reply::plain_uploads_off()),
        Some("multipart/form-data") if posted => plain::form(request, payload, shared).await,
        Some(_) | None => plain::file(request, name, payload, shared).await,
    }
}

/// The answer to a request to what cannot be an upload.
pub(crate) fn nothing_here() -> Problem {
    reply::rejection_problem(Rejection::NotFound)
}

/// A request to one upload.
pub(crate) async fn resource(
    request: &HttpRequest,
    id: UploadId,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    let refuse = |error: wire::WireError| reply::wire_problem(&error);
    wire::refuse_commands(&HeaderFields(request.headers())).map_err(refuse)?;
    match *request.method() {
        Method::PUT | Method::POST => put(request, id, payload, shared).await,
        Method::HEAD => head(request, id, shared).await,
        Method::GET => get(request, id, shared).await,
        Method::DELETE => delete(request, id, shared).await,
        _ => Err(Problem::method_not_allowed(RESOURCE_METHODS)),
    }
}

async fn put(
    request: &HttpRequest,
    id: UploadId,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    let upload = found(request, id, shared).await?;
    let ranged = request.headers().contains_key("content-range");
    match upload.dialect() {
        Dialect::Google => {
            let answered = google::put(request, upload, payload, shared).await;
            Ok(answered.unwrap_or_else(|refusal| refusal.respond(request)))
        }
        Dialect::Tus | Dialect::Ietf if !shared.engine.settings().cross_dialects => {
            Err(reply::other_dialect(&upload, ranged))
        }
        Dialect::Ranged | Dialect::Tus | Dialect::Ietf => parallel::put(request, upload, payload, shared).await,
    }
}

async fn head(request: &HttpRequest, id: UploadId, shared: &Shared) -> Result<HttpResponse, Problem> {
    let upload = look(request, id, shared).await?;
    if upload.stage() == Stage::Completed { get(request, id, shared).await } else { Ok(reply::state(&upload)) }
}

async fn get(request: &HttpRequest, id: UploadId, shared: &Shared) -> Result<HttpResponse, Problem> {
    let refuse = |error| reply::engine_problem(error, request);
    let Some(found) = shared.engine.download(&principal(request), id).await.map_err(refuse)? else {
        return Err(told::not_complete(&look(request, id, shared).await?));
    };
    let offset = found.upload.offset().get();
    let mut response = download::serve(request, found).await.map_err(refuse)?;
    reply::add_offset(response.headers_mut(), offset);
    Ok(response)
}

async fn delete(request: &HttpRequest, id: UploadId, shared: &Shared) -> Result<HttpResponse, Problem> {
    let refuse = |error| reply::engine_problem(error, request);
    if shared.engine.status(&principal(request), id).await.map_err(refuse)?.upload.dialect() == Dialect::Google {
        let cancelled = google::cancel(request, id, shared).await;
        return Ok(cancelled.unwrap_or_else(|refusal| refusal.respond(request)));
    }
    let command = Cancel { principal: principal(request), id, caller: caller(request, shared) };
    shared.engine.cancel(command).await.map_err(refuse)?;
    Ok(reply::terminated())
}

/// An upload as committed. One whose last bytes are just being put in their place is waited for.
async fn found(request: &HttpRequest, id: UploadId, shared: &Shared) -> Result<Upload, Problem> {
    let status =
        shared.engine.status(&principal(request), id).await.map_err(|error| reply::engine_problem(error, request))?;
    if let Some(why) = status.gone() {
        return Err(reply::rejection_problem(why));
    }
    if status.upload.is_settling() { look(request, id, shared).await } else { Ok(status.upload) }
}

/// An upload as it is, with what live requests have brought.
async fn look(request: &HttpRequest, id: UploadId, shared: &Shared) -> Result<Upload, Problem> {
    let found =
        shared.engine.inspect(&principal(request), id).await.map_err(|error| reply::engine_problem(error, request))?;
    match found.gone {
        Some(why) => Err(reply::rejection_problem(why)),
        None => Ok(found.upload),
    }
}

/// Moves a body into an append. One whose own framing does not tell its size must have `unframed` bytes.
async fn pumped<E: From<Problem>>(
    request: &HttpRequest,
    payload: web::Payload,
    feed: Feed,
    unframed: Option<u64>,
    shared: &Shared,
    refuse: impl FnOnce(EngineError) -> E,
) -> Result<Upload, E> {
    let Some(count) = unframed else {
        return body::pump(request, payload, feed, shared.idle_timeout).await.map_err(refuse);
    };
    let differs = Rc::<Cell<bool>>::default();
    let sized = Sized::new(payload, count, Rc::clone(&differs));
    let pumped = body::pump_and_tell(request, sized, feed, shared.idle_timeout, None).await;
    if differs.get() { Err(reply::other_count(count).into()) } else { pumped.map_err(refuse) }
}

/// Rejects a query whose body turns out to have bytes.
async fn check_empty(request: &HttpRequest, payload: &mut web::Payload, shared: &Shared) -> Result<(), Problem> {
    let cut = |error| reply::engine_problem(error, request);
    while let Some(piece) = body::next_piece(payload, shared.idle_timeout).await.map_err(cut)? {
        // HTTP/2 has frames of no bytes.
        if !piece.is_empty() {
            return Err(reply::wire_problem(&wire::WireError::QuestionWithBody));
        }
    }
    Ok(())
}

/// A body that may have as much as metadata may.
async fn small_body(request: &HttpRequest, payload: web::Payload, shared: &Shared) -> Result<Vec<u8>, Problem> {
    let limit = shared.max_metadata_bytes;
    let small = body::small(request, payload, limit, shared.idle_timeout).await;
    small.map_err(|error| reply::engine_problem(error, request))?.ok_or_else(|| reply::session_too_large(limit))
}
