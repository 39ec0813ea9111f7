//! Jobs that send many deliveries again.

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::edge::Shared;
use crate::edge::problem::Problem;
use crate::front::webhooks::{bad, problem, read, respond, unless};
use api::replay::{List, NewReplay, Replay};
use domain::endpoint::EndpointId;
use domain::id::ReplayId;
use domain::time::Timestamp;
use state::{ReplayJob, ReplayWhat};
use webhook::{AdminError, ReplayRequest};

/// `GET /api/v1/webhooks/replays`
pub(super) async fn list(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless(&request, &["GET"]) {
        return answer;
    }
    let jobs = shared.webhooks.replays().await.map_err(|error| problem(error, &request));
    let answer = jobs.map(|jobs| HttpResponse::Ok().json(List { replays: jobs.iter().map(shown).collect() }));
    respond(&request, answer)
}

/// `GET` and `DELETE /api/v1/webhooks/replays/{id}`; deleting stops it where it is.
pub(super) async fn one(request: HttpRequest, id: web::Path<String>, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless(&request, &["GET", "DELETE"]) {
        return answer;
    }
    let answer = async {
        let refused = |error| problem(error, &request);
        let id: ReplayId = id.parse().map_err(|_| Problem::not_found())?;
        if request.method() == Method::DELETE {
            shared.webhooks.cancel_replay(id).await.map_err(refused)?;
        }
        let jobs = shared.webhooks.replays().await.map_err(refused)?;
        let job = jobs.iter().find(|job| job.id == id).ok_or_else(|| refused(AdminError::NoSuchReplay(id)))?;
        Ok(HttpResponse::Ok().json(shown(job)))
    };
    respond(&request, answer.await)
}

/// `POST /api/v1/webhooks/endpoints/{id}/replay`
pub(super) async fn begin(
    request: &HttpRequest,
    endpoint: &EndpointId,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    let form = r#"{"what": "dead", "from": "2026-11-21T00:00:00Z", "before": "2026-11-22T00:00:00Z"}"#;
    let said: NewReplay = read(request, payload, shared, form).await?;
    let what = said.what.as_deref().unwrap_or("dead");
    let known = ReplayWhat::ALL.map(ReplayWhat::name).join(", ");
    let what = ReplayWhat::by_name(what).ok_or_else(|| bad("what", &format!("it must be one of {known}")))?;
    let wanted = ReplayRequest {
        endpoint: endpoint.clone(),
        what,
        from: time("from", said.from)?.unwrap_or(Timestamp::from_unix_ms(0)),
        before: time("before", said.before)?,
        force: said.force,
    };
    let job = shared.webhooks.begin_replay(wanted).await.map_err(|error| problem(error, request))?;
    let place = format!("/api/v1/webhooks/replays/{}", job.id);
    Ok(HttpResponse::Accepted().insert_header((header::LOCATION, place)).json(shown(&job)))
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
