//! The single list of all routes: method, path, required rights, and handler.

use std::sync::Arc;

use actix_web::HttpResponse;
use futures::future::LocalBoxFuture;

use crate::front::{
    HealthApi, NodeApi, UploadApi, WebhookApi, deletion, events, exposition, health, hook_calls, nodes, read_tokens,
    schemas, stages, status, webhooks as admin,
};
use domain::principal::Right;
use edge::access::Needs;
use edge::problem::Problem;
use edge::table::{ANY, RoutedRequest};

/// One route.
#[derive(Clone, Copy)]
pub(super) struct RouteEntry {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    pub(super) answer: RouteHandler,
    /// Label of the route in metrics and logs.
    pub(super) label: &'static str,
}

/// The handler of a route, by the parts that it needs.
#[derive(Clone, Copy)]
pub(super) enum RouteHandler {
    /// The dialect of the request.
    Dialects,
    /// No resource exists there.
    Nothing,
    Uploads(fn(RoutedRequest, Arc<UploadApi>) -> AnswerFuture),
    Webhooks(fn(RoutedRequest, Arc<WebhookApi>) -> AnswerFuture),
    Health(fn(RoutedRequest, Arc<HealthApi>) -> AnswerFuture),
    Nodes(fn(RoutedRequest, Arc<NodeApi>) -> AnswerFuture),
}

pub(super) type AnswerFuture = LocalBoxFuture<'static, Result<HttpResponse, Problem>>;

/// Label of this path and of all paths below it.
const WEBHOOKS: &str = "/api/v1/webhooks";

macro_rules! reads {
    ($handler:path) => {
        RouteHandler::Uploads(|call, state| Box::pin($handler(call, state)))
    };
}

macro_rules! webhooks {
    ($handler:path) => {
        RouteHandler::Webhooks(|call, state| Box::pin($handler(call, state)))
    };
}

macro_rules! health {
    ($handler:path) => {
        RouteHandler::Health(|call, state| Box::pin($handler(call, state)))
    };
}

macro_rules! nodes {
    ($handler:path) => {
        RouteHandler::Nodes(|call, state| Box::pin($handler(call, state)))
    };
}

/// All routes except those for addresses of single dialects. If two paths match, the first one wins.
#[rustfmt::skip]
pub(super) const ROUTES: &[RouteEntry] = &[
    route(ANY, "/files", Needs::Client(Right::Create), RouteHandler::Dialects),
    route("GET", "/files/{id}", Needs::Client(Right::Download), RouteHandler::Dialects),
    route("HEAD", "/files/{id}", Needs::Client(Right::Read), RouteHandler::Dialects),
    route("DELETE", "/files/{id}", Needs::Client(Right::Terminate), RouteHandler::Dialects),
    route(ANY, "/files/{id}", Needs::Client(Right::Append), RouteHandler::Dialects),
    route(ANY, "/files/{..}", Needs::Client(Right::Append), RouteHandler::Nothing).labelled("other"),

    route("GET", "/api/v1/uploads", Needs::Client(Right::List), reads!(status::list)),
    route("GET", "/api/v1/uploads/{id}", Needs::Upload(Right::Read), reads!(status::one)),
    route("DELETE", "/api/v1/uploads/{id}", Needs::Operator(Right::Terminate), reads!(deletion::delete)),
    route("GET", "/api/v1/uploads/{id}/events", Needs::Upload(Right::Events), reads!(events::of_one)),
    route("POST", "/api/v1/uploads/{id}/stages", Needs::Upload(Right::Report), reads!(stages::report)),
    route("POST", "/api/v1/uploads/{id}/read-token", Needs::Client(Right::MintTokens), reads!(read_tokens::make)),
    route("GET", "/api/v1/events", Needs::Client(Right::List), reads!(events::of_all)),

    schemas("/api/v1/webhooks/schemas", reads!(schemas::list)),
    schemas("/api/v1/webhooks/schemas/{type}", reads!(schemas::one)),
    shows("/api/v1/webhooks/hooks", webhooks!(hook_calls::list)),
    shows("/api/v1/webhooks/endpoints", webhooks!(admin::endpoints::list)),
    changes("POST", "/api/v1/webhooks/endpoints", webhooks!(admin::endpoints::create)),
    shows("/api/v1/webhooks/endpoints/{id}", webhooks!(admin::endpoints::show)),
    changes("PATCH", "/api/v1/webhooks/endpoints/{id}", webhooks!(admin::endpoints::change)),
    changes("DELETE", "/api/v1/webhooks/endpoints/{id}", webhooks!(admin::endpoints::delete)),
    changes("POST", "/api/v1/webhooks/endpoints/{id}/rotate", webhooks!(admin::endpoints::rotate)),
    changes("POST", "/api/v1/webhooks/endpoints/{id}/pause", webhooks!(admin::endpoints::pause)),
    changes("POST", "/api/v1/webhooks/endpoints/{id}/resume", webhooks!(admin::endpoints::resume)),
    changes("POST", "/api/v1/webhooks/endpoints/{id}/test", webhooks!(admin::endpoints::test)),
    changes("POST", "/api/v1/webhooks/endpoints/{id}/replay", webhooks!(admin::replays::begin)),
    shows("/api/v1/webhooks/deliveries", webhooks!(admin::deliveries::list)),
    shows("/api/v1/webhooks/deliveries/{id}", webhooks!(admin::deliveries::one)),
    changes("POST", "/api/v1/webhooks/deliveries/{id}/replay", webhooks!(admin::deliveries::replay)),
    shows("/api/v1/webhooks/replays", webhooks!(admin::replays::list)),
    shows("/api/v1/webhooks/replays/{id}", webhooks!(admin::replays::one)),
    changes("DELETE", "/api/v1/webhooks/replays/{id}", webhooks!(admin::replays::cancel)),
    changes("POST", "/api/v1/webhooks/pause", webhooks!(admin::pause_all)),
    changes("POST", "/api/v1/webhooks/resume", webhooks!(admin::resume_all)),
    changes("POST", "/api/v1/webhooks/expunge", webhooks!(admin::expunge)),
    // All further paths below are reserved for administration.
    changes(ANY, "/api/v1/webhooks", RouteHandler::Nothing),
    changes(ANY, "/api/v1/webhooks/{..}", RouteHandler::Nothing),

    route("GET", "/api/v1/nodes", Needs::Operator(Right::ReadNodes), nodes!(nodes::list)),
    route("POST", "/api/v1/nodes/{name}/drain", Needs::Operator(Right::DrainNodes), nodes!(nodes::drain))
        .labelled("/api/v1/nodes"),

    route("GET", "/healthz", Needs::Nothing, health!(health::alive)),
    route("GET", "/readyz", Needs::Nothing, health!(health::ready)),
    route("GET", "/lb", Needs::Nothing, health!(health::in_rotation)),
    route("GET", "/metrics", Needs::Client(Right::ReadMetrics), health!(exposition::metrics)),
];

const fn route(method: &'static str, path: &'static str, needs: Needs, answer: RouteHandler) -> RouteEntry {
    RouteEntry { method, path, needs, answer, label: path }
}

/// Returns a route with which operators read.
const fn shows(path: &'static str, answer: RouteHandler) -> RouteEntry {
    route("GET", path, Needs::Operator(Right::ReadWebhooks), answer).labelled(WEBHOOKS)
}

/// Returns a route with which operators make changes.
const fn changes(method: &'static str, path: &'static str, answer: RouteHandler) -> RouteEntry {
    route(method, path, Needs::Operator(Right::ManageWebhooks), answer).labelled(WEBHOOKS)
}

/// Returns a route that describes events, for everyone who may read.
const fn schemas(path: &'static str, answer: RouteHandler) -> RouteEntry {
    route("GET", path, Needs::Client(Right::Read), answer).labelled(WEBHOOKS)
}

impl RouteEntry {
    const fn labelled(self, label: &'static str) -> Self {
        Self { label, ..self }
    }
}
