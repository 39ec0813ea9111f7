//! What operators and their machines ask: alive, ready, and how much of what.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::http::Shared;
use crate::http::error::Problem;
use crate::http::unless_reading;

/// The process answers. Nothing else is tried: a full disk is no reason to be restarted.
pub(super) async fn alive(request: HttpRequest) -> HttpResponse {
    unless_reading(&request).unwrap_or_else(|| HttpResponse::Ok().json(json!({ "status": "alive" })))
}

/// Uploads can be taken now, and webhooks are being sent: the data folder and the database were tried.
pub(super) async fn ready(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    if let Some(answer) = unless_reading(&request) {
        return answer;
    }
    let ready = shared.readiness.get(&shared.engine).await;
    // A server that takes uploads and tells nobody is no use either.
    match ready.and_then(|()| shared.beat.check().map_err(|unwell| unwell.to_string())) {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "ready" })),
        Err(detail) => Problem::try_again("not-ready", detail, Duration::from_secs(5)).respond(&request),
    }
}

/// What the last try came to. Trying writes to disk, so there is one try at a time, and whoever came before it began
/// shares it: a crowd of questions costs two tries, and no answer is older than its question.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<(Instant, Result<(), String>)>>);

impl Readiness {
    async fn get(&self, engine: &Engine) -> Result<(), String> {
        let asked_at = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((began_at, outcome)) = &*last
            && *began_at >= asked_at
        {
            return outcome.clone();
        }
        let began_at = Instant::now();
        let outcome = engine.check().await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            format!("uploads cannot be taken now: {error}")
        });
        *last = Some((began_at, outcome.clone()));
        outcome
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
