//! Whole files without a protocol: `curl -T`, `curl --data-binary`, and forms.
//!
//! Each becomes an upload that accepts ranges. If the connection breaks, the bytes that arrived are kept, and
//! a client that has received or looked up the URL of the upload can resume it.

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::Stream;

use crate::caller::caller;
use crate::ranged::creation::bounded;
use crate::ranged::form::{FormError, FormRemainder, OpenForm};
use crate::ranged::{FILLING, NAME, form, reply};
use crate::uploads::UploadContext;
use crate::{digests, pump};
use domain::checksum::Digest;
use domain::metadata::Metadata;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::stage::Stage;
use domain::upload::{Role, Upload};
use edge::body;
use edge::body::HeaderFields;
use edge::fields::{BadField, single};
use edge::principal::principal;
use edge::problem::Problem;
use engine::command::{Append, CompletesUpload, Create, EngineError, WritePosition};

/// The type that a client sends if the user set none: curl with `--data-binary`.
const NO_TYPE: &str = "application/x-www-form-urlencoded";

/// Stores the body as a file.
pub(super) async fn file(
    request: &HttpRequest,
    name: Option<&str>,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    let fields = HeaderFields(request.headers());
    let unreadable = |error: BadField| reply::wire_problem(&error.into());
    let content_type = single(&fields, "content-type").map_err(unreadable)?;
    let content_type = content_type.filter(|text| !text.is_empty() && *text != NO_TYPE).map(str::to_owned);
    let own = [("filename", name.map(str::to_owned)), ("filetype", content_type)];
    let metadata =
        bounded(own, [], shared.settings.max_metadata_bytes).map_err(|error| reply::creation_problem(&error))?;
    let size = body::announced_size(request).known();
    let length = match size.map(Length::new) {
        Some(None) => {
            return Err(reply::rejection_problem(Rejection::OverLimit(shared.engine.settings().max_upload_bytes)));
        }
        Some(known) => known,
        None => None,
    };
    // The digest of this request's content is that of the whole file.
    let content = digests::content(&fields).map_err(|error| reply::wire_problem(&error.into()))?;
    let upload = create(request, length, metadata, content.clone(), shared).await?;
    if upload.stage() == Stage::Completed {
        return Ok(reply::stored(&upload, &[], request, shared));
    }
    match append(request, &upload, size, payload, shared).await {
        Ok(upload) => Ok(reply::stored(&upload, &[], request, shared)),
        Err(error) => Err(not_stored(error, content.as_ref(), request, &upload, shared).await),
    }
}

/// Stores the single file of a form.
pub(super) async fn form(
    request: &HttpRequest,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, Problem> {
    // `Content-Digest` would apply to the form with its boundaries, over which no digest is computed.
    if request.headers().contains_key(digests::CONTENT_DIGEST) {
        let of_form =
            BadField::new(digests::CONTENT_DIGEST, "is not supported for forms; send a Repr-Digest of the file");
        return Err(reply::wire_problem(&of_form.into()));
    }
    let max_bytes = shared.engine.settings().max_upload_bytes;
    // Rejected before the client has sent any of it.
    if body::announced_size(request).known() > Some(form::most_bytes(max_bytes, shared.settings.max_metadata_bytes)) {
        return Err(reply::rejection_problem(Rejection::OverLimit(max_bytes)));
    }
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let opened = form::open(content_type.unwrap_or_default(), payload, shared).await;
    let OpenForm { texts, file, bytes, remainder } = opened.map_err(|error| reply::form_problem(error, request))?;
    let own = [("filename", file.file_name), ("filetype", file.content_type)];
    let metadata =
        bounded(own, texts, shared.settings.max_metadata_bytes).map_err(|error| reply::creation_problem(&error))?;
    let upload = create(request, None, metadata, None, shared).await?;
    let appended = append(request, &upload, None, bytes, shared).await;
    let FormRemainder { ignored, error } = remainder.take();
    match (appended, error) {
        (Ok(upload), _) => Ok(reply::stored(&upload, &ignored, request, shared)),
        (Err(_), Some(error @ FormError::SeveralFiles)) => {
            discard(request, &upload, shared).await;
            Err(reply::form_problem(error, request))
        }
        (Err(_), Some(error)) => {
            Err(reply::form_problem(error, request).with(header::LOCATION, shared.location(request, upload.id())))
        }
        (Err(error), None) => Err(not_stored(error, None, request, &upload, shared).await),
    }
}

async fn create(
    request: &HttpRequest,
    length: Option<Length>,
    metadata: Metadata,
    content: Option<Digest>,
    shared: &UploadContext,
) -> Result<Upload, Problem> {
    let fields = HeaderFields(request.headers());
    let named = digests::promised(&fields).map_err(|error| reply::wire_problem(&error.into()))?;
    let command = Create {
        principal: principal(request),
        dialect: NAME,
        write_rules: FILLING,
        role: Role::Single,
        length,
        metadata,
        metadata_as_sent: None,
        wanted_digests: digests::wanted(&fields),
        promised_digests: content.into_iter().chain(named).collect(),
        caller: caller(request, shared),
    };
    shared.engine.create(command).await.map_err(|error| reply::engine_problem(error, request))
}

async fn append(
    request: &HttpRequest,
    upload: &Upload,
    count: Option<u64>,
    payload: impl Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    shared: &UploadContext,
) -> Result<Upload, EngineError> {
    let (dialect, position) = (NAME, WritePosition::Anywhere(Offset::ZERO));
    let caller = caller(request, shared);
    let command = Append {
        dialect,
        position,
        caller,
        ends: CompletesUpload::Here,
        ..Append::at(principal(request), upload.id(), Offset::ZERO, count)
    };
    let feed = shared.engine.append(command).await?;
    pump::pump_with_progress(request, payload, feed, shared.settings.idle_timeout, None).await
}

/// Returns the problem for a file that did not arrive. The upload exists and its client may resume it, except
/// for one that can never be completed.
async fn not_stored(
    error: EngineError,
    content: Option<&Digest>,
    request: &HttpRequest,
    upload: &Upload,
    shared: &UploadContext,
) -> Problem {
    let too_long = matches!(error, EngineError::Rejected(Rejection::OverLimit(_)));
    let failed = matches!(
        error,
        EngineError::Rejected(Rejection::BrokenPromise(_) | Rejection::Refused(_) | Rejection::Gone(_))
    );
    let problem = reply::append_problem(error, content, request);
    if too_long {
        discard(request, upload, shared).await;
    }
    if too_long || failed { problem } else { problem.with(header::LOCATION, shared.location(request, upload.id())) }
}

async fn discard(request: &HttpRequest, upload: &Upload, shared: &UploadContext) {
    if let Err(error) = shared.engine.discard(&principal(request), upload.id()).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(upload = %upload.id(), error, "could not remove a rejected upload; it will expire");
    }
}
