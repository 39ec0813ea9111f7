//! Responses to Google's clients: a 308 that is not a redirect, 499, and the object as JSON.

use std::time::Duration;

use actix_web::http::header::HeaderName;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::ranged::google::SessionStart;
use crate::ranged::{reply, wire};
use crate::uploads::UploadContext;
use api::pairs::Pairs;
use api::text::Text;
use domain::checksum::{Algorithm, Digest};
use domain::rejection::Rejection;
use domain::size::Offset;
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::Upload;
use edge::problem::{Problem, request_id};
use engine::command::EngineError;

const UPLOAD_ID: HeaderName = HeaderName::from_static("x-guploader-uploadid");

/// Names that do not belong to the client's own metadata.
const OWN_NAMES: [&str; 3] = ["name", "contentType", "bucket"];

/// The response to the start of a session, with its URL. Google's JSON libraries expect 200, signed URLs 201.
pub(in crate::ranged) fn started(upload: &Upload, session: &str, session_start: SessionStart) -> HttpResponse {
    let mut response = match session_start {
        SessionStart::Json => HttpResponse::Ok(),
        SessionStart::Xml => HttpResponse::Created(),
    };
    response.insert_header((header::LOCATION, session));
    finish(&mut response, upload)
}

/// The response while more bytes are expected. It never has a `Location`, because clients would follow it.
pub(in crate::ranged) fn incomplete(upload: &Upload, no_308: bool) -> HttpResponse {
    let mut response = if no_308 { HttpResponse::Ok() } else { HttpResponse::PermanentRedirect() };
    if no_308 {
        response.insert_header(("x-http-status-code-override", "308"));
    } else {
        response.reason("Resume Incomplete");
    }
    if let Some(range) = wire::range_of(upload.offset()) {
        response.insert_header((header::RANGE, range));
    }
    finish(&mut response, upload)
}

/// The response for a completed upload, the same for each repeated request.
pub(in crate::ranged) fn object(upload: &Upload, shared: &UploadContext) -> HttpResponse {
    let record = upload.record();
    let text = |name| record.metadata.get(name).map(String::from_utf8_lossy);
    let id = record.id.to_string();
    let name = text("name").unwrap_or_else(|| id.as_str().into());
    let bucket = text("bucket").unwrap_or_else(|| "files".into());
    let generation = record.created_at.unix_ms();
    let digest = |algorithm| {
        let digest = record.digests.iter().find(|digest| digest.algorithm() == algorithm);
        digest.map(|digest| STANDARD.encode(digest.value()))
    };
    let (crc32c, md5) = (digest(Algorithm::Crc32c), digest(Algorithm::Md5));
    let own = record.metadata.pairs().iter().filter(|(name, _)| !OWN_NAMES.contains(&name.as_str()));
    let own: Pairs<'_, Text<'_>> = own.map(|(name, value)| (name, Text::from(&value[..]))).collect();
    let mut object = json!({
        "kind": "storage#object",
        "id": format!("{bucket}/{name}/{generation}"),
        "selfLink": shared.upload_url(record.id),
        "mediaLink": shared.upload_url(record.id),
        "name": name,
        "bucket": bucket,
        "generation": generation.to_string(),
        "metageneration": "1",
        "contentType": record.metadata.content_type(),
        "size": upload.offset().get().to_string(),
        "crc32c": crc32c,
        "timeCreated": completed_at(upload).to_string(),
    });
    if let Some(md5) = &md5 {
        object["md5Hash"] = md5.as_str().into();
    }
    if !own.is_empty() {
        object["metadata"] = json!(own);
    }
    let hashes = [("crc32c", crc32c), ("md5", md5)];
    let hashes: Vec<String> =
        hashes.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect();
    HttpResponse::Ok()
        .insert_header((UPLOAD_ID, id.as_str()))
        .insert_header(("x-goog-hash", hashes.join(",")))
        .insert_header(("x-goog-stored-content-length", upload.offset().get()))
        .insert_header(reply::NO_STORE)
        .json(object)
}

fn completed_at(upload: &Upload) -> Timestamp {
    let record = upload.record();
    let completed = record.timeline.iter().find(|(stage, _)| *stage == Stage::Completed);
    completed.map_or(record.updated_at, |(_, at)| *at)
}

/// The response to the cancellation of a session.
pub(in crate::ranged) fn cancelled(upload: &Upload) -> HttpResponse {
    let mut response = HttpResponse::build(StatusCode::from_u16(499).expect("499 is a three-digit status"));
    response.reason("Client Closed Request");
    finish(&mut response, upload)
}

fn finish(response: &mut HttpResponseBuilder, upload: &Upload) -> HttpResponse {
    response.insert_header((UPLOAD_ID, upload.id().to_string())).insert_header(reply::NO_STORE).finish()
}

/// A rejection in Google's form: nearly always a problem, but plain text where clients parse plain text.
#[derive(Debug)]
pub(in crate::ranged) enum GoogleRejection {
    Problem(Problem),
    /// Bytes are missing: the client's offset is beyond the server's.
    Gap {
        ours: Offset,
        theirs: Offset,
    },
}

impl From<Problem> for GoogleRejection {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl GoogleRejection {
    pub(in crate::ranged) fn respond(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Self::Problem(problem) => problem.respond(request),
            Self::Gap { ours, theirs } => HttpResponse::ServiceUnavailable()
                .insert_header(reply::NO_STORE)
                .content_type("text/plain; charset=utf-8")
                // The text of Google's own servers, which clients parse.
                .body(format!(
                    "Invalid request.  According to the Content-Range header, the upload offset is {theirs} byte(s), \
                     which exceeds already uploaded size of {ours} byte(s)."
                )),
        }
    }
}

/// Returns the rejection for an error. Google's libraries retry after 408, 429, 500, 502, 503 and 504, and
/// after nothing else.
pub(in crate::ranged) fn rejection(
    error: EngineError,
    content: Option<&Digest>,
    request: &HttpRequest,
) -> GoogleRejection {
    let soon = Duration::from_secs(1);
    let problem = match error {
        EngineError::NoSpace => {
            tracing::warn!(request = %request_id(request), "not enough disk space for an upload with the Google \
                                                            protocol");
            Problem::try_again("no-space", EngineError::NoSpace.to_string(), Duration::from_secs(30))
        }
        EngineError::Rejected(Rejection::WrongOffset { ours, theirs }) if theirs > ours => {
            return GoogleRejection::Gap { ours, theirs };
        }
        // Another request has advanced the offset. The bytes that this one repeats are skipped when it is
        // retried.
        EngineError::Rejected(rejection @ Rejection::WrongOffset { .. }) => {
            Problem::try_again("wrong-offset", rejection.to_string(), soon)
        }
        EngineError::Rejected(rejection @ Rejection::BrokenPromise(_)) => {
            Problem::bad_request("digest-mismatch", rejection.to_string())
        }
        // For bytes sent again to a completed object. Without a digest of the content, the mismatch was in
        // `x-goog-hash`.
        EngineError::Rejected(rejection @ Rejection::ChecksumMismatch(_)) if content.is_none() => {
            Problem::bad_request("digest-mismatch", rejection.to_string())
        }
        EngineError::Rejected(_) | EngineError::Unavailable(_) | EngineError::Failed { .. } => {
            reply::append_problem(error, content, request)
        }
    };
    GoogleRejection::Problem(problem)
}

/// The problem for a request that should have carried bytes and did not.
pub(in crate::ranged) fn nothing_stored() -> Problem {
    Problem::try_again("nothing-stored", "the request contained no bytes", Duration::from_secs(1))
}

/// The problem for another kind of upload that Google supports at the same address.
pub(in crate::ranged) fn other_kind() -> Problem {
    let detail = "this server supports only uploadType=resumable; Google's Python library uses it for files of more \
                  than 8 MiB, for streams of unknown size, and from Blob.open(\"wb\")";
    Problem::bad_request("unsupported-upload-type", detail)
}
