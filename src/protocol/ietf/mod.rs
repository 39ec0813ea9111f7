//! Resumable Uploads for HTTP, the IETF draft.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header::HeaderMap;
use actix_web::web;

use crate::domain::id::UploadId;
use crate::http::Shared;
use crate::http::error::Problem;

/// A creation, or a plain upload if its marks turn out to be none.
pub(crate) async fn create(
    _request: &HttpRequest,
    _payload: web::Payload,
    _shared: &Shared,
) -> Result<HttpResponse, Problem> {
    Err(Problem::not_found())
}

/// A request to one upload.
pub(crate) async fn resource(
    _request: &HttpRequest,
    _id: UploadId,
    _payload: web::Payload,
    _shared: &Shared,
) -> Result<HttpResponse, Problem> {
    Err(Problem::not_found())
}

/// Adds to the answer to OPTIONS what clients of this dialect look for.
pub(crate) fn add_options(_headers: &mut HeaderMap, _shared: &Shared) {}
