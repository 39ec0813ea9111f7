//! Ranged PUT: Google's sessions, ranges in any order, and whole files without a protocol.
//!
//! All three write with `PUT` and `Content-Range`. What an upload was created as says how it is spoken of:
//! one of Google's takes bytes in order and answers 308 until it is told the end (`google.rs`); any other
//! takes them in any order and answers with what is missing (`parallel.rs`). `plain.rs` makes one of the
//! second kind out of a whole file.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use crate::caller::caller;
use crate::dialect::{Asked, Target};
use crate::trouble::broken_off;
use crate::uploads::Uploads;
use crate::{dialect, digests, download, pump, upload_fields};
use domain::dialect::Dialect;
use domain::filling::{Completion, Filling, WriteOrder};
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::Upload;
use edge::body;
use edge::body::HeaderFields;
use edge::fields::{Fields, media_type};
use edge::principal::principal;
use edge::problem::Problem;
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
pub(crate) mod wire;

use sized::Sized;

/// Bytes go anywhere, and an upload is complete when it has all of them.
const FILLING: Filling = Filling { order: WriteOrder::Any, completion: Completion::WhenFull };

const RESOURCE_METHODS: &str = "OPTIONS, HEAD, GET, PUT, POST, DELETE";
const BUCKET_METHODS: &str = "OPTIONS, POST, PUT";

/// What its uploads are recorded under: those filled in any order, and whole files.
const NAME: Dialect = Dialect::named("ranged");

/// Uploads that Google's client libraries fill, in order.
const GOOGLE: Dialect = Dialect::named("google");

/// What the front has to know of this dialect.
pub(crate) fn dialect() -> dialect::Dialect {
    dialect::Dialect {
        records: &[NAME, GOOGLE],
        methods: &["POST", "PUT", "HEAD", "GET", "DELETE"],
        patch_type: None,
        request_fields: [&wire::REQUEST_FIELDS[..], &digests::REQUEST_FIELDS].concat(),
        answer_fields: [&wire::ANSWER_FIELDS[..], &digests::ANSWER_FIELDS].concat(),
        marker: None,
        busy_head: None,
        recognise: wire::recognise,
        effective_method: |method, fields| (method == "PUT" && wire::only_asks(fields)).then_some("HEAD"),
        add_options: |_, _| {},
        answer,
        whole_file: Some(whole_file),
        routes: &[("/upload/storage/v1/b/{bucket}/o", answer)],
    }
}

fn answer(asked: Asked, shared: Arc<Uploads>) -> LocalBoxFuture<'static, HttpResponse> {
    let Asked { request, payload, target, .. } = asked;
    let fields = HeaderFields(request.headers());
    match target {
        Target::Upload(id) => Box::pin(async move {
            let answer = resource(&request, id, payload, &shared).await;
            answer.unwrap_or_else(|problem| problem.respond(&request))
        }),
        Target::Collection if wire::starts_session(request.query_string(), &fields) => Box::pin(async move {
            let started = google::start(&request, None, payload, &shared).await;
            started.unwrap_or_else(|refusal| refusal.respond(&request))
        }),
        Target::Own(bucket) => Box::pin(async move {
            let started = start_in_bucket(&request, &bucket, payload, &shared).await;
            started.unwrap_or_else(|problem| problem.respond(&request))
        }),
        Target::Name(name) if request.method() == Method::PUT && !fields.has("content-range") => {
            plainly(request, Some(name), payload, shared)
        }
        Target::Name(_) => ready(reply::rejection_problem(Rejection::NotFound).respond(&request)).boxed_local(),
        Target::Collection => plainly(request, None, payload, shared),
    }
}

/// Takes a body as a whole file.
fn whole_file(asked: Asked, shared: Arc<Uploads>) -> LocalBoxFuture<'static, HttpResponse> {
    plainly(asked.request, None, asked.payload, shared)
}

fn plainly(
    request: HttpRequest,
    name: Option<String>,
    payload: Payload,
    shared: Arc<Uploads>,
) -> LocalBoxFuture<'static, HttpResponse> {
    Box::pin(async move {
        let answer = plain(&request, name.as_deref(), payload, &shared).await;
        answer.unwrap_or_else(|problem| problem.respond(&request))
    })
}

/// Starts one of Google's sessions at the address its libraries make of an endpoint and a bucket.
async fn start_in_bucket(
    request: &HttpRequest,
    bucket: &str,
    payload: Payload,
    shared: &Uploads,
) -> Result<HttpResponse, Problem> {
    if !matches!(*request.method(), Method::POST | Method::PUT) {
        return Err(Problem::method_not_allowed(BUCKET_METHODS));
    }
    google::check_kind(request)?;
    let started = google::start(request, Some(bucket), payload, shared).await;
    Ok(started.unwrap_or_else(|refusal| refusal.respond(request)))
}

/// A whole file, or the start of a session in JSON.
async fn plain(
    request: &HttpRequest,
    name: Option<&str>,
    payload: Payload,
    shared: &Uploads,
) -> Result<HttpResponse, Problem> {
    let fields = HeaderFields(request.headers());
    let refuse = |error: wire::WireError| reply::wire_problem(&error);
    wire::refuse_commands(&fields).map_err(refuse)?;
    wire::refuse_range(&fields).map_err(refuse)?;
    let media_type = media_type(&fields).map_err(|error| refuse(error.into()))?;
    let posted = request.method() == Method::POST;
    match media_type.as_deref() {
        Some("application/json") if posted => parallel::start(request, payload, shared).await,
        _ if !shared.terms.protocols.plain_uploads => Err(reply::plain_uploads_off()),
        Some("multipart/form-data") if posted => plain::form(request, payload, shared).await,
        Some(_) | None => plain::file(request, name, payload, shared).await,
    }
}

/// A request to one upload.
async fn resource(
    request: &HttpRequest,
    id: UploadId,
    payload: Payload,
    shared: &Uploads,
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

async fn put(request: &HttpRequest, id: UploadId, payload: Payload, shared: &Uploads) -> Result<HttpResponse, Problem> {
    let upload = found(request, id, shared).await?;
    let ranged = request.headers().contains_key("content-range");
    match upload.dialect() {
        GOOGLE => {
            let answered = google::put(request, upload, payload, shared).await;
            Ok(answered.unwrap_or_else(|refusal| refusal.respond(request)))
        }
        NAME => parallel::put(request, upload, payload, shared).await,
        _ if shared.engine.settings().cross_dialects => parallel::put(request, upload, payload, shared).await,
        _ => Err(reply::other_dialect(&upload, ranged)),
    }
}

async fn head(request: &HttpRequest, id: UploadId, shared: &Uploads) -> Result<HttpResponse, Problem> {
    let upload = look(request, id, shared).await?;
    if upload.stage() == Stage::Completed { get(request, id, shared).await } else { Ok(reply::state(&upload)) }
}

async fn get(request: &HttpRequest, id: UploadId, shared: &Uploads) -> Result<HttpResponse, Problem> {
    let refuse = |error| reply::engine_problem(error, request);
    let Some(found) = shared.engine.download(&principal(request), id).await.map_err(refuse)? else {
        return Err(upload_fields::not_complete(&look(request, id, shared).await?));
    };
    let offset = found.upload.offset().get();
    let mut response = download::serve(request, found, &shared.metrics).await.map_err(refuse)?;
    reply::add_offset(response.headers_mut(), offset);
    Ok(response)
}

async fn delete(request: &HttpRequest, id: UploadId, shared: &Uploads) -> Result<HttpResponse, Problem> {
    let refuse = |error| reply::engine_problem(error, request);
    if shared.engine.status(&principal(request), id).await.map_err(refuse)?.upload.dialect() == GOOGLE {
        let cancelled = google::cancel(request, id, shared).await;
        return Ok(cancelled.unwrap_or_else(|refusal| refusal.respond(request)));
    }
    let command = Cancel { principal: principal(request), id, caller: caller(request, shared) };
    shared.engine.cancel(command).await.map_err(refuse)?;
    Ok(reply::terminated())
}

/// An upload as committed. One whose last bytes are just being put in their place is waited for.
async fn found(request: &HttpRequest, id: UploadId, shared: &Uploads) -> Result<Upload, Problem> {
    let status =
        shared.engine.status(&principal(request), id).await.map_err(|error| reply::engine_problem(error, request))?;
    if let Some(why) = status.gone() {
        return Err(reply::rejection_problem(why));
    }
    if status.upload.is_settling() { look(request, id, shared).await } else { Ok(status.upload) }
}

/// An upload as it is, with what live requests have brought.
async fn look(request: &HttpRequest, id: UploadId, shared: &Uploads) -> Result<Upload, Problem> {
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
    payload: Payload,
    feed: Feed,
    unframed: Option<u64>,
    shared: &Uploads,
    refuse: impl FnOnce(EngineError) -> E,
) -> Result<Upload, E> {
    let Some(count) = unframed else {
        return pump::pump(request, payload, feed, shared.terms.idle_timeout).await.map_err(refuse);
    };
    let differs = Rc::<Cell<bool>>::default();
    let sized = Sized::new(payload, count, Rc::clone(&differs));
    let pumped = pump::pump_and_tell(request, sized, feed, shared.terms.idle_timeout, None).await;
    if differs.get() { Err(reply::other_count(count).into()) } else { pumped.map_err(refuse) }
}

/// Rejects a query whose body turns out to have bytes.
async fn check_empty(request: &HttpRequest, payload: &mut Payload, shared: &Uploads) -> Result<(), Problem> {
    let cut = |body::BodyCut| reply::engine_problem(broken_off(), request);
    while let Some(piece) = body::next_piece(payload, shared.terms.idle_timeout).await.map_err(cut)? {
        // HTTP/2 has frames of no bytes.
        if !piece.is_empty() {
            return Err(reply::wire_problem(&wire::WireError::QuestionWithBody));
        }
    }
    Ok(())
}

/// A body that may have as much as metadata may.
async fn small_body(request: &HttpRequest, payload: Payload, shared: &Uploads) -> Result<Vec<u8>, Problem> {
    let limit = shared.terms.max_metadata_bytes;
    let small = body::small(request, payload, limit, shared.terms.idle_timeout).await;
    small
        .map_err(|body::BodyCut| reply::engine_problem(broken_off(), request))?
        .ok_or_else(|| reply::session_too_large(limit))
}
