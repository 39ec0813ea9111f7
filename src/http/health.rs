//! What operators and their machines ask: alive, ready, and how much of what.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web;
use serde_json::json;

use crate::http::Shared;
use crate::http::error::Problem;
use crate::http::unless_reading;

/// The process answers. Nothing else is tried: a full disk is no reason to be restarted.
pub(super) async fn alive(request: HttpRequest) -> HttpResponse {
    unless_reading(&request).unwrap_or_else(|| HttpResponse::Ok().json(json!({ "status": "alive" })))
}

/// Uploads can be taken now: the data folder and the database were tried.
pub(super) async fn ready(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless_reading(&request) {
        return answer;
    }
    match shared.engine.check().await {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "ready" })),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            let detail = format!("uploads cannot be taken now: {error}");
            Problem::try_again("not-ready", detail, std::time::Duration::from_secs(5)).respond(&request)
        }
    }
}

/// Counters in the OpenMetrics text format.
pub(super) async fn metrics(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless_reading(&request) {
        return answer;
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.registry) {
        Ok(()) => {
            HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text)
        }
        Err(std::fmt::Error) => HttpResponse::InternalServerError().finish(),
    }
}
