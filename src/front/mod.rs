//! The front door: the route table, and the handlers besides the dialects.
//!
//! `routes` is the single list of all routes. A route is answered by a dialect (`dialect_switch`) or by a
//! handler here, which gets only the parts that its area needs. This module knows requests, responses and the
//! engine, but neither databases nor files.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse};
use futures::FutureExt;
use futures::future::ready;
use prometheus_client::registry::Registry;

use crate::front::dialect_switch::DialectSwitch;
use crate::front::routes::{AnswerFuture, ROUTES, RouteEntry, RouteHandler};
use cluster::{Drain, NodeDirectory};
use dialects::dialect::DialectHandler;
use dialects::uploads::{BASE_PATH, UploadContext};
use domain::id::UploadId;
use edge::CorsLists;
use edge::access::Access;
use edge::answers::AnswerMemory;
use edge::problem::Problem;
use edge::stream_slots::StreamSlots;
use edge::table::{Handler, Route, RouteTable, RoutedRequest};
use engine::Engine;
use keyring::Cursors;
use webhook::{Administration, Liveness};

mod cursors;
mod deletion;
mod dialect_switch;
mod events;
mod exposition;
pub mod health;
mod hook_calls;
mod nodes;
mod position;
mod problems;
mod read_tokens;
mod routes;
mod schemas;
mod stages;
mod status;
mod webhooks;

#[cfg(test)]
mod tests;

/// The parts that handlers for uploads need.
pub struct UploadApi {
    pub engine: Engine,
    pub uploads: Arc<UploadContext>,
    pub access: Arc<Access>,
    pub answers: AnswerMemory,
    pub stream_slots: StreamSlots,
    /// Seals the ids of events, and the cursors of lists.
    pub cursors: Cursors,
    pub long_poll_max: Duration,
    pub heartbeat: Duration,
    pub max_page: u32,
    pub max_metadata_bytes: usize,
    pub idle_timeout: Duration,
}

/// The parts that handlers for the administration of webhooks need.
pub struct WebhookApi {
    pub webhooks: Administration,
    pub engine: Engine,
    pub answers: AnswerMemory,
    /// Seals the cursors of lists.
    pub cursors: Cursors,
    pub max_page: u32,
    pub max_metadata_bytes: usize,
    pub idle_timeout: Duration,
}

/// The parts that handlers for health checks and metrics need.
pub struct HealthApi {
    pub engine: Engine,
    /// Health of the webhook sender.
    pub liveness: Liveness,
    pub readiness: health::Readiness,
    pub access: Arc<Access>,
    pub registry: Arc<Registry>,
    pub drain: Drain,
}

/// The parts that handlers for the nodes of a cluster need.
#[derive(Debug)]
pub struct NodeApi {
    pub nodes: NodeDirectory,
}

/// The parts that the route table needs.
#[derive(Debug)]
pub struct Services {
    pub uploads: Arc<UploadContext>,
    pub reads: Arc<UploadApi>,
    pub webhooks: Arc<WebhookApi>,
    pub health: Arc<HealthApi>,
    pub nodes: Arc<NodeApi>,
}

/// Builds the route table.
pub fn table(dialects: Vec<DialectHandler>, services: &Services) -> RouteTable {
    let dialects = Arc::new(dialects);
    let effective_method = dialect_switch::effective_method(Arc::clone(&dialects));
    let switch = Arc::new(DialectSwitch::new(dialects, Arc::clone(&services.uploads)));
    let rows = ROUTES.iter().map(|route| {
        let row = Route::new(route.method, route.path, route.needs, handler(route, services, &switch));
        let row = row.labelled(route.label);
        let row = if matches!(route.answer, RouteHandler::Nothing) { row.for_nothing() } else { row };
        if route.path.starts_with(BASE_PATH) { row.for_uploads(switch.address(route.path)) } else { row }
    });
    RouteTable::new(switch.own_routes().into_iter().chain(rows), effective_method)
}

/// Returns the methods and fields that pages may send and read, for every dialect.
pub(crate) fn cors_lists(dialects: &[DialectHandler], own_fields: Vec<String>) -> CorsLists {
    let own_methods = ROUTES.iter().map(|route| route.method);
    CorsLists {
        methods: dialects.iter().flat_map(|dialect| dialect.methods.iter().copied()).chain(own_methods).collect(),
        request_fields: dialects
            .iter()
            .flat_map(|dialect| dialect.request_fields.iter().map(|name| (*name).to_owned()))
            .chain(own_fields)
            .collect(),
        answer_fields: dialects.iter().flat_map(|dialect| dialect.answer_fields.iter().copied()).collect(),
    }
}

fn handler(route: &RouteEntry, services: &Services, switch: &Arc<DialectSwitch>) -> Handler {
    match route.answer {
        RouteHandler::Dialects => {
            let switch = Arc::clone(switch);
            Box::new(move |call| switch.answer(call))
        }
        RouteHandler::Nothing => Box::new(|call| ready(nothing_here(&call.request)).boxed_local()),
        RouteHandler::Uploads(answer) => bound(answer, &services.reads),
        RouteHandler::Webhooks(answer) => bound(answer, &services.webhooks),
        RouteHandler::Health(answer) => bound(answer, &services.health),
        RouteHandler::Nodes(answer) => bound(answer, &services.nodes),
    }
}

fn nothing_here(request: &HttpRequest) -> HttpResponse {
    match *request.method() {
        Method::OPTIONS => HttpResponse::NoContent().finish(),
        _ => Problem::not_found().respond(request),
    }
}

/// Binds a handler to its parts, and converts its problems to responses.
fn bound<S: Send + Sync + 'static>(answer: fn(RoutedRequest, Arc<S>) -> AnswerFuture, state: &Arc<S>) -> Handler {
    let state = Arc::clone(state);
    Box::new(move |call| {
        let request = call.request.clone();
        let answering = answer(call, Arc::clone(&state));
        Box::pin(async move { answering.await.unwrap_or_else(|problem| problem.respond(&request)) })
    })
}

impl UploadApi {
    /// Returns the maximum size of an event in a message: its metadata twice, as text and encoded, and the
    /// fixed part.
    fn most_event_bytes(&self) -> usize {
        self.max_metadata_bytes.saturating_mul(2).saturating_add(2 << 10)
    }

    /// Returns the URL of an upload's status.
    fn status_url(&self, id: UploadId) -> String {
        self.uploads.status_url(id)
    }

    /// Returns the URL of an upload.
    fn upload_url(&self, id: UploadId) -> String {
        self.uploads.upload_url(id)
    }
}

impl fmt::Debug for UploadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadApi").finish_non_exhaustive()
    }
}

impl fmt::Debug for WebhookApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookApi").finish_non_exhaustive()
    }
}

impl fmt::Debug for HealthApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthApi").finish_non_exhaustive()
    }
}
