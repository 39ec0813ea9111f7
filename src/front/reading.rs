//! What a listener for reading lets through.

use actix_web::Error;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Next;

use crate::dialects::tus::wire;
use crate::edge::problem::Problem;

const READING_METHODS: &str = "GET, HEAD, OPTIONS";

/// Refuses whatever could change something, before it is looked at any closer.
pub(super) async fn only(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let allowed = match *request.method() {
        Method::OPTIONS => return Ok(next.call(request).await?.map_into_boxed_body()),
        // There is nothing to read where uploads are created.
        _ if request.path().trim_end_matches('/') == wire::BASE_PATH => "OPTIONS",
        Method::GET | Method::HEAD => return Ok(next.call(request).await?.map_into_boxed_body()),
        _ => READING_METHODS,
    };
    let detail = format!("this address only serves reading and takes {allowed}; send uploads and changes to the other");
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "read-only", detail).with(header::ALLOW, allowed);
    let answer = problem.respond(request.request());
    Ok(request.into_response(answer))
}
