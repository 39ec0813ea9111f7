//! The administration of webhooks: endpoints, deliveries, replays. The edge has already checked that the
//! caller is an operator.

use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::front::{WebhookApi, problems};
use api::endpoint::{PausedCount, ResumedCount};
use api::replay::{Expunge, Expunged};
use domain::endpoint::EndpointId;
use edge::principal::principal;
use edge::problem::Problem;
use edge::table::RoutedRequest;
use edge::{body, json};
use webhook::{Admin, AdminError};

pub(super) mod deliveries;
pub(super) mod endpoints;
pub(super) mod replays;
mod terms;

/// Maximum size of a body in bytes: more than the largest endpoint needs, with a hundred waits, sixteen pairs
/// of metadata and twenty headers.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Suggested wait before a retry when the sender is temporarily unavailable.
const TRY_AGAIN: Duration = Duration::from_secs(5);

impl WebhookApi {
    /// Returns the administration of the tenant that a request is made for.
    fn admin(&self, request: &HttpRequest) -> Admin {
        self.webhooks.of(principal(request).tenant)
    }
}

/// `POST /api/v1/webhooks/pause`: pauses every endpoint that is not stopped.
pub(super) async fn pause_all(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let paused = shared.admin(&call.request).pause_all().await.map_err(|error| problem(error, &call.request))?;
    Ok(private(PausedCount { paused }))
}

/// `POST /api/v1/webhooks/resume`: resumes every endpoint that an operator paused.
pub(super) async fn resume_all(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let resumed = shared.admin(&call.request).resume_all().await.map_err(|error| problem(error, &call.request))?;
    Ok(private(ResumedCount { resumed }))
}

/// `POST /api/v1/webhooks/expunge`: expunges the client's data from the events of an upload
/// (webhooks L7).
pub(super) async fn expunge(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let RoutedRequest { request, payload, .. } = call;
    let body: Expunge = read(&request, payload, &shared, r#"{"upload_id": "…"}"#).await?;
    let upload = body.upload_id.parse().map_err(|_| bad("upload_id", "it must be the id of an upload"))?;
    let events = shared.admin(&request).expunge(upload).await.map_err(|error| problem(error, &request))?;
    Ok(private(Expunged { events }))
}

/// Returns a response that no cache may store: names of receivers, and their responses, are only for the
/// caller.
fn answering(status: StatusCode) -> HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::CACHE_CONTROL, "no-store"));
    answer
}

fn private(body: impl Serialize) -> HttpResponse {
    answering(StatusCode::OK).json(body)
}

/// Reads a JSON body. An empty body is read as an object without fields.
async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    shared: &WebhookApi,
    form: &str,
) -> Result<T, Problem> {
    if let Some(refusal) = json::is_not(request) {
        return Err(refusal);
    }
    let body = body::small(request, payload, MAX_BODY_BYTES, shared.idle_timeout).await;
    let body = body.map_err(|cut| problems::cut(cut, request))?.ok_or_else(too_large)?;
    let body = if body.is_empty() { b"{}" } else { &body[..] };
    serde_json::from_slice(body)
        .map_err(|why| Problem::bad_request("bad-body", format!("the body is invalid: {why}; write {form}")))
}

fn too_large() -> Problem {
    let detail = format!("the body of this request may have at most {MAX_BODY_BYTES} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

/// Returns the problem of one field.
fn bad(field: &str, why: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-field", format!("{field}: {why}")).member("field", field)
}

/// Parses the name of an endpoint. An invalid name is answered like an unknown one.
fn endpoint_id(text: &str) -> Result<EndpointId, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "no-such-endpoint", "there is no endpoint with this name");
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
            return problems::problem(source.into(), request);
        }
    };
    Problem::new(status, code, error.to_string())
}
