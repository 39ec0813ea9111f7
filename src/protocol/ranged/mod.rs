//! Ranged PUT: Google's sessions, ranges in any order, and whole files without a protocol.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web;

use crate::domain::id::UploadId;
use crate::http::Shared;
use crate::http::error::Problem;

/// Starts a session.
pub(crate) async fn start(
    _request: &HttpRequest,
    _payload: web::Payload,
    _shared: &Shared,
) -> Result<HttpResponse, Problem> {
    Err(Problem::not_found())
}

/// A whole file, or the start of a session in JSON.
pub(crate) async fn plain(
    _request: &HttpRequest,
    _name: Option<&str>,
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
