//! Translates outcomes and rejections into responses of tus 1.0.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, body};

use crate::metadata::OFFSET_OCTET_STREAM;
use crate::trouble::common;
use crate::tus::wire;
use crate::tus::wire::{Checksum, WireError};
use crate::upload_fields::{UPLOAD_EXPIRES, UPLOAD_OFFSET};
use crate::{digests, upload_fields};
use domain::rejection::Rejection;
use domain::upload::Upload;
use edge::problem::Problem;
use engine::command::EngineError;

const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");

/// Adds the fields of this dialect to the response to OPTIONS.
pub(super) fn add_options(headers: &mut HeaderMap, extensions: &'static str, max_upload_bytes: u64) {
    headers.insert(TUS_VERSION, HeaderValue::from_static(wire::VERSION));
    headers.insert(HeaderName::from_static("tus-extension"), HeaderValue::from_static(extensions));
    headers.insert(HeaderName::from_static("tus-max-size"), HeaderValue::from(max_upload_bytes));
    let algorithms = HeaderValue::from_static(wire::CHECKSUM_ALGORITHMS);
    headers.insert(HeaderName::from_static("tus-checksum-algorithm"), algorithms);
}

pub(super) fn created(upload: &Upload, location: &str) -> HttpResponse {
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, location)).insert_header((UPLOAD_OFFSET, upload.offset().get()));
    upload_fields::insert_expiry(&mut response, upload);
    response.finish()
}

pub(super) fn appended(upload: &Upload) -> HttpResponse {
    let mut response = HttpResponse::NoContent();
    response.insert_header((UPLOAD_OFFSET, upload.offset().get()));
    upload_fields::insert_expiry(&mut response, upload);
    response.finish()
}

pub(super) fn terminated() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// The response to HEAD (tus 1.0, Core, HEAD).
pub(super) fn head(upload: &Upload, asked_with: &Method) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    upload_fields::insert(&mut response, upload);
    match *asked_with {
        // RFC 9110, 8.6: no length except the one that GET would have.
        Method::HEAD => response.body(body::None::new()),
        _ => response.finish(),
    }
}

/// The problem for HEAD on an upload that has all its bytes but is not declared complete.
///
/// tus clients retry after 423; any other 4xx makes them forget the upload and start over.
pub(super) fn still_open() -> Problem {
    let detail = "the upload has all its bytes, but it has not been completed yet in the protocol that created it";
    Problem::new(StatusCode::LOCKED, "still-open", detail)
}

/// The problem for a HEAD that cannot report an offset. Every temporary error is 423: after a 5xx,
/// tus-js-client starts a new upload.
pub(super) fn offset_unknown(error: EngineError, request: &HttpRequest) -> Problem {
    match common(error, request) {
        Ok(passing) => passing.with_status(StatusCode::LOCKED),
        Err(rejection) => rejection_problem(rejection),
    }
}

/// Adds the expiry to the problem for a rejected PATCH. tus 1.0, Expiration: every response to a PATCH has
/// it.
pub(super) fn not_appended(problem: Problem, upload: &Upload) -> Problem {
    match upload_fields::expiry(upload) {
        Some(at) => problem.with(UPLOAD_EXPIRES, at),
        None => problem,
    }
}

pub(super) fn wire_problem(error: &WireError) -> Problem {
    let detail = error.to_string();
    match error {
        WireError::Field(_) => Problem::bad_request("bad-header", detail),
        WireError::Digests(error) => digests::reply::problem(error),
        WireError::Version(_) => Problem::new(StatusCode::PRECONDITION_FAILED, "unsupported-version", detail)
            .with(TUS_VERSION, wire::VERSION),
        WireError::MediaType => Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type", detail)
            .with(HeaderName::from_static("accept-patch"), OFFSET_OCTET_STREAM),
        WireError::TooLarge { .. } => {
            Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header-too-large", detail)
        }
        WireError::FinalWithData => Problem::new(StatusCode::FORBIDDEN, "final-upload", detail),
        WireError::ChecksumTrailer => Problem::bad_request("checksum-trailer", detail),
        WireError::ForeignPart(_) => Problem::bad_request("bad-part", detail),
    }
}

pub(super) fn engine_problem(error: EngineError, request: &HttpRequest) -> Problem {
    common(error, request).unwrap_or_else(rejection_problem)
}

/// The problem for rejected bytes. `checksum` was sent with them.
pub(super) fn append_problem(error: EngineError, checksum: Option<&Checksum>, request: &HttpRequest) -> Problem {
    match (&error, checksum) {
        (EngineError::Rejected(Rejection::ChecksumMismatch(_)), Some(Checksum::Content(digest))) => {
            digests::reply::mismatched(digests::CONTENT_DIGEST, digest)
        }
        _ => engine_problem(error, request),
    }
}

pub(super) fn rejection_problem(rejection: Rejection) -> Problem {
    let status = match &rejection {
        Rejection::Refused(failure) => return Problem::rejected(failure),
        Rejection::NotFound | Rejection::PartMissing(_) => StatusCode::NOT_FOUND,
        Rejection::Gone(_) | Rejection::Removed | Rejection::BytesMissing => StatusCode::GONE,
        Rejection::WrongOffset { .. }
        | Rejection::DifferentBytes { .. }
        | Rejection::TooManyRanges(_)
        | Rejection::OtherDialect(_)
        | Rejection::PartTwice { .. } => StatusCode::CONFLICT,
        Rejection::AlreadyComplete(_)
        | Rejection::BeyondLength(_)
        | Rejection::OverLimit(_)
        | Rejection::TooMuchToReplace(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Rejection::LengthChanged { .. }
        | Rejection::LengthBelowOffset { .. }
        | Rejection::EndsElsewhere { .. }
        | Rejection::BeyondRange { .. }
        | Rejection::Misaligned { .. }
        | Rejection::NotPartial(_)
        | Rejection::PartUnfinished(_) => StatusCode::BAD_REQUEST,
        Rejection::ChecksumMismatch(_) => checksum_mismatch(),
        Rejection::BrokenPromise(_) | Rejection::InOrderOnly => StatusCode::UNPROCESSABLE_ENTITY,
        Rejection::IsFinal => StatusCode::FORBIDDEN,
    };
    let problem = Problem::new(status, rejection.code(), rejection.to_string());
    if let Rejection::WrongOffset { ours, .. } = rejection {
        return problem.with(UPLOAD_OFFSET, ours.to_string());
    }
    problem
}

/// tus 1.0, Checksum: 460, which HTTP itself does not define.
fn checksum_mismatch() -> StatusCode {
    StatusCode::from_u16(460).expect("460 is a three-digit status")
}
