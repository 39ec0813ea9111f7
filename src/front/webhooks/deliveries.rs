//! The list of deliveries, with the results of every attempt.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};

use crate::front::cursors::PageCursors;
use crate::front::webhooks::{private, problem, read};
use crate::front::{WebhookApi, position, problems, status};
use api::delivery::{Delivery, DeliveryList, ReplayOptions};
use domain::delivery::{AttemptOutcome, DeliveryState, ReplayOutcome};
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId};
use domain::position::CommitPosition;
use domain::query::DeliveryQuery;
use edge::principal::principal;
use edge::problem::Problem;
use edge::query;
use edge::query::Query;
use edge::table::RoutedRequest;

/// Parameters of the list.
const KNOWN: &str = "endpoint, upload, event, event_id, state, status, error, from, before, cursor, limit";

/// Maximum difference between the time in the id of a delivery and that in the id of its event.
const APART: Duration = Duration::from_secs(60);

/// `GET /api/v1/webhooks/deliveries`, newest first.
pub(crate) async fn list(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let request = &call.request;
    let principal = principal(request);
    let cursors = PageCursors::in_deliveries(&shared.cursors, &principal);
    let mut wanted = delivery_query(request.query_string(), shared.max_page, &cursors)?;
    let position = position::known(request)?;
    let memory = shared.answers.reserve_page(request, &mut wanted.limit, shared.max_metadata_bytes).await?;
    let found = shared.engine.queries(&principal, position).deliveries(&wanted).await;
    let page = found.map_err(|error| problems::problem(error, request))?;
    let (deliveries, cut) = status::page(page.found.iter().map(Delivery::from), false);
    let next = cut.and_then(|last| page.found.get(last)).map(|delivery| delivery.id).or(page.next);
    let next = next.map(|next| cursors.cursor(next.as_bytes()));
    Ok(memory.with(private(DeliveryList { deliveries, next })))
}

/// `GET /api/v1/webhooks/deliveries/{id}`
pub(crate) async fn one(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let position = position::known(&call.request)?;
    shown(&call.request, parse_id(&call.parameter(0))?, position, &shared).await
}

/// `POST /api/v1/webhooks/deliveries/{id}/replay`: sends the delivery again now, with the full retry
/// schedule.
pub(crate) async fn replay(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = parse_id(&call.parameter(0))?;
    let RoutedRequest { request, payload, .. } = call;
    let said: ReplayOptions = read(&request, payload, &shared, r#"nothing, or {"force": true}"#).await?;
    match shared.admin(&request).replay(id, said.force).await.map_err(|error| problem(error, &request))? {
        ReplayOutcome::Queued | ReplayOutcome::UnderWay => {
            let mut answer = shown_as_changed(&request, id, &shared).await?;
            *answer.status_mut() = StatusCode::ACCEPTED;
            Ok(answer)
        }
        ReplayOutcome::NoDelivery => Err(no_such_delivery()),
        ReplayOutcome::HasSucceeded => Err(Problem::new(
            StatusCode::CONFLICT,
            "has-succeeded",
            r#"this delivery has succeeded; to send it again anyway, send {"force": true}"#,
        )),
        ReplayOutcome::NoEndpoint => Err(Problem::new(
            StatusCode::CONFLICT,
            "endpoint-removed",
            "the endpoint of this delivery was removed; create an endpoint with the same name to send it again",
        )),
    }
}

/// Returns a delivery as it is after a change that the request has made.
pub(super) async fn shown_as_changed(
    request: &HttpRequest,
    id: DeliveryId,
    shared: &WebhookApi,
) -> Result<HttpResponse, Problem> {
    shown(request, id, shared.engine.current_position().await, shared).await
}

async fn shown(
    request: &HttpRequest,
    id: DeliveryId,
    position: Option<CommitPosition>,
    shared: &WebhookApi,
) -> Result<HttpResponse, Problem> {
    let found = shared.engine.queries(&principal(request), position).delivery(id).await;
    let found = found.map_err(|error| problems::problem(error, request))?;
    let found = found.ok_or_else(no_such_delivery)?;
    Ok(private(Delivery::from(&found)))
}

fn parse_id(text: &str) -> Result<DeliveryId, Problem> {
    text.parse().map_err(|_| no_such_delivery())
}

fn no_such_delivery() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-delivery",
        "there is no such delivery, or its retention time has passed",
    )
}

fn delivery_query(text: &str, max_page: u32, cursors: &PageCursors<'_>) -> Result<DeliveryQuery, Problem> {
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
            "event_id" => {
                let id = value.strip_prefix("evt_").unwrap_or(value).parse::<EventId>();
                let id = id.map_err(|_| query::bad(name, value, "it must be the id of an event, the webhook-id"))?;
                wanted.event = Some(id);
            }
            "state" => {
                let known = DeliveryState::ALL.map(DeliveryState::name).join(", ");
                wanted.state = Some(DeliveryState::by_name(value).ok_or_else(|| query::bad(name, value, &known))?);
            }
            "status" => wanted.last_status = Some(statuses(name, value)?),
            "error" => {
                let classes = AttemptOutcome::ERRORS.map(|error| error.error_class().unwrap_or_default());
                let error = AttemptOutcome::ERRORS.into_iter().find(|error| error.error_class() == Some(value));
                wanted.last_error = Some(error.ok_or_else(|| query::bad(name, value, &classes.join(", ")))?);
            }
            "from" => wanted.created_from = Some(query::time(name, value)?),
            "before" => wanted.created_before = Some(query::time(name, value)?),
            "cursor" => wanted.before = Some(DeliveryId::from_bytes(cursors.open(value)?)),
            "limit" => wanted.limit = query::limit(value, max_page)?,
            _ => return Err(query::unknown(name, KNOWN)),
        }
    }
    if let Some(event) = wanted.event {
        // Deliveries are found by their creation time, which is that of their event.
        let (from, before) = (event.made_at().minus(APART), event.made_at().plus(APART));
        wanted.created_from = Some(wanted.created_from.map_or(from, |asked| asked.max(from)));
        wanted.created_before = Some(wanted.created_before.map_or(before, |asked| asked.min(before)));
    }
    Ok(wanted)
}

/// Parses a class such as `5xx`, or one status.
fn statuses(name: &str, value: &str) -> Result<RangeInclusive<u16>, Problem> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let found = match value.strip_suffix("xx") {
        Some(class) => {
            number(class).filter(|class| (1..=5).contains(class)).map(|class| class * 100..=class * 100 + 99)
        }
        None => number(value).filter(|status| (100..=599).contains(status)).map(|status| status..=status),
    };
    found.ok_or_else(|| query::bad(name, value, "it must be 1xx, 2xx, 3xx, 4xx, 5xx, or one status such as 503"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_statuses_is_a_range() {
        for (value, expected) in [("2xx", 200..=299), ("5xx", 500..=599), ("410", 410..=410)] {
            assert_eq!(statuses("status", value).ok(), Some(expected), "{value}");
        }
        for wrong in ["", "xx", "0xx", "6xx", "55xx", "+5xx", "5XX", "99", "600", "dead"] {
            assert!(statuses("status", wrong).is_err(), "{wrong}");
        }
    }
}
