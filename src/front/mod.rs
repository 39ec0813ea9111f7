//! The front door: the route table, and what is answered beside the dialects of uploads.
//!
//! It knows requests and responses and the engine; neither databases nor files.

use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::edge::around::around;
use crate::edge::problem::Problem;

mod deletion;
mod events;
mod exposition;
mod files;
pub mod health;
mod hook_calls;
mod read_tokens;
mod reading;
mod schemas;
mod stages;
pub(crate) mod status;
mod webhooks;

/// The route table.
pub fn routes(app: &mut web::ServiceConfig) {
    app.service(web::scope("").wrap(from_fn(around)).configure(resources));
}

/// The same for those who only read.
pub fn reading_routes(app: &mut web::ServiceConfig) {
    app.service(web::scope("").wrap(from_fn(reading::only)).wrap(from_fn(around)).configure(resources));
}

fn resources(scope: &mut web::ServiceConfig) {
    scope
        .service(web::resource(["/files", "/files/"]).route(web::route().to(files::collection)))
        .service(web::resource("/files/{id}").route(web::route().to(files::resource)))
        .service(web::resource("/upload/storage/v1/b/{bucket}/o").route(web::route().to(files::bucket)))
        .service(web::resource("/api/v1/uploads").route(web::route().to(status::list)))
        .service(web::resource("/api/v1/uploads/{id}").route(web::route().to(deletion::resource)))
        .service(web::resource("/api/v1/uploads/{id}/events").route(web::route().to(events::of_one)))
        .service(web::resource("/api/v1/uploads/{id}/stages").route(web::route().to(stages::report)))
        .service(web::resource("/api/v1/uploads/{id}/read-token").route(web::route().to(read_tokens::make)))
        .service(web::resource("/api/v1/events").route(web::route().to(events::of_all)))
        .service(web::resource("/api/v1/webhooks/schemas").route(web::route().to(schemas::list)))
        .service(web::resource("/api/v1/webhooks/schemas/{type}").route(web::route().to(schemas::one)))
        .service(web::resource("/api/v1/webhooks/hooks").route(web::route().to(hook_calls::list)))
        .configure(webhooks::resources)
        .service(web::resource("/healthz").route(web::route().to(health::alive)))
        .service(web::resource("/readyz").route(web::route().to(health::ready)))
        .service(web::resource("/metrics").route(web::route().to(exposition::metrics)))
        .default_service(web::route().to(nothing_here));
}

async fn nothing_here(request: HttpRequest) -> HttpResponse {
    match request.method().as_str() {
        "OPTIONS" => HttpResponse::NoContent().finish(),
        _ => Problem::not_found().respond(&request),
    }
}

/// The answer to a method other than GET and HEAD, where only those make sense.
fn unless_reading(request: &HttpRequest) -> Option<HttpResponse> {
    match request.method().as_str() {
        "GET" | "HEAD" => None,
        "OPTIONS" => Some(HttpResponse::NoContent().insert_header(("allow", "GET, HEAD, OPTIONS")).finish()),
        _ => Some(Problem::method_not_allowed("GET, HEAD, OPTIONS").respond(request)),
    }
}
