//! tus 1.0: core, creation, creation-with-upload, creation-defer-length, expiration, checksum, termination
//! and concatenation.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, http};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use crate::caller::caller;
use crate::dialect::{DialectRequest, Marked, RequestTarget};
use crate::metadata::OFFSET_OCTET_STREAM;
use crate::uploads::UploadContext;
use crate::{dialect, digests, download, pump, upload_fields};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::{Role, Upload};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use edge::body;
use edge::body::HeaderFields;
use edge::principal::principal;
use edge::problem::Problem;
use engine::command::{Append, Cancel, Create, EngineError, Unavailable};
use engine::concatenate::Concatenate;

mod reply;
pub(crate) mod wire;

use wire::{CreationKind, Method};

/// tus 1.0, PATCH: bytes are written at the offset, and an upload is complete when it has all of them.
const FILLING: WriteRules = WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull };

const COLLECTION_METHODS: &str = "OPTIONS, POST";
const RESOURCE_METHODS: &str = "OPTIONS, HEAD, GET, PATCH, DELETE";

/// The name under which uploads are recorded.
const NAME: Dialect = Dialect::named("tus");

/// Returns the description of tus for the front.
pub(crate) fn dialect() -> dialect::DialectHandler {
    dialect::DialectHandler {
        records: &[NAME],
        methods: &["POST", "HEAD", "PATCH", "DELETE", "GET"],
        patch_type: Some(OFFSET_OCTET_STREAM),
        request_fields: [&wire::REQUEST_FIELDS[..], &digests::REQUEST_FIELDS].concat(),
        answer_fields: [&wire::ANSWER_FIELDS[..], &digests::ANSWER_FIELDS].concat(),
        // tus 1.0, Tus-Resumable: on every response except those to OPTIONS.
        marker: Some((HeaderName::from_static("tus-resumable"), HeaderValue::from_static(wire::VERSION))),
        // After a 5xx, tus-js-client starts a new upload.
        busy_head: Some(StatusCode::LOCKED),
        recognise: wire::recognise,
        effective_method: wire::effective_method,
        add_options,
        answer,
        whole_file: None,
        routes: &[],
    }
}

fn answer(dialect_request: DialectRequest, shared: Arc<UploadContext>) -> LocalBoxFuture<'static, HttpResponse> {
    let DialectRequest { request, payload, target, marked, .. } = dialect_request;
    match target {
        RequestTarget::Upload(id) => Box::pin(async move {
            let answer = resource(&request, id, payload, marked, &shared).await;
            answer.unwrap_or_else(|problem| problem.respond(&request))
        }),
        RequestTarget::Collection => Box::pin(async move {
            let answer = collection(&request, payload, &shared).await;
            answer.unwrap_or_else(|problem| problem.respond(&request))
        }),
        RequestTarget::Name(_) | RequestTarget::Own(_) => {
            let answer = understood(&request, RESOURCE_METHODS).map(|_| Rejection::NotFound);
            let problem = answer.map_or_else(|problem| problem, reply::rejection_problem);
            ready(problem.respond(&request)).boxed_local()
        }
    }
}

async fn collection(request: &HttpRequest, payload: Payload, shared: &UploadContext) -> Result<HttpResponse, Problem> {
    match understood(request, COLLECTION_METHODS)? {
        Method::Post => create(request, payload, shared).await,
        Method::Options | Method::Head | Method::Patch | Method::Delete | Method::Get => {
            Err(Problem::method_not_allowed(COLLECTION_METHODS))
        }
    }
}

async fn resource(
    request: &HttpRequest,
    id: UploadId,
    payload: Payload,
    marked: Marked,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    match understood(request, RESOURCE_METHODS)? {
        Method::Head => head(request, id, marked, shared).await,
        Method::Patch => patch(request, id, payload, shared).await,
        Method::Delete => delete(request, id, shared).await,
        Method::Get => Box::pin(get(request, id, shared)).await,
        Method::Options | Method::Post => Err(Problem::method_not_allowed(RESOURCE_METHODS)),
    }
}

/// Adds the capabilities of this server to the response to OPTIONS (tus 1.0, Core, OPTIONS).
fn add_options(headers: &mut HeaderMap, shared: &UploadContext) {
    let extensions = match shared.settings.clients_may_terminate {
        true => wire::EXTENSIONS,
        false => wire::EXTENSIONS_WITHOUT_TERMINATION,
    };
    reply::add_options(headers, extensions, shared.engine.settings().max_upload_bytes);
}

fn understood(request: &HttpRequest, allowed: &'static str) -> Result<Method, Problem> {
    let fields = HeaderFields(request.headers());
    let method = wire::method(request.method().as_str(), &fields).map_err(|error| reply::wire_problem(&error))?;
    let method = method.ok_or_else(|| Problem::method_not_allowed(allowed))?;
    wire::check_version(request.method().as_str(), &fields).map_err(|error| reply::wire_problem(&error))?;
    Ok(method)
}

async fn create(request: &HttpRequest, payload: Payload, shared: &UploadContext) -> Result<HttpResponse, Problem> {
    let size = body::announced_size(request);
    let creation = wire::creation(&HeaderFields(request.headers()), size, shared.settings.max_metadata_bytes)
        .map_err(|error| reply::wire_problem(&error))?;
    let reject = |error| reply::engine_problem(error, request);
    let (role, length) = match creation.kind {
        CreationKind::Single(length) => (Role::Single, length),
        CreationKind::Partial(length) => (Role::Partial, length),
        CreationKind::Final { parts, as_sent } => {
            let command = Concatenate {
                principal: principal(request),
                dialect: NAME,
                parts,
                as_sent,
                metadata: creation.metadata,
                metadata_as_sent: creation.metadata_as_sent,
                wanted_digests: creation.wanted_digests,
                promised_digests: creation.promised_digests,
                caller: caller(request, shared),
            };
            let joining = body::while_awaited(request, shared.engine.concatenate(command));
            let gone = EngineError::Unavailable(Unavailable::IncompleteBody);
            let upload = joining.await.unwrap_or(Err(gone)).map_err(reject)?;
            return Ok(reply::created(&upload, &shared.location(request, upload.id())));
        }
    };
    // A body that cannot fit is rejected before an upload is created.
    if let (Some(length), Some(bytes)) = (length, size.known())
        && bytes > length.get()
    {
        return Err(reply::rejection_problem(Rejection::BeyondLength(length)));
    }
    let command = Create {
        principal: principal(request),
        dialect: NAME,
        write_rules: FILLING,
        role,
        length,
        metadata: creation.metadata,
        metadata_as_sent: creation.metadata_as_sent,
        wanted_digests: creation.wanted_digests,
        promised_digests: creation.promised_digests,
        caller: caller(request, shared),
    };
    let upload = shared.engine.create(command).await.map_err(reject)?;
    let location = shared.location(request, upload.id());
    if !creation.with_data {
        return Ok(reply::created(&upload, &location));
    }
    let checksum = creation.checksum.as_ref().map(|checksum| checksum.digest().clone());
    let caller = caller(request, shared);
    let command =
        Append { checksum, caller, ..Append::at(principal(request), upload.id(), upload.offset(), size.known()) };
    let reject = |error| reply::append_problem(error, creation.checksum.as_ref(), request);
    match append(command, request, payload, shared).await {
        Ok(upload) => Ok(reply::created(&upload, &location)),
        Err(error) => {
            let overflow = matches!(
                error,
                EngineError::Rejected(
                    Rejection::BeyondLength(_) | Rejection::OverLimit(_) | Rejection::AlreadyComplete(_)
                )
            );
            if overflow {
                // tus 1.0, Creation With Upload: nothing was acknowledged yet, so nothing is kept.
                shared.engine.discard(&principal(request), upload.id()).await.map_err(reject)?;
                return Err(reject(error));
            }
            let over = matches!(error, EngineError::Rejected(Rejection::Refused(_) | Rejection::Gone(_)));
            // Otherwise the upload exists, and its client may resume it.
            if over { Err(reject(error)) } else { Err(reject(error).with(header::LOCATION, location)) }
        }
    }
}

async fn patch(
    request: &HttpRequest,
    id: UploadId,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let problem = match patched(request, id, payload, shared).await {
        Ok(upload) => return Ok(reply::appended(&upload)),
        Err(problem) => problem,
    };
    match shared.engine.status(&principal(request), id).await {
        Ok(status) if !status.expired => Err(reply::not_appended(problem, &status.upload)),
        Ok(_) | Err(_) => Err(problem),
    }
}

async fn patched(
    request: &HttpRequest,
    id: UploadId,
    payload: Payload,
    shared: &UploadContext,
) -> Result<Upload, Problem> {
    let patch = wire::patch(&HeaderFields(request.headers())).map_err(|error| reply::wire_problem(&error))?;
    let size = body::announced_size(request);
    let checksum = patch.checksum.as_ref().map(|checksum| checksum.digest().clone());
    let (length, caller) = (patch.length, caller(request, shared));
    let command = Append { length, checksum, caller, ..Append::at(principal(request), id, patch.at, size.known()) };
    let appended = append(command, request, payload, shared).await;
    appended.map_err(|error| reply::append_problem(error, patch.checksum.as_ref(), request))
}

async fn append(
    command: Append,
    request: &HttpRequest,
    payload: Payload,
    shared: &UploadContext,
) -> Result<Upload, EngineError> {
    let feed = shared.engine.append(command).await?;
    pump::pump(request, payload, feed, shared.settings.idle_timeout).await
}

async fn head(
    request: &HttpRequest,
    id: UploadId,
    marked: Marked,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let found =
        shared.engine.inspect(&principal(request), id).await.map_err(|error| reply::offset_unknown(error, request))?;
    match found.gone {
        Some(why) => Err(reply::rejection_problem(why)),
        // Only an upload of another dialect can be full and wait to be declared complete. A tus client would
        // take it for complete.
        None if found.upload.is_full() && found.upload.stage().takes_bytes() => Err(reply::still_open()),
        None if is_plain_head(request, marked) && found.upload.stage() == Stage::Completed => {
            Box::pin(get(request, id, shared)).await
        }
        None => Ok(reply::head(&found.upload, request.method())),
    }
}

/// Returns whether a request is a HEAD of a client that does not use tus. Such a client expects the fields of
/// GET.
fn is_plain_head(request: &HttpRequest, marked: Marked) -> bool {
    request.method() == http::Method::HEAD && marked == Marked::No
}

async fn delete(request: &HttpRequest, id: UploadId, shared: &UploadContext) -> Result<HttpResponse, Problem> {
    let command = Cancel { principal: principal(request), id, caller: caller(request, shared) };
    shared.engine.cancel(command).await.map_err(|error| reply::engine_problem(error, request))?;
    Ok(reply::terminated())
}

async fn get(request: &HttpRequest, id: UploadId, shared: &UploadContext) -> Result<HttpResponse, Problem> {
    let reject = |error| reply::engine_problem(error, request);
    match shared.engine.download(&principal(request), id).await.map_err(reject)? {
        Some(found) => download::serve(request, found, &shared.metrics).await.map_err(reject),
        None => {
            let status = shared.engine.status(&principal(request), id).await.map_err(reject)?;
            Err(upload_fields::not_complete(&status.upload))
        }
    }
}
