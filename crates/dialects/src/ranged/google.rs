//! Google's sessions: bytes in order, `308` until the last of them, and an object in JSON at the end.

use actix_web::dev::Payload;
use actix_web::{HttpRequest, HttpResponse};

use crate::caller::caller;
use crate::digests;
use crate::ranged::creation::{Creation, ObjectFields};
use crate::ranged::reply::google::GoogleRejection;
use crate::ranged::wire::{Carried, Data, End};
use crate::ranged::{GOOGLE, check_empty, creation, inspect, pumped, reply, small_body, wire};
use crate::uploads::UploadContext;
use domain::checksum::Algorithm;
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::stage::Stage;
use domain::upload::{Role, Upload};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use edge::body;
use edge::body::HeaderFields;
use edge::fields::{BadField, single};
use edge::principal::principal;
use edge::problem::Problem;
use edge::query::Query;
use engine::command::{Append, Cancel, CompletesUpload, Create, WritePosition};

/// Bytes are written at the offset, and the client declares which of them complete an object.
const FILLING: WriteRules = WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenSaid };

/// The two ways to start a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionStart {
    Json,
    Xml,
}

/// Starts a session, in a bucket if the address has one.
pub(super) async fn start(
    request: &HttpRequest,
    bucket: Option<&str>,
    payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, GoogleRejection> {
    let fields = HeaderFields(request.headers());
    let reject = |error: wire::WireError| reply::wire_problem(&error);
    wire::reject_commands(&fields).map_err(reject)?;
    wire::reject_range(&fields).map_err(reject)?;
    let session_start = session_start(&fields).map_err(|error| reject(error.into()))?;
    let length = wire::length(&fields, "x-upload-content-length").map_err(|error| reject(error.into()))?;
    let most = shared.engine.settings().max_upload_bytes;
    if length.is_some_and(|length| length.get() > most) {
        return Err(reply::rejection_problem(Rejection::OverLimit(most)).into());
    }
    let origin = shared.absolute_origin(request).map_err(|error| reject(error.into()))?;
    let named = digests::promised(&fields).map_err(|error| reject(error.into()))?;
    let described = described(request, session_start, bucket, payload, shared).await?;
    let command = Create {
        principal: principal(request),
        dialect: GOOGLE,
        write_rules: FILLING,
        role: Role::Single,
        length,
        metadata: described.metadata,
        metadata_as_sent: None,
        // Google's clients compare one of the two digests that they support at the end.
        wanted_digests: [vec![Algorithm::Md5], digests::wanted(&fields)].concat(),
        promised_digests: [described.promised_digests, named].concat(),
        caller: caller(request, shared),
    };
    let upload = shared.engine.create(command).await.map_err(|error| reply::google::rejection(error, None, request))?;
    let session = format!("{origin}{}", shared.upload_url(upload.id()));
    Ok(reply::google::started(&upload, &session, session_start))
}

fn session_start(fields: &HeaderFields) -> Result<SessionStart, BadField> {
    match single(fields, "x-goog-resumable")? {
        None => Ok(SessionStart::Json),
        Some(word) if word.eq_ignore_ascii_case("start") => Ok(SessionStart::Xml),
        Some(_) => Err(BadField::new("x-goog-resumable", "must be `start`")),
    }
}

/// Reads the description of the object from the query, header fields and JSON.
async fn described(
    request: &HttpRequest,
    session_start: SessionStart,
    bucket: Option<&str>,
    payload: Payload,
    shared: &UploadContext,
) -> Result<Creation, Problem> {
    let fields = HeaderFields(request.headers());
    let query = Query::parse(request.query_string())?;
    let field = |name| single(&fields, name).map_err(|error| reply::wire_problem(&error.into()));
    // In the XML API, `Content-Type` is the type of the object, and the body that some clients send is
    // ignored.
    let (content_type, json) = match session_start {
        SessionStart::Json => (field("x-upload-content-type")?, small_body(request, payload, shared).await?),
        SessionStart::Xml => (field("content-type")?, Vec::new()),
    };
    let name = query.pairs().find(|(name, _)| *name == "name").map(|(_, value)| value);
    let around = ObjectFields { name, bucket, content_type: content_type.filter(|text| !text.is_empty()) };
    creation::object(&json, &around, shared.settings.max_metadata_bytes)
        .map_err(|error| reply::creation_problem(&error))
}

/// Handles data, a query, or the request that completes the object without data.
pub(super) async fn put(
    request: &HttpRequest,
    upload: Upload,
    mut payload: Payload,
    shared: &UploadContext,
) -> Result<HttpResponse, GoogleRejection> {
    let fields = HeaderFields(request.headers());
    let reject = |error: wire::WireError| reply::wire_problem(&error);
    let carried = wire::carried(&fields, body::announced_size(request)).map_err(reject)?;
    let hashes = wire::goog_hashes(&fields).map_err(|error| reject(error.into()))?;
    let (dialect, caller) = (GOOGLE, caller(request, shared));
    let command = Append { dialect, caller, ..Append::at(principal(request), upload.id(), Offset::ZERO, None) };
    let upload = match carried {
        Carried::Question { total } => {
            check_empty(request, &mut payload, shared).await?;
            let found = inspect(request, upload.id(), shared).await?;
            let Some(total) = finalised(&found, total)? else { return Ok(progress_or_result(&found, request, shared)) };
            // Completes the object without data.
            let (position, ends) = (WritePosition::From(found.offset()), CompletesUpload::Here);
            let length = Some(total);
            let command = Append { position, count: Some(0), length, ends, promised_digests: hashes, ..command };
            append(command, request, payload, None, shared).await?
        }
        Carried::Data(data) => {
            let checksum = digests::content(&fields).map_err(|error| reject(error.into()))?;
            let command = Append { checksum, ..carrying(command, data) };
            // A digest of the whole object counts only in its last request.
            let promised_digests = if command.ends == CompletesUpload::Later { Vec::new() } else { hashes };
            let unframed = data.count.filter(|_| data.unframed);
            append(Append { promised_digests, ..command }, request, payload, unframed, shared).await?
        }
    };
    if upload.offset() == Offset::ZERO && upload.stage() != Stage::Completed {
        // After sending data, clients expect a 308 with a `Range` of the bytes that arrived.
        return Err(reply::google::nothing_stored().into());
    }
    Ok(progress_or_result(&upload, request, shared))
}

fn carrying(command: Append, data: Data) -> Append {
    let ends = match data.end {
        End::Last => CompletesUpload::Here,
        End::IfTotal => CompletesUpload::WhenFull,
        End::More => CompletesUpload::Later,
    };
    Append { position: WritePosition::From(data.first), count: data.count, length: data.total, ends, ..command }
}

/// Returns the length with which a query completes the upload, if it does: all bytes must have arrived.
fn finalised(upload: &Upload, total: Option<Length>) -> Result<Option<Length>, GoogleRejection> {
    match (upload.length(), total) {
        _ if upload.stage() == Stage::Completed => Ok(None),
        (Some(ours), Some(theirs)) if ours != theirs => {
            Err(reply::rejection_problem(Rejection::LengthChanged { ours, theirs }).into())
        }
        (_, total) => Ok(total.filter(|total| total.get() == upload.offset().get())),
    }
}

async fn append(
    command: Append,
    request: &HttpRequest,
    payload: Payload,
    unframed: Option<u64>,
    shared: &UploadContext,
) -> Result<Upload, GoogleRejection> {
    let checksum = command.checksum.clone();
    let reject = |error| reply::google::rejection(error, checksum.as_ref(), request);
    let feed = shared.engine.append(command).await.map_err(reject)?;
    pumped(request, payload, feed, unframed, shared, reject).await
}

fn progress_or_result(upload: &Upload, request: &HttpRequest, shared: &UploadContext) -> HttpResponse {
    if upload.stage() == Stage::Completed {
        return reply::google::object(upload, shared);
    }
    reply::google::incomplete(upload, wire::wants_no_308(&HeaderFields(request.headers())))
}

/// Cancels a session. A completed upload is not a session any more; it is deleted with the status that all
/// other clients expect.
pub(super) async fn cancel(
    request: &HttpRequest,
    id: UploadId,
    shared: &UploadContext,
) -> Result<HttpResponse, GoogleRejection> {
    let upload = inspect(request, id, shared).await?;
    let command = Cancel { principal: principal(request), id, caller: caller(request, shared) };
    shared.engine.cancel(command).await.map_err(|error| reply::google::rejection(error, None, request))?;
    let was_complete = upload.stage() == Stage::Completed;
    Ok(if was_complete { reply::terminated() } else { reply::google::cancelled(&upload) })
}

/// Checks that a request to Google's own address starts a session, and no other operation that Google has
/// there.
pub(super) fn check_kind(request: &HttpRequest) -> Result<(), Problem> {
    let query = Query::parse(request.query_string())?;
    let kind = query.pairs().find(|(name, _)| *name == "uploadType").map(|(_, value)| value);
    let signed = request.headers().contains_key("x-goog-resumable");
    if kind == Some("resumable") || signed { Ok(()) } else { Err(reply::google::other_kind()) }
}
