//! The nodes of the cluster, for operators.

use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::front::{NodeApi, problems};
use api::node::{NodeList, NodeRecord};
use cluster::DrainError;
use edge::problem::Problem;
use edge::table::RoutedRequest;

/// `GET /api/v1/nodes`: the nodes that count as alive.
pub(super) async fn list(call: RoutedRequest, shared: Arc<NodeApi>) -> Result<HttpResponse, Problem> {
    let nodes = shared.nodes.list().await.map_err(|error| problems::problem(error.into(), &call.request))?;
    Ok(answer(StatusCode::OK, NodeList { nodes: nodes.iter().map(NodeRecord::from).collect() }))
}

/// `POST /api/v1/nodes/{name}/drain`: the node begins to hand over its uploads. The name may be an instance
/// id.
pub(super) async fn drain(call: RoutedRequest, shared: Arc<NodeApi>) -> Result<HttpResponse, Problem> {
    let drained = shared.nodes.drain(&call.parameter(0)).await;
    let node = drained.map_err(|error| problem(error, &call.request))?;
    Ok(answer(StatusCode::ACCEPTED, NodeRecord::from(&node)))
}

/// Returns a response that no cache may store.
fn answer(status: StatusCode, body: impl Serialize) -> HttpResponse {
    HttpResponse::build(status).insert_header((header::CACHE_CONTROL, "no-store")).json(body)
}

fn problem(error: DrainError, request: &HttpRequest) -> Problem {
    let (status, code) = match error {
        DrainError::Unknown(_) => (StatusCode::NOT_FOUND, "no-such-node"),
        DrainError::Ambiguous { .. } => (StatusCode::CONFLICT, "ambiguous-node"),
        DrainError::State(source) => return problems::problem(source.into(), request),
    };
    Problem::new(status, code, error.to_string())
}
