//! The administration of webhooks: endpoints, deliveries, replays. Who may was judged before.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::de::DeserializeOwned;

use crate::edge::problem::Problem;
use crate::edge::{Shared, body, json};
use crate::front::status;
use api::endpoint::{Paused, Resumed};
use api::replay::{Expunge, Expunged};
use domain::endpoint::EndpointId;
use webhook::AdminError;

mod deliveries;
mod endpoints;
mod replays;
mod terms;

/// More than the largest endpoint needs: a hundred waits, sixteen pairs of metadata, twenty headers.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// When it is worth asking again for what the sender cannot do just now.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Everything below `/api/v1/webhooks` but the schemas.
pub(super) fn resources(scope: &mut web::ServiceConfig) {
    let at = |path: &str| web::resource(format!("/api/v1/webhooks{path}"));
    scope
        .service(at("/endpoints").route(web::route().to(endpoints::collection)))
        .service(at("/endpoints/{id}").route(web::route().to(endpoints::one)))
        .service(at("/endpoints/{id}/{action}").route(web::route().to(endpoints::act)))
        .service(at("/deliveries").route(web::route().to(deliveries::list)))
        .service(at("/deliveries/{id}").route(web::route().to(deliveries::one)))
        .service(at("/deliveries/{id}/replay").route(web::route().to(deliveries::replay)))
        .service(at("/replays").route(web::route().to(replays::list)))
        .service(at("/replays/{id}").route(web::route().to(replays::one)))
        .service(at("/pause").route(web::route().to(pause_all)))
        .service(at("/resume").route(web::route().to(resume_all)))
        .service(at("/expunge").route(web::route().to(expunge)));
}

/// `POST /api/v1/webhooks/pause`: every endpoint that is not stopped is paused.
async fn pause_all(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless(&request, &["POST"]) {
        return answer;
    }
    let paused = shared.webhooks.pause_all().await.map_err(|error| problem(error, &request));
    respond(&request, paused.map(|count| HttpResponse::Ok().json(Paused { paused: count })))
}

/// `POST /api/v1/webhooks/resume`: every endpoint that an operator paused goes on.
async fn resume_all(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless(&request, &["POST"]) {
        return answer;
    }
    let resumed = shared.webhooks.resume_all().await.map_err(|error| problem(error, &request));
    respond(&request, resumed.map(|count| HttpResponse::Ok().json(Resumed { resumed: count })))
}

/// `POST /api/v1/webhooks/expunge`: takes what an upload's client said out of its events (webhooks.md L7).
async fn expunge(request: HttpRequest, payload: web::Payload, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless(&request, &["POST"]) {
        return answer;
    }
    let answer = async {
        let body: Expunge = read(&request, payload, &shared, r#"{"upload_id": "…"}"#).await?;
        let upload = body.upload_id.parse().map_err(|_| bad("upload_id", "it must be the id of an upload"))?;
        let events = shared.webhooks.expunge(upload).await.map_err(|error| problem(error, &request))?;
        Ok(HttpResponse::Ok().json(Expunged { events }))
    };
    respond(&request, answer.await)
}

/// The answer to a method that is not one of these; the first of them decides what `HEAD` means.
fn unless(request: &HttpRequest, methods: &'static [&'static str]) -> Option<HttpResponse> {
    let method = request.method().as_str();
    if methods.contains(&method) || method == "HEAD" && methods.contains(&"GET") {
        return None;
    }
    let allow = allowed(methods);
    Some(match method {
        "OPTIONS" => HttpResponse::NoContent().insert_header((header::ALLOW, allow)).finish(),
        _ => Problem::method_not_allowed(allow).respond(request),
    })
}

/// Each resource has one of a few sets of methods.
fn allowed(methods: &[&str]) -> &'static str {
    match methods {
        ["GET"] => "GET, HEAD, OPTIONS",
        ["GET", "POST"] => "GET, HEAD, POST, OPTIONS",
        ["GET", "DELETE"] => "GET, HEAD, DELETE, OPTIONS",
        ["GET", "PATCH", "DELETE"] => "GET, HEAD, PATCH, DELETE, OPTIONS",
        _ => "POST, OPTIONS",
    }
}

fn respond(request: &HttpRequest, answer: Result<HttpResponse, Problem>) -> HttpResponse {
    let mut answer = answer.unwrap_or_else(|problem| problem.respond(request));
    // Names of receivers and what they answered are for the one who asked.
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}

/// Reads a JSON body; an empty one as an object without fields.
async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    shared: &Shared,
    form: &str,
) -> Result<T, Problem> {
    if let Some(refusal) = json::is_not(request) {
        return Err(refusal);
    }
    let body = body::small(request, payload, MAX_BODY_BYTES, shared.idle_timeout).await;
    let body = body.map_err(|error| status::problem(error, request))?.ok_or_else(too_large)?;
    let body = if body.is_empty() { b"{}" } else { &body[..] };
    serde_json::from_slice(body)
        .map_err(|why| Problem::bad_request("bad-body", format!("the body is not understood: {why}; write {form}")))
}

fn too_large() -> Problem {
    let detail = format!("this takes at most {MAX_BODY_BYTES} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

/// What is wrong with one field.
fn bad(field: &str, why: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-field", format!("{field}: {why}")).member("field", field)
}

/// What is no name names no endpoint.
fn endpoint_id(text: &str) -> Result<EndpointId, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "no-such-endpoint", "there is no endpoint of this name");
    EndpointId::new(text).ok_or_else(unknown)
}

fn problem(error: AdminError, request: &HttpRequest) -> Problem {
    let (status, code) = match &error {
        AdminError::NoSuchEndpoint(_) => (StatusCode::NOT_FOUND, "no-such-endpoint"),
        AdminError::NoSuchReplay(_) => (StatusCode::NOT_FOUND, "no-such-replay"),
        AdminError::Exists(_) => (StatusCode::CONFLICT, "name-taken"),
        AdminError::Changed(_) => (StatusCode::PRECONDITION_FAILED, "changed"),
        AdminError::Configured(_) => (StatusCode::CONFLICT, "read-only"),
        AdminError::TooManyEndpoints(_) => (StatusCode::CONFLICT, "too-many-endpoints"),
        AdminError::TooManyReplays => (StatusCode::CONFLICT, "too-many-replays"),
        AdminError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-endpoint"),
        AdminError::Key(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-key"),
        AdminError::SecretTaken => (StatusCode::CONFLICT, "secret-taken"),
        AdminError::Unreadable(..) => (StatusCode::CONFLICT, "secrets-unreadable"),
        AdminError::NeedsForce => (StatusCode::CONFLICT, "needs-force"),
        AdminError::TakesNoRange => (StatusCode::UNPROCESSABLE_ENTITY, "takes-no-range"),
        AdminError::EmptyRange => (StatusCode::UNPROCESSABLE_ENTITY, "empty-range"),
        AdminError::NotSending => return Problem::try_again("not-sending", error.to_string(), TRY_AGAIN),
        AdminError::State(_) => {
            let AdminError::State(source) = error else { unreachable!("it was just looked at") };
            return status::problem(source.into(), request);
        }
    };
    Problem::new(status, code, error.to_string())
}
