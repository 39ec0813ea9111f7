//! Problems of handlers besides the dialects: unknown uploads, and errors of the engine.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;

use dialects::trouble::common;
use domain::id::UploadId;
use domain::rejection::Rejection;
use edge::body::BodyCut;
use edge::problem::Problem;
use engine::command::{EngineError, Unavailable};

/// Parses the id of an upload in a path.
pub(super) fn parse_id(text: &str) -> Result<UploadId, Problem> {
    text.parse().map_err(|_| no_such_upload())
}

/// Returns the problem for an error of the engine.
pub(super) fn problem(error: EngineError, request: &HttpRequest) -> Problem {
    match common(error, request) {
        Ok(problem) => problem,
        // The engine rejects these requests only if the upload does not exist.
        Err(Rejection::NotFound) => no_such_upload(),
        Err(rejection) => Problem::bad_request("refused", rejection.to_string()),
    }
}

fn no_such_upload() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-such-upload", Rejection::NotFound.to_string())
}

/// Returns the problem for a request whose body stopped arriving.
pub(super) fn cut(_: BodyCut, request: &HttpRequest) -> Problem {
    problem(EngineError::Unavailable(Unavailable::IncompleteBody), request)
}
