//! Translates outcomes and rejections into responses of ranged PUT: this server's own here, Google's in
//! [`google`].

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde_json::{Map, Value, json};

use crate::digests;
use crate::missing::MissingRanges;
use crate::ranged::creation::BadCreation;
use crate::ranged::form::FormError;
use crate::ranged::wire;
use crate::ranged::wire::WireError;
use crate::trouble::{broken_off, common};
use crate::uploads::UploadContext;
use domain::checksum::Digest;
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::Upload;
use edge::problem::Problem;
use engine::command::EngineError;

pub(super) mod google;

const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");

/// The response to the start of a session with ranges in any order: its URL, and the expected size and
/// alignment of ranges.
pub(super) fn started(upload: &Upload, request: &HttpRequest, shared: &UploadContext) -> HttpResponse {
    let record = upload.record();
    let location = shared.location(request, record.id);
    HttpResponse::Created().insert_header((header::LOCATION, location)).insert_header(NO_STORE).json(json!({
        "id": record.id.to_string(),
        "upload": shared.upload_url(record.id),
        "status": shared.status_url(record.id),
        "length": record.length.map(|length| length.get()),
        "part_size": shared.settings.range_size_bytes(),
        "alignment": shared.settings.range_alignment_bytes,
        "expires_at": record.expires_at.map(|at| at.to_string()),
        "complete": record.stage == Stage::Completed,
    }))
}

/// The progress of an upload, for clients that send ranges of it or query it.
pub(super) fn progress(upload: &Upload) -> HttpResponse {
    let complete = upload.stage() == Stage::Completed;
    let mut response = if complete { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    if let Some(range) = wire::range_of(upload.offset()) {
        response.insert_header((header::RANGE, range));
    }
    let missing = MissingRanges::of(upload);
    response.insert_header(NO_STORE).json(json!({
        "offset": upload.offset().get(),
        "length": upload.length().map(|length| length.get()),
        "received": upload.received_bytes(),
        "missing": missing.ranges,
        "missing_truncated": missing.truncated,
        "complete": complete,
    }))
}

/// The response for a whole file that was stored.
pub(super) fn stored(
    upload: &Upload,
    ignored: &[String],
    request: &HttpRequest,
    shared: &UploadContext,
) -> HttpResponse {
    let record = upload.record();
    let location = shared.location(request, record.id);
    let digests = record.digests.iter().map(|digest| (digest.algorithm().name().to_owned(), digest.hex().into()));
    let mut answer = json!({
        "id": record.id.to_string(),
        "upload": shared.upload_url(record.id),
        "status": shared.status_url(record.id),
        "size": upload.offset().get(),
        "digests": digests.collect::<Map<String, Value>>(),
        "filename": record.metadata.file_name(),
    });
    if !ignored.is_empty() {
        answer["ignored_fields"] = ignored.into();
    }
    HttpResponse::Created().insert_header((header::LOCATION, location)).insert_header(NO_STORE).json(answer)
}

/// The response to HEAD while there is nothing to download.
pub(super) fn state(upload: &Upload) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    response.insert_header(NO_STORE);
    add_state(&mut response, upload);
    response.finish()
}

fn add_state(response: &mut HttpResponseBuilder, upload: &Upload) {
    response.insert_header((UPLOAD_OFFSET, upload.offset().get()));
    if let Some(length) = upload.length() {
        response.insert_header((UPLOAD_LENGTH, length.get()));
    }
}

/// Adds the offset and length of the upload to a download, as in the responses before.
pub(super) fn add_offset(headers: &mut HeaderMap, offset: u64) {
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    headers.insert(UPLOAD_LENGTH, HeaderValue::from(offset));
}

pub(super) fn terminated() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

pub(super) fn wire_problem(error: &WireError) -> Problem {
    let code = match error {
        WireError::Digests(error) => return digests::reply::problem(error),
        WireError::Field(_) => "bad-header",
        WireError::OtherCount { .. } => "other-count",
        WireError::QuestionWithBody => "question-with-body",
        WireError::UploadCommands => "upload-commands",
        WireError::RangeOfNothing => "range-of-nothing",
    };
    Problem::bad_request(code, error.to_string())
}

/// The problem for a body that does not have the number of bytes that its `Content-Range` states.
pub(super) fn other_count(count: u64) -> Problem {
    Problem::bad_request(
        "other-count",
        format!("the body of the request does not have the {count} bytes that its Content-Range declares"),
    )
}

pub(super) fn creation_problem(error: &BadCreation) -> Problem {
    let detail = error.to_string();
    match error {
        BadCreation::Json(_) | BadCreation::TwoNames | BadCreation::Size => Problem::bad_request("bad-session", detail),
        BadCreation::Digest(..) | BadCreation::UnknownDigest(_) => Problem::bad_request("bad-digest", detail),
        BadCreation::Metadata(_) => Problem::bad_request("bad-metadata", detail),
        BadCreation::TooLarge(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "metadata-too-large", detail),
    }
}

pub(super) fn session_too_large(limit: usize) -> Problem {
    let detail = format!("the JSON of a session may have at most {limit} bytes (limits.max_metadata_size)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "metadata-too-large", detail)
}

pub(super) fn form_problem(fault: FormError, request: &HttpRequest) -> Problem {
    match fault {
        FormError::Bad(bad) => Problem::bad_request("bad-form", bad.to_string()),
        FormError::NoFile => Problem::bad_request("no-file", "the form contains no file"),
        FormError::SeveralFiles => {
            let detail = "the form contains several files, and none of them was kept; send one file with each form";
            Problem::bad_request("several-files", detail)
        }
        FormError::TooLarge(error) => creation_problem(&error),
        FormError::Cut => engine_problem(broken_off(), request),
    }
}

pub(super) fn plain_uploads_off() -> Problem {
    let detail = "this server accepts no uploads without an upload protocol (protocols.plain_uploads is false); use \
                  one of the protocols in its documentation";
    Problem::new(StatusCode::FORBIDDEN, "plain-uploads-off", detail)
}

/// The problem for an upload of a sequential dialect, which a PUT cannot resume.
///
/// RFC 9110, 14.5: a `Content-Range` without a meaning is a 400.
pub(super) fn other_dialect(upload: &Upload, ranged: bool) -> Problem {
    let status = if ranged { StatusCode::BAD_REQUEST } else { StatusCode::CONFLICT };
    let rejection = Rejection::OtherDialect(upload.dialect());
    Problem::new(status, rejection.code(), rejection.to_string())
}

pub(super) fn engine_problem(error: EngineError, request: &HttpRequest) -> Problem {
    common(error, request).unwrap_or_else(rejection_problem)
}

/// The problem for rejected bytes. `content` is the digest sent with them.
pub(super) fn append_problem(error: EngineError, content: Option<&Digest>, request: &HttpRequest) -> Problem {
    match (&error, content) {
        (EngineError::Rejected(Rejection::ChecksumMismatch(_) | Rejection::BrokenPromise(_)), Some(digest)) => {
            digests::reply::mismatched(digests::CONTENT_DIGEST, digest)
        }
        (_, Some(_) | None) => engine_problem(error, request),
    }
}

pub(super) fn rejection_problem(rejection: Rejection) -> Problem {
    let status = match &rejection {
        Rejection::Refused(failure) => return Problem::rejected(failure),
        Rejection::NotFound | Rejection::PartMissing(_) => StatusCode::NOT_FOUND,
        Rejection::Gone(_) | Rejection::Removed | Rejection::BytesMissing => StatusCode::GONE,
        Rejection::WrongOffset { .. }
        | Rejection::AlreadyComplete(_)
        | Rejection::OtherDialect(_)
        | Rejection::DifferentBytes { .. }
        | Rejection::TooManyRanges(_)
        | Rejection::TooMuchToReplace(_)
        | Rejection::PartTwice { .. } => StatusCode::CONFLICT,
        Rejection::OverLimit(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Rejection::BeyondLength(_)
        | Rejection::LengthChanged { .. }
        | Rejection::LengthBelowOffset { .. }
        | Rejection::EndsElsewhere { .. }
        | Rejection::BeyondRange { .. }
        | Rejection::Misaligned { .. }
        | Rejection::ChecksumMismatch(_)
        | Rejection::NotPartial(_)
        | Rejection::PartUnfinished(_) => StatusCode::BAD_REQUEST,
        Rejection::BrokenPromise(_) | Rejection::InOrderOnly => StatusCode::UNPROCESSABLE_ENTITY,
        Rejection::IsFinal => StatusCode::FORBIDDEN,
    };
    Problem::new(status, rejection.code(), rejection.to_string())
}
