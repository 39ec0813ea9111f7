//! Creates, shows, changes and deletes endpoints, and runs other operations on them.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};

use crate::front::WebhookApi;
use crate::front::webhooks::terms::{FORM, changed, header_pairs};
use crate::front::webhooks::{answering, bad, deliveries, endpoint_id, private, problem, read, replays};
use api::Keyword;
use api::endpoint::{Backlog, Endpoint, EndpointList, EndpointSettings, Health};
use domain::endpoint::{EndpointId, EndpointState, EndpointTerms};
use edge::conditions;
use edge::problem::Problem;
use edge::table::RoutedRequest;
use outbound::keys::{DEFAULT_OVERLAP, KeyKind, SigningKey};
use webhook::{
    AdminError, EndpointChange, EndpointOverview, KeyOverview, KeyRotation, NewEndpoint, Resumption, VerificationKeys,
};

/// `GET /api/v1/webhooks/endpoints`
pub(crate) async fn list(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let overviews = shared.admin(&call.request).endpoints().await.map_err(|error| problem(error, &call.request))?;
    Ok(private(EndpointList { endpoints: overviews.iter().map(of).collect() }))
}

/// `POST /api/v1/webhooks/endpoints`
pub(crate) async fn create(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let RoutedRequest { request, payload, .. } = call;
    let said: api::endpoint::EndpointChange = read(&request, payload, &shared, FORM).await?;
    let url = said.url.as_deref().ok_or_else(|| bad("url", "it is missing; write the URL to which events are sent"))?;
    let name = said.id.as_deref().map(|name| {
        EndpointId::new(name).ok_or_else(|| bad("id", "not a name; write 1 to 64 letters, digits, _ or -"))
    });
    let new = NewEndpoint {
        id: name.transpose()?,
        terms: changed(EndpointTerms::of(url), &said)?,
        headers: header_pairs(&said).unwrap_or_default(),
        key: key(said.secret.as_deref())?,
    };
    let refused = |error| problem(error, &request);
    let (made, receiver_needs) = shared.admin(&request).create(new).await.map_err(refused)?;
    let place = format!("/api/v1/webhooks/endpoints/{}", made.id);
    let overview = shared.admin(&request).endpoint(&made.id).await.map_err(refused)?;
    Ok(answering(StatusCode::CREATED)
        .insert_header((header::LOCATION, place))
        .json(with_keys(&overview, receiver_needs)))
}

/// Parses a key chosen by the operator.
fn key(text: Option<&str>) -> Result<Option<SigningKey>, Problem> {
    text.map(|text| SigningKey::parse(text).map_err(|why| bad("secret", &why.to_string()))).transpose()
}

/// `GET /api/v1/webhooks/endpoints/{id}`
pub(crate) async fn show(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    shown(&call.request, &endpoint_id(&call.parameter(0))?, &shared).await
}

/// `DELETE /api/v1/webhooks/endpoints/{id}`
pub(crate) async fn delete(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = endpoint_id(&call.parameter(0))?;
    shared.admin(&call.request).delete(&id).await.map_err(|error| problem(error, &call.request))?;
    Ok(answering(StatusCode::NO_CONTENT).finish())
}

/// `PATCH /api/v1/webhooks/endpoints/{id}`
pub(crate) async fn change(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = &endpoint_id(&call.parameter(0))?;
    let RoutedRequest { request, payload, .. } = call;
    let request = &request;
    let said: api::endpoint::EndpointChange = read(request, payload, &shared, FORM).await?;
    if said.id.is_some() {
        return Err(bad("id", "the name of an endpoint cannot be changed; create another endpoint"));
    }
    if said.secret.is_some() {
        return Err(bad("secret", "it cannot be changed here; rotate it instead"));
    }
    let known = conditions::list(request.headers(), &header::IF_MATCH);
    loop {
        let before = shared.admin(request).endpoint(id).await.map_err(|error| problem(error, request))?;
        if known.as_ref().is_some_and(|known| !conditions::names_strongly(known, &tag(&before))) {
            return Err(problem(AdminError::Changed(id.clone()), request));
        }
        let terms = changed(before.endpoint.terms.clone(), &said)?;
        let change = EndpointChange { version: before.endpoint.version, terms, headers: header_pairs(&said) };
        match shared.admin(request).update(id, change).await {
            Ok((_, receiver_needs)) => {
                let overview = shared.admin(request).endpoint(id).await.map_err(|error| problem(error, request))?;
                let made_keys = receiver_needs != VerificationKeys::default();
                let body = if made_keys { with_keys(&overview, receiver_needs) } else { of(&overview) };
                return Ok(tagged(&overview, body));
            }
            // Without a condition, the change applies to whatever version is current.
            Err(AdminError::Changed(_)) if known.is_none() => {}
            Err(error) => return Err(problem(error, request)),
        }
    }
}

/// `POST /api/v1/webhooks/endpoints/{id}/pause`
pub(crate) async fn pause(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = endpoint_id(&call.parameter(0))?;
    shared.admin(&call.request).pause(&id).await.map_err(|error| problem(error, &call.request))?;
    shown(&call.request, &id, &shared).await
}

/// `POST /api/v1/webhooks/endpoints/{id}/test`
pub(crate) async fn test(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = endpoint_id(&call.parameter(0))?;
    let tested = shared.admin(&call.request).test(&id).await.map_err(|error| problem(error, &call.request))?;
    deliveries::shown_as_changed(&call.request, tested.delivery, &shared).await
}

/// `POST /api/v1/webhooks/endpoints/{id}/rotate`
pub(crate) async fn rotate(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = &endpoint_id(&call.parameter(0))?;
    let RoutedRequest { request, payload, .. } = call;
    let request = &request;
    let form = r#"nothing, or {"overlap_ms": 86400000, "secret": "whsec_…"}"#;
    let said: api::endpoint::KeyRotation = read(request, payload, &shared, form).await?;
    let kind = said.kind.as_deref();
    let kind = kind.map(|name| KeyKind::by_name(name).ok_or_else(|| bad("kind", "it must be hmac or ed25519")));
    let overlap = said.overlap_ms.map_or(DEFAULT_OVERLAP, Duration::from_millis);
    let rotation = KeyRotation { key: key(said.secret.as_deref())?, kind: kind.transpose()?, overlap };
    let refused = |error| problem(error, request);
    let (_, receiver_needs) = shared.admin(request).rotate(id, rotation).await.map_err(refused)?;
    let overview = shared.admin(request).endpoint(id).await.map_err(refused)?;
    Ok(private(with_keys(&overview, receiver_needs)))
}

/// `POST /api/v1/webhooks/endpoints/{id}/resume`
pub(crate) async fn resume(call: RoutedRequest, shared: Arc<WebhookApi>) -> Result<HttpResponse, Problem> {
    let id = &endpoint_id(&call.parameter(0))?;
    let RoutedRequest { request, payload, .. } = call;
    let request = &request;
    let form = r#"nothing, {"backlog": "cancel"} or {"missed_since": "2026-11-21T00:00:00Z"}"#;
    let said: api::endpoint::Resumption = read(request, payload, &shared, form).await?;
    let refused = |error| problem(error, request);
    let missed_since = replays::time("missed_since", said.missed_since)?;
    let drops_backlog = match said.backlog.as_deref() {
        None | Some("send") => false,
        Some("cancel") => true,
        Some(_) => return Err(bad("backlog", "it must be send or cancel")),
    };
    shared.admin(request).resume(id, Resumption { drops_backlog, missed_since }).await.map_err(refused)?;
    shown(request, id, &shared).await
}

async fn shown(request: &HttpRequest, id: &EndpointId, shared: &WebhookApi) -> Result<HttpResponse, Problem> {
    let overview = shared.admin(request).endpoint(id).await.map_err(|error| problem(error, request))?;
    Ok(tagged(&overview, of(&overview)))
}

fn tagged(overview: &EndpointOverview, body: Endpoint) -> HttpResponse {
    answering(StatusCode::OK).insert_header((header::ETAG, tag(overview))).json(body)
}

fn tag(overview: &EndpointOverview) -> String {
    format!("\"{}\"", overview.endpoint.version)
}

/// Returns the endpoint with its receiver's verification keys, which are shown only once.
fn with_keys(overview: &EndpointOverview, receiver_needs: VerificationKeys) -> Endpoint {
    let VerificationKeys { secret, public_key } = receiver_needs;
    Endpoint { secret: Some(secret), public_key: Some(public_key), ..of(overview) }
}

fn of(overview: &EndpointOverview) -> Endpoint {
    let (endpoint, backlog) = (&overview.endpoint, overview.backlog);
    let (since, reason) = match endpoint.state {
        EndpointState::Enabled => (None, None),
        EndpointState::Paused { since } => (Some(since), None),
        EndpointState::Disabled { since, because } => (Some(since), Some(because.name())),
    };
    Endpoint {
        id: endpoint.id.to_string(),
        origin: endpoint.origin.name().into(),
        state: endpoint.state.name().into(),
        state_since: since.map(|at| at.to_string()),
        state_reason: reason.map(Keyword::from),
        terms: EndpointSettings::from(&endpoint.terms),
        headers: overview.headers.clone(),
        keys: overview.keys.iter().map(shown_key).collect(),
        health: Health::from(endpoint.health),
        backlog: Backlog {
            total: backlog.waiting + backlog.ready + backlog.leased + backlog.paused,
            waiting: backlog.waiting,
            ready: backlog.ready,
            leased: backlog.leased,
            paused: backlog.paused,
            has_more: backlog.has_more,
            oldest_due: backlog.oldest_due.map(|at| at.to_string()),
        },
        version: endpoint.version,
        created_at: endpoint.created_at.to_string(),
        updated_at: endpoint.updated_at.to_string(),
        secret: None,
        public_key: None,
    }
}

fn shown_key(key: &KeyOverview) -> api::endpoint::EndpointKey {
    api::endpoint::EndpointKey {
        kind: key.kind.name().into(),
        public_key: key.public_key.clone(),
        created_at: key.created_at.to_string(),
        expires_at: key.expires_at.map(|at| at.to_string()),
    }
}
