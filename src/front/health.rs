//! Health checks: whether the server is alive and ready.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::front::HealthApi;
use edge::problem::Problem;
use edge::query::Query;
use edge::table::RoutedRequest;
use engine::disk::DiskState;

/// `GET /healthz`: the process responds. Nothing else is checked, because a full disk is no reason for a
/// restart.
pub(super) async fn alive(_: RoutedRequest, _: Arc<HealthApi>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(json!({ "status": "alive" })))
}

/// `GET /readyz`: requests can be served and webhooks are being sent. The check probes the data folder and
/// the database. Everyone may query readiness; the reasons are returned only to callers with a credential.
pub(super) async fn ready(call: RoutedRequest, shared: Arc<HealthApi>) -> Result<HttpResponse, Problem> {
    let request = &call.request;
    let engine = shared.engine.clone();
    let ready = shared.readiness.get(async move { engine.check().await }).await;
    // A server that accepts uploads but sends no webhooks is not ready either.
    let ready = ready.and_then(|()| shared.liveness.check().map_err(|unwell| unwell.to_string()));
    let shows_reasons = shared.access.shows_reasons(request);
    let not_ready = |code, reasons: String| {
        let detail = if shows_reasons { reasons } else { "not ready".to_owned() };
        Problem::try_again(code, detail, Duration::from_secs(5))
    };
    if let Err(reasons) = ready {
        return Err(not_ready("not-ready", reasons));
    }
    // If the disk cannot be measured, the write probe has failed or will fail with the reason.
    let disk = shared.engine.disk().ok().flatten();
    if disk.is_some_and(|disk| disk.state == DiskState::Full) && requires_upload_capacity(request) {
        return Err(not_ready("disk-full", "new uploads are rejected: the disk is full".to_owned()));
    }
    let mut ready = json!({ "status": "ready" });
    if let Some(disk) = disk.filter(|_| shows_reasons) {
        ready["disk"] = disk.state.name().into();
    }
    Ok(HttpResponse::Ok().json(ready))
}

/// `GET /lb`: a load balancer may send requests to this process. It considers neither the database nor the
/// storage, which all nodes share: while they are out of order, no other node would do better.
pub(super) async fn in_rotation(_: RoutedRequest, shared: Arc<HealthApi>) -> Result<HttpResponse, Problem> {
    if shared.drain.has_begun() || shared.engine.is_shutting_down() {
        let detail = "this node is about to stop; send requests to another one";
        return Err(Problem::try_again("draining", detail, Duration::from_secs(5)));
    }
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({ "status": "ok" })))
}

/// Reports whether the caller asks if new uploads can be accepted. A server with a full disk still serves all
/// other requests, deletions above all, so without `role=upload` it is ready.
fn requires_upload_capacity(request: &HttpRequest) -> bool {
    Query::parse(request.query_string()).is_ok_and(|query| query.pairs().any(|pair| pair == ("role", "upload")))
}

/// The result of the latest probe. A probe writes to the disk, so only one runs at a time, and none within
/// `FRESH_FOR` after it, regardless of the number of callers and of whether they wait for the response.
#[derive(Debug, Default)]
pub struct Readiness(Arc<Mutex<Option<ProbeOutcome>>>);

#[derive(Debug)]
struct ProbeOutcome {
    at: Instant,
    outcome: Result<(), String>,
}

/// Time for which the result of a probe is reused.
const FRESH_FOR: Duration = Duration::from_secs(1);

impl Readiness {
    async fn get<E>(&self, probe: impl Future<Output = Result<(), E>> + Send + 'static) -> Result<(), String>
    where
        E: std::error::Error + Send + 'static,
    {
        let last = Arc::clone(&self.0);
        let looking = tokio::spawn(async move {
            let mut last = last.lock().await;
            if let Some(tried) = last.as_ref().filter(|tried| tried.at.elapsed() < FRESH_FOR) {
                return tried.outcome.clone();
            }
            let outcome = probe.await.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
                format!("uploads cannot be accepted at the moment: {error}")
            });
            *last = Some(ProbeOutcome { at: Instant::now(), outcome: outcome.clone() });
            outcome
        });
        looking.await.unwrap_or_else(|_| Err("the server is stopping".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_costs_one_try_a_second_also_when_nobody_waits_for_it() {
        let readiness = Readiness::default();
        let tries = Arc::new(AtomicUsize::new(0));
        let probe = || {
            let tries = Arc::clone(&tries);
            async move {
                let count = tries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                if count == 0 { Ok(()) } else { Err(io::Error::other("no disk")) }
            }
        };
        for (round, is_ready) in [(1, true), (2, false)] {
            for _ in 0..100 {
                assert!(readiness.get(probe()).now_or_never().is_none());
            }
            let crowd = futures::future::join_all((0..100).map(|_| readiness.get(probe()))).await;
            assert!(crowd.iter().all(|ready| ready.is_ok() == is_ready), "{round}");
            assert_eq!(tries.load(Ordering::Relaxed), round);
            tokio::time::advance(FRESH_FOR).await;
        }
    }
}
