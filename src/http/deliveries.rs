//! Which webhooks went where, and what came of every attempt.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web;
use serde_json::Value;
use serde_json::json;

use crate::domain::delivery::Attempt;
use crate::domain::delivery::DeliveryRecord;
use crate::domain::delivery::DeliveryState;
use crate::domain::endpoint::EndpointId;
use crate::domain::event::EventKind;
use crate::engine::read::DeliveryQuery;
use crate::http::Shared;
use crate::http::error::Problem;
use crate::http::query;
use crate::http::query::Query;
use crate::http::status;
use crate::http::unless_reading;

/// `GET /api/v1/webhooks/deliveries`, newest first.
pub(super) async fn list(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless_reading(&request) {
        return answer;
    }
    answer(&request, &shared).await.unwrap_or_else(|problem| problem.respond(&request))
}

async fn answer(request: &HttpRequest, shared: &Shared) -> Result<HttpResponse, Problem> {
    let wanted = delivery_query(request.query_string(), shared.max_page)?;
    let found = shared.engine.deliveries(&wanted).await.map_err(|error| status::problem(error, request))?;
    let full = found.len() == usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let (deliveries, last) = status::page(found.iter().map(to_json), full);
    let next = last.and_then(|last| found.get(last)).map(|delivery| delivery.id.to_string());
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .json(json!({ "deliveries": deliveries, "next": next })))
}

fn delivery_query(text: &str, max_page: u32) -> Result<DeliveryQuery, Problem> {
    let mut wanted = DeliveryQuery { limit: 100.min(max_page), ..DeliveryQuery::default() };
    for (name, value) in Query::parse(text)?.pairs() {
        match name {
            "endpoint" => {
                let id = EndpointId::new(value);
                wanted.endpoint =
                    Some(id.ok_or_else(|| query::bad(name, value, "it must be the name of an endpoint"))?);
            }
            "upload" => wanted.upload = Some(query::upload_id(name, value)?),
            "event" => {
                let known = EventKind::ALL.map(EventKind::name).join(", ");
                wanted.kind = Some(EventKind::by_name(value).ok_or_else(|| query::bad(name, value, &known))?);
            }
            "state" => {
                let known = DeliveryState::ALL.map(DeliveryState::name).join(", ");
                wanted.state = Some(DeliveryState::by_name(value).ok_or_else(|| query::bad(name, value, &known))?);
            }
            "cursor" => {
                let id = value.parse().map_err(|_| query::bad(name, value, "it must be the id of a delivery"));
                wanted.before = Some(id?);
            }
            "limit" => wanted.limit = query::limit(value, max_page)?,
            _ => return Err(query::unknown(name, "endpoint, upload, event, state, cursor, limit")),
        }
    }
    Ok(wanted)
}

fn to_json(delivery: &DeliveryRecord) -> Value {
    json!({
        "id": delivery.id.to_string(),
        "event_id": format!("evt_{}", delivery.event),
        "type": delivery.event_name,
        "upload_id": delivery.upload.map(|upload| upload.to_string()),
        "sequence": delivery.sequence,
        "endpoint": delivery.endpoint.as_str(),
        "state": delivery.state.name(),
        "created_at": delivery.created_at.to_string(),
        "next_attempt_at": delivery.next_attempt_at.map(|at| at.to_string()),
        "finished_at": delivery.finished_at.map(|at| at.to_string()),
        "attempts": delivery.attempts.iter().map(attempt_json).collect::<Vec<_>>(),
    })
}

fn attempt_json(attempt: &Attempt) -> Value {
    json!({
        "number": attempt.number,
        "started_at": attempt.started_at.to_string(),
        "duration_ms": u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
        "status": attempt.outcome.status(),
        "error": attempt.outcome.error_class(),
        "note": attempt.note,
        "response_body": String::from_utf8_lossy(&attempt.response_body),
    })
}
