//! Ranged PUT: Google's sessions, ranges in any order, and whole files without a protocol.
//!
//! All three write with `PUT` and `Content-Range`. The dialect that an upload was created in determines the
//! responses: a Google session accepts bytes in order and answers 308 until its end is declared
//! (`google.rs`); every other upload accepts them in any order and answers with the missing ranges
//! (`parallel.rs`). `plain.rs` turns a whole file into an upload of the second kind.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use crate::caller::caller;
use crate::dialect::{DialectRequest, RequestTarget};
use crate::trouble::broken_off;
use crate::uploads::UploadContext;
use crate::{dialect, digests, download, pump, upload_fields};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::Upload;
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use edge::body;
use edge::body::HeaderFields;
use edge::fields::{Fields, media_type};
use edge::principal::principal;
use edge::problem::Problem;
use engine::command::{Cancel, EngineError};
use engine::feed::Feed;

mod creation;
mod exact_size;
mod form;
mod google;
mod multipart;
mod parallel;
mod plain;
mod reply;
pub(crate) mod wire;

use exact_size::ExactSizeBody;

/// Bytes are written anywhere, and an upload is complete when it has all of them.
const FILLING: WriteRules = WriteRules { order: WriteOrder::Any, completion: Completion::WhenFull };

const RESOURCE_METHODS: &str = "OPTIONS, HEAD, GET, PUT, POST, DELETE";
const BUCKET_METHODS: &str = "OPTIONS, POST, PUT";

/// The name under which uploads with ranges in any order, and whole files, are recorded.
const NAME: Dialect = Dialect::named("ranged");

/// The name under which uploads of Google's client libraries are recorded.
const GOOGLE: Dialect = Dialect::named("google");

/// Returns the description of this dialect for the front.
pub(crate) fn dialect() -> dialect::DialectHandler {
    dialect::DialectHandler {
        records: &[NAME, GOOGLE],
        methods: &["POST", "PUT", "HEAD", "GET", "DELETE"],
        patch_type: None,
        request_fields: [&wire::REQUEST_FIELDS[..], &digests::REQUEST_FIELDS].concat(),
        answer_fields: [&wire::ANSWER_FIELDS[..], &digests::ANSWER_FIELDS].concat(),
        marker: None,
        busy_head: None,
        recognise: wire::recognise,
        effective_method: |method, fields| (method == "PUT" && wire::is_status_query(fields)).then_some("HEAD"),
        add_options: |_, _| {},
        answer,
        whole_file: Some(whole_file),
        routes: &[("/upload/storage/v1/b/{bucket}/o", answer)],
    }
}

fn answer(dialect_request: DialectRequest, shared: Arc<UploadContext>) -> LocalBoxFuture<'static, HttpResponse> {
    let DialectRequest { request, payload, target, .. } = dialect_request;
    let fields = HeaderFields(request.headers());
    match target {
        RequestTarget::Upload(id) => Box::pin(async move {
            let answer = resource(&request, id, payload, &shared).await;
            answer.unwrap_or_else(|problem| problem.respond(&request))
        }),
        RequestTarget::Collection if wire::starts_session(request.query_string(), &fields) => Box::pin(async move {
            let started = google::start(&request, None, payload, &shared).await;
            started.unwrap_or_else(|rejection| rejection.respond(&request))
        }),
        RequestTarget::Own(bucket) => Box::pin(async move {
            let started = start_in_bucket(&request, &bucket, payload, &shared).await;
            started.unwrap_or_else(|problem| problem.respond(&request))
        }),
        RequestTarget::Name(name) if request.method() == Method::PUT && !fields.has("content-range") => {
            plainly(request, Some(name), payload, shared)
        }
        RequestTarget::Name(_) => ready(reply::rejection_problem(Rejection::NotFound).respond(&request)).boxed_local(),
        RequestTarget::Collection => plainly(request, None, payload, shared),
    }
}

/// Stores a body as a whole file.
fn whole_file(dialect_request: DialectRequest, shared: Arc<UploadContext>) -> LocalBoxFuture<'static, HttpResponse> {
    plainly(dialect_request.request, None, dialect_request.payload, shared)
}

fn plainly(
    request: HttpRequest,
    name: Option<String>,
    payload: Payload,
    shared: Arc<UploadContext>,
) -> LocalBoxFuture<'static, HttpResponse> {
    Box::pin(async move {
        let answer = plain(&request, name.as_deref(), payload, &shared).await;
        answer.unwrap_or_else(|problem| problem.respond(&request))
    })
}

/// Starts a Google session at the address that Google's libraries build from an endpoint and a bucket.
async fn start_in_bucket(
    request: &HttpRequest,
    bucket: &str,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    if !matches!(*request.method(), Method::POST | Method::PUT) {
        return Err(Problem::method_not_allowed(BUCKET_METHODS));
    }
    google::check_kind(request)?;
    let started = google::start(request, Some(bucket), payload, shared).await;
    Ok(started.unwrap_or_else(|rejection| rejection.respond(request)))
}

/// Stores a whole file, or starts a session described in JSON.
async fn plain(
    request: &HttpRequest,
    name: Option<&str>,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let fields = HeaderFields(request.headers());
    let reject = |error: wire::WireError| reply::wire_problem(&error);
    wire::reject_commands(&fields).map_err(reject)?;
    wire::reject_range(&fields).map_err(reject)?;
    let media_type = media_type(&fields).map_err(|error| reject(error.into()))?;
    let posted = request.method() == Method::POST;
    match media_type.as_deref() {
        Some("application/json") if posted => parallel::start(request, payload, shared).await,
        _ if !shared.settings.protocols.plain_uploads => Err(reply::plain_uploads_off()),
        Some("multipart/form-data") if posted => plain::form(request, payload, shared).await,
        Some(_) | None => plain::file(request, name, payload, shared).await,
    }
}

/// Answers a request to one upload.
async fn resource(
    request: &HttpRequest,
    id: UploadId,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let reject = |error: wire::WireError| reply::wire_problem(&error);
    wire::reject_commands(&HeaderFields(request.headers())).map_err(reject)?;
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
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let upload = find_settled(request, id, shared).await?;
    let ranged = request.headers().contains_key("content-range");
    match upload.dialect() {
        GOOGLE => {
            let answered = google::put(request, upload, payload, shared).await;
            Ok(answered.unwrap_or_else(|rejection| rejection.respond(request)))
        }
        NAME => parallel::put(request, upload, payload, shared).await,
        _ if shared.engine.settings().cross_dialects => parallel::put(request, upload, payload, shared).await,
        _ => Err(reply::other_dialect(&upload, ranged)),
    }
}

async fn head(request: &HttpRequest, id: UploadId, shared: &UploadContext) -> Result<HttpResponse, Problem> {
    let upload = inspect(request, id, shared).await?;
    if upload.stage() == Stage::Completed { get(request, id, shared).await } else { Ok(reply::state(&upload)) }
}

async fn get(request: &HttpRequest, id: UploadId, shared: &UploadContext) -> Result<HttpResponse, Problem> {
    let reject = |error| reply::engine_problem(error, request);
    let Some(found) = shared.engine.download(&principal(request), id).await.map_err(reject)? else {
        return Err(upload_fields::not_complete(&inspect(request, id, shared).await?));
    };
    let offset = found.upload.offset().get();
    let mut response = download::serve(request, found, &shared.metrics).await.map_err(reject)?;
    reply::add_offset(response.headers_mut(), offset);
    Ok(response)
}

async fn delete(request: &HttpRequest, id: UploadId, shared: &UploadContext) -> Result<HttpResponse, Problem> {
    let reject = |error| reply::engine_problem(error, request);
    if shared.engine.status(&principal(request), id).await.map_err(reject)?.upload.dialect() == GOOGLE {
        let cancelled = google::cancel(request, id, shared).await;
        return Ok(cancelled.unwrap_or_else(|rejection| rejection.respond(request)));
    }
    let command = Cancel { principal: principal(request), id, caller: caller(request, shared) };
    shared.engine.cancel(command).await.map_err(reject)?;
    Ok(reply::terminated())
}

/// Returns an upload as committed. If its last bytes are being stored, waits for that.
async fn find_settled(request: &HttpRequest, id: UploadId, shared: &UploadContext) -> Result<Upload, Problem> {
    let status =
        shared.engine.status(&principal(request), id).await.map_err(|error| reply::engine_problem(error, request))?;
    if let Some(why) = status.gone() {
        return Err(reply::rejection_problem(why));
    }
    if status.upload.is_settling() { inspect(request, id, shared).await } else { Ok(status.upload) }
}

/// Returns the current state of an upload, including the bytes of active requests.
async fn inspect(request: &HttpRequest, id: UploadId, shared: &UploadContext) -> Result<Upload, Problem> {
    let found =
        shared.engine.inspect(&principal(request), id).await.map_err(|error| reply::engine_problem(error, request))?;
    match found.gone {
        Some(why) => Err(reply::rejection_problem(why)),
        None => Ok(found.upload),
    }
}

/// Moves a body into an append. If `unframed` is set, the framing does not announce the size, and the body
/// must have this many bytes.
async fn pumped<E: From<Problem>>(
    request: &HttpRequest,
    payload: Payload,
    feed: Feed,
    unframed: Option<u64>,
    shared: &UploadContext,
    reject: impl FnOnce(EngineError) -> E,
) -> Result<Upload, E> {
    let Some(count) = unframed else {
        return pump::pump(request, payload, feed, shared.settings.idle_timeout).await.map_err(reject);
    };
    let differs = Rc::<Cell<bool>>::default();
    let sized = ExactSizeBody::new(payload, count, Rc::clone(&differs));
    let pumped = pump::pump_with_progress(request, sized, feed, shared.settings.idle_timeout, None).await;
    if differs.get() { Err(reply::other_count(count).into()) } else { pumped.map_err(reject) }
}

/// Rejects a query whose body turns out to have bytes.
async fn check_empty(request: &HttpRequest, payload: &mut Payload, shared: &UploadContext) -> Result<(), Problem> {
    let cut = |body::BodyCut| reply::engine_problem(broken_off(), request);
    while let Some(piece) = body::next_piece(payload, shared.settings.idle_timeout).await.map_err(cut)? {
        // HTTP/2 has empty frames.
        if !piece.is_empty() {
            return Err(reply::wire_problem(&wire::WireError::QuestionWithBody));
        }
    }
    Ok(())
}

/// Reads a body that may be as large as metadata.
async fn small_body(request: &HttpRequest, payload: Payload, shared: &UploadContext) -> Result<Vec<u8>, Problem> {
    let limit = shared.settings.max_metadata_bytes;
    let small = body::small(request, payload, limit, shared.settings.idle_timeout).await;
    small
        .map_err(|body::BodyCut| reply::engine_problem(broken_off(), request))?
        .ok_or_else(|| reply::session_too_large(limit))
}
