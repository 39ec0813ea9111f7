//! Translates outcomes and rejections into responses of the draft.

use std::borrow::Cow;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};

use crate::ietf::draft::DraftVersion;
use crate::ietf::wire::WireError;
use crate::trouble::common;
use crate::upload_fields::{UPLOAD_LENGTH, UPLOAD_OFFSET};
use crate::{digests, upload_fields};
use domain::checksum::{Algorithm, Digest};
use domain::rejection::Rejection;
use domain::stage::Stage;
use domain::upload::Upload;
use edge::problem::Problem;
use engine::command::EngineError;

const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
const INTEROP_VERSION: HeaderName = HeaderName::from_static("upload-draft-interop-version");

const MISMATCHING_OFFSET: &str = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
const COMPLETED: &str = "https://iana.org/assignments/http-problem-types#completed-upload";
const INCONSISTENT_LENGTH: &str = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";

/// Fields of a response or an interim response.
pub(super) type FieldList = Vec<(HeaderName, HeaderValue)>;

/// Adds the fields of this dialect to the response to OPTIONS.
pub(super) fn add_options(headers: &mut HeaderMap, limit: &str) {
    add(headers, field(UPLOAD_LIMIT, limit));
}

/// Adds the version of a response, if it is one of those configured.
pub(super) fn add_version(headers: &mut HeaderMap, draft: &DraftVersion) {
    add(headers, draft.interop.and_then(|number| field(INTEROP_VERSION, number)));
}

/// `104`: the upload has begun, with its URL.
pub(super) fn begun(draft: &DraftVersion, location: &str, limit: &str) -> FieldList {
    let number = draft.interop.and_then(|number| field(INTEROP_VERSION, number));
    [number, field(header::LOCATION, location), field(UPLOAD_LIMIT, limit)].into_iter().flatten().collect()
}

/// `104`: the offset of the upload.
pub(super) fn progress(draft: &DraftVersion, offset_bytes: u64) -> FieldList {
    let number = draft.interop.and_then(|number| field(INTEROP_VERSION, number));
    [number, field(UPLOAD_OFFSET, offset_bytes)].into_iter().flatten().collect()
}

/// The response to a creation, and to the append that completes an upload. Whichever of the two carries the
/// last bytes, the client receives the same response, also when it repeats the request.
pub(super) fn created(
    draft: &DraftVersion,
    upload: &Upload,
    location: &str,
    limit: &str,
    wanted: &[Algorithm],
) -> HttpResponse {
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, location));
    insert_offset(&mut response, draft, upload, limit);
    if is_complete(upload) {
        let record = upload.record();
        let asked_for = |digest: &&Digest| {
            let algorithm = digest.algorithm();
            record.wanted_digests.contains(&algorithm) || wanted.contains(&algorithm)
        };
        if let Some(digests) = digests::print(record.digests.iter().filter(asked_for)) {
            response.insert_header((digests::REPR_DIGEST, digests));
        }
    }
    response.finish()
}

/// The response to an append that does not complete the upload.
pub(super) fn appended(draft: &DraftVersion, upload: &Upload, limit: &str) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    insert_offset(&mut response, draft, upload, limit);
    response.finish()
}

pub(super) fn cancelled() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// The offset of an upload: the response to HEAD, and to GET while there is nothing to download.
pub(super) fn offset(draft: &DraftVersion, upload: &Upload, limit: &str) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    upload_fields::insert(&mut response, upload);
    insert_offset(&mut response, draft, upload, limit);
    response.finish()
}

/// Adds the same fields to the download of a completed upload.
pub(super) fn add_offset(headers: &mut HeaderMap, draft: &DraftVersion, upload: &Upload, limit: &str) {
    add(headers, offset_fields(draft, upload, limit));
    add(headers, upload.length().and_then(|length| field(UPLOAD_LENGTH, length)));
}

fn insert_offset(response: &mut HttpResponseBuilder, draft: &DraftVersion, upload: &Upload, limit: &str) {
    for field in offset_fields(draft, upload, limit) {
        response.insert_header(field);
    }
    response.insert_header((header::CACHE_CONTROL, "no-store"));
}

fn offset_fields(
    draft: &DraftVersion,
    upload: &Upload,
    limit: &str,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let fields =
        [field(UPLOAD_OFFSET, upload.offset()), completeness(draft, is_complete(upload)), field(UPLOAD_LIMIT, limit)];
    fields.into_iter().flatten()
}

/// Returns whether the upload is complete: no bytes follow, nothing is pending, and it has not failed.
fn is_complete(upload: &Upload) -> bool {
    match upload.stage() {
        Stage::Ended(_) => false,
        Stage::Created
        | Stage::Receiving
        | Stage::Stalled
        | Stage::Received
        | Stage::Verified
        | Stage::Stored
        | Stage::Completed => upload.is_settled(),
    }
}

fn completeness(draft: &DraftVersion, end: bool) -> Option<(HeaderName, HeaderValue)> {
    field(completeness_name(draft), draft.completeness.value(end))
}

fn completeness_name(draft: &DraftVersion) -> HeaderName {
    HeaderName::from_static(draft.completeness.field())
}

/// Returns a field, if its value is valid in one.
fn field(name: HeaderName, value: impl ToString) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::try_from(value.to_string()).ok().map(|value| (name, value))
}

fn add(headers: &mut HeaderMap, fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) {
    for (name, value) in fields {
        headers.insert(name, value);
    }
}

/// The problem for an invalid request.
pub(super) fn wire_problem(error: &WireError, draft: &DraftVersion) -> Problem {
    let detail = error.to_string();
    match error {
        WireError::Field(_) => Problem::bad_request("bad-header", detail),
        WireError::Digests(error) => digests::reply::problem(error),
        WireError::MediaType => Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type", detail)
            .with(HeaderName::from_static("accept-patch"), crate::patch_types()),
        WireError::TooLarge { .. } => {
            Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header-too-large", detail)
        }
        WireError::InconsistentLength { .. } => {
            mark_resumable(Problem::bad_request("inconsistent-length", detail).kind(INCONSISTENT_LENGTH), draft)
        }
    }
}

/// Marks a problem after which the client may resume the upload.
pub(super) fn mark_resumable(problem: Problem, draft: &DraftVersion) -> Problem {
    problem.with(completeness_name(draft), draft.completeness.value(false))
}

/// Marks a problem that is final.
pub(super) fn mark_final(problem: Problem, draft: &DraftVersion) -> Problem {
    problem.with(completeness_name(draft), draft.completeness.value(true))
}

/// The problem for a rejected query or cancellation, or for a creation rejected before an upload exists.
pub(super) fn rejected(error: EngineError, draft: &DraftVersion, limit: &str, request: &HttpRequest) -> Problem {
    common(error, request).unwrap_or_else(|rejection| rejection_problem(rejection, draft, limit, None))
}

/// The problem for rejected bytes. `upload` is the current state of the upload, if it exists.
pub(super) fn append_rejected(
    error: EngineError,
    draft: &DraftVersion,
    limit: &str,
    upload: Option<&Upload>,
    checksum: Option<&Digest>,
    request: &HttpRequest,
) -> Problem {
    let rejection = match common(error, request) {
        Ok(problem) => return mark_resumable(problem, draft),
        Err(rejection) => rejection,
    };
    match (&rejection, checksum, upload) {
        (Rejection::ChecksumMismatch(_), Some(checksum), _) => {
            mark_resumable(digests::reply::mismatched(digests::CONTENT_DIGEST, checksum), draft)
        }
        (Rejection::BrokenPromise(algorithm), _, Some(upload)) => {
            let promised = upload.record().promised_digests.iter().find(|promised| promised.algorithm() == *algorithm);
            let problem = match promised {
                Some(promised) => digests::reply::mismatched(digests::REPR_DIGEST, promised),
                None => rejection_problem(rejection, draft, limit, Some(upload)),
            };
            mark_final(problem, draft)
        }
        (Rejection::Refused(_), _, _) => rejection_problem(rejection, draft, limit, upload),
        _ => mark_resumable(rejection_problem(rejection, draft, limit, upload), draft),
    }
}

fn rejection_problem(rejection: Rejection, draft: &DraftVersion, limit: &str, upload: Option<&Upload>) -> Problem {
    let (detail, code) = (rejection.to_string(), rejection.code());
    let own = |status, code: Cow<'static, str>| Problem::new(status, code, detail.clone());
    let problem = |status| own(status, code.clone());
    match rejection {
        // Draft, 4.2.3: the application's decision is final, and nothing can be resumed.
        Rejection::Refused(failure) => mark_final(Problem::rejected(&failure), draft),
        Rejection::NotFound => problem(StatusCode::NOT_FOUND),
        Rejection::Gone(_) | Rejection::Removed | Rejection::BytesMissing => {
            problem(if draft.gone_is_missing { StatusCode::NOT_FOUND } else { StatusCode::GONE })
        }
        Rejection::WrongOffset { ours, theirs } => problem(StatusCode::CONFLICT)
            .kind(MISMATCHING_OFFSET)
            .member("expected-offset", ours.get())
            .member("provided-offset", theirs.get())
            .with(UPLOAD_OFFSET, ours.to_string()),
        Rejection::AlreadyComplete(_)
        | Rejection::BeyondLength(_)
        | Rejection::LengthChanged { .. }
        | Rejection::LengthBelowOffset { .. }
        | Rejection::EndsElsewhere { .. } => {
            let over = draft.names_completed && upload.is_some_and(is_complete);
            let kind = if over { COMPLETED } else { INCONSISTENT_LENGTH };
            own(StatusCode::BAD_REQUEST, "inconsistent-length".into()).kind(kind)
        }
        Rejection::OverLimit(_) => problem(StatusCode::PAYLOAD_TOO_LARGE).with(UPLOAD_LIMIT, limit),
        // Only for uploads with bytes in any order, if dialects may be crossed.
        Rejection::OtherDialect(_) | Rejection::DifferentBytes { .. } | Rejection::TooManyRanges(_) => {
            problem(StatusCode::CONFLICT)
        }
        Rejection::BeyondRange { .. } | Rejection::Misaligned { .. } => problem(StatusCode::BAD_REQUEST),
        Rejection::InOrderOnly => problem(StatusCode::UNPROCESSABLE_ENTITY),
        Rejection::TooMuchToReplace(_) => problem(StatusCode::PAYLOAD_TOO_LARGE),
        Rejection::ChecksumMismatch(_) | Rejection::BrokenPromise(_) => {
            own(StatusCode::BAD_REQUEST, "digest-mismatch".into())
        }
        Rejection::IsFinal => problem(StatusCode::FORBIDDEN),
        Rejection::PartMissing(_)
        | Rejection::PartTwice { .. }
        | Rejection::NotPartial(_)
        | Rejection::PartUnfinished(_) => own(StatusCode::BAD_REQUEST, "bad-part".into()),
    }
}
