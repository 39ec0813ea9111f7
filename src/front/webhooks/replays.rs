//! Replay jobs, which send many deliveries again.

use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};

use crate::front::WebhookApi;
use crate::front::webhooks::{answering, bad, endpoint_id, private, problem, read};
use api::replay::{NewReplay, Replay, ReplayList};
use domain::delivery::ReplaySelection;
use domain::id::ReplayId;
use domain::replay::ReplayJob;
use domain::time::Timestamp;
use edge::problem::Problem;
use edge::table::RoutedRequest;
use webhook::{AdminError, ReplayRequest};

/// `GET /api/v1/webhooks/replays`
pub(crate) async fn list(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let jobs = shared.admin(&call.request).replays().await.map_err(|error| problem(error, &call.request))?;
    Ok(private(ReplayList { replays: jobs.iter().map(shown).collect() }))
}

/// `GET /api/v1/webhooks/replays/{id}`
pub(crate) async fn one(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    found(&call.request, parse_id(&call.parameter(0))?, &shared).await
}

/// `DELETE /api/v1/webhooks/replays/{id}`: stops the job.
pub(crate) async fn cancel(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = parse_id(&call.parameter(0))?;
    shared.admin(&call.request).cancel_replay(id).await.map_err(|error| problem(error, &call.request))?;
    found(&call.request, id, &shared).await
}

async fn found(request: &HttpRequest, id: ReplayId, shared: &WebhookApi) -> Result<HttpResponse, Problem> {
    let refused = |error| problem(error, request);
    let jobs = shared.admin(request).replays().await.map_err(refused)?;
    let job = jobs.iter().find(|job| job.id == id).ok_or_else(|| refused(AdminError::NoSuchReplay(id)))?;
    Ok(private(shown(job)))
}

fn parse_id(text: &str) -> Result<ReplayId, Problem> {
    text.parse().map_err(|_| Problem::not_found())
}

/// `POST /api/v1/webhooks/endpoints/{id}/replay`
pub(crate) async fn begin(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let endpoint = endpoint_id(&call.parameter(0))?;
    let RoutedRequest { request, payload, .. } = call;
    let request = &request;
    let form = r#"{"what": "dead", "from": "2026-11-21T00:00:00Z", "before": "2026-11-22T00:00:00Z"}"#;
    let said: NewReplay = read(request, payload, &shared, form).await?;
    let what = said.what.as_deref().unwrap_or("dead");
    let known = ReplaySelection::ALL.map(ReplaySelection::name).join(", ");
    let what = ReplaySelection::by_name(what).ok_or_else(|| bad("what", &format!("it must be one of {known}")))?;
    let wanted = ReplayRequest {
        endpoint,
        what,
        from: time("from", said.from)?.unwrap_or(Timestamp::from_unix_ms(0)),
        before: time("before", said.before)?,
        force: said.force,
    };
    let job = shared.admin(request).begin_replay(wanted).await.map_err(|error| problem(error, request))?;
    let place = format!("/api/v1/webhooks/replays/{}", job.id);
    Ok(answering(StatusCode::ACCEPTED).insert_header((header::LOCATION, place)).json(shown(&job)))
}

pub(super) fn time(field: &str, text: Option<String>) -> Result<Option<Timestamp>, Problem> {
    let read = |text: String| {
        Timestamp::parse_rfc3339(&text).ok_or_else(|| bad(field, "write a time such as 2026-11-21T22:31:30Z"))
    };
    text.map(read).transpose()
}

fn shown(job: &ReplayJob) -> Replay {
    Replay {
        id: job.id.to_string(),
        endpoint: job.endpoint.to_string(),
        what: job.what.name().into(),
        from: job.from.to_string(),
        before: job.before.to_string(),
        state: job.state.name().into(),
        queued: job.queued,
        created_at: job.created_at.to_string(),
        finished_at: job.finished_at.map(|at| at.to_string()),
    }
}
