//! One attempt at one delivery, from the claim to what is to be recorded.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::delivery::Attempt;
use crate::domain::delivery::AttemptOutcome;
use crate::domain::delivery::DeliveryClass;
use crate::domain::delivery::Timings;
use crate::domain::endpoint::EndpointId;
use crate::domain::time::Timestamp;
use crate::state::Claim;
use crate::state::Settlement;
use crate::state::Verdict;
use crate::webhook::egress::Answer;
use crate::webhook::egress::Egress;
use crate::webhook::egress::Prepared;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Settings;
use crate::webhook::metrics::Metrics;
use crate::webhook::record::Outcome;
use crate::webhook::verdict::Ruling;
use crate::webhook::verdict::judge;

/// Tells the time of day.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// An endpoint and how it is doing.
pub(super) struct Lane {
    pub(super) endpoint: Endpoint,
    pub(super) slots: Arc<Semaphore>,
    /// The last attempt failed; the next failure is no news.
    failing: AtomicBool,
    /// The receiver wants no more; nothing is claimed for it until the next start.
    stopped: AtomicBool,
}

impl Lane {
    pub(super) fn new(endpoint: Endpoint, slots: Arc<Semaphore>) -> Self {
        Self { endpoint, slots, failing: AtomicBool::new(false), stopped: AtomicBool::new(false) }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// What every delivery needs on its way.
pub(super) struct Courier {
    pub(super) egress: Egress,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// Cancelled when the time to drain is over.
    pub(super) abort: CancellationToken,
    pub(super) results: mpsc::Sender<Outcome>,
}

impl Courier {
    /// One attempt. The slots are held until its result is handed over, which bounds the results that wait.
    pub(super) async fn deliver(&self, lane: &Lane, claim: Claim, slots: [OwnedSemaphorePermit; 2]) {
        let _in_flight = InFlight::counted(&self.metrics);
        let started_at = (self.clock)();
        let number = claim.attempts.saturating_add(1);
        let body = claim.body.clone();
        let message = Prepared::new(&lane.endpoint, claim.event, claim.kind, number, started_at, body);

        let began = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = self.egress.send(&lane.endpoint, message) => answer,
            () = self.abort.cancelled() => Answer::without_response(AttemptOutcome::Aborted, None, began.elapsed()),
        };
        self.metrics.count_attempt(answer.outcome, answer.took);

        let (verdict, stops) = self.settle_for(lane, &claim, &answer);
        log_attempt(lane, &claim, &answer, verdict);
        let attempt = Attempt {
            number,
            trigger: claim.trigger,
            started_at,
            took: answer.took,
            timings: Timings::default(),
            remote: None,
            outcome: answer.outcome,
            response_headers: Vec::new(),
            response_body: answer.body,
            note: answer.note,
        };
        let settlement = Settlement { delivery: claim.delivery, lease: claim.lease, attempt, verdict };
        let outcome = Outcome { settlement, class: claim.class, stops };
        // The recorder listens until the last sender is gone, and this is one.
        let _ = self.results.send(outcome).await;
        drop(slots);
    }

    /// What becomes of the delivery, and which endpoint is to be stopped with it.
    fn settle_for(&self, lane: &Lane, claim: &Claim, answer: &Answer) -> (Verdict, Option<EndpointId>) {
        let now = (self.clock)();
        let ruling = match answer.outcome {
            AttemptOutcome::Aborted => Ruling::RetryAt(now),
            _ => judge(claim, answer, &self.settings, now, rand::random()),
        };
        let stops = (ruling == Ruling::StopEndpoint && !lane.stopped.swap(true, Ordering::Relaxed)).then(|| {
            let endpoint = lane.endpoint.id();
            let reason = answer.outcome.status().map_or("no status".to_owned(), |status| status.to_string());
            tracing::warn!(%endpoint, reason, "the receiver wants no more; its deliveries wait until the next start");
            self.metrics.endpoints_paused.inc();
            endpoint.clone()
        });
        let verdict = match ruling {
            Ruling::Succeeded => Verdict::Succeeded,
            _ if claim.class == DeliveryClass::Test => Verdict::Cancelled,
            Ruling::GiveUp => Verdict::Dead,
            // Old progress is of no use when the endpoint comes back.
            Ruling::StopEndpoint if claim.class == DeliveryClass::Progress => Verdict::Dead,
            Ruling::StopEndpoint => Verdict::Paused,
            Ruling::RetryAt(_) if lane.is_stopped() => Verdict::Paused,
            Ruling::RetryAt(at) => Verdict::RetryAt(at),
        };
        (verdict, stops)
    }
}

/// One failure is news, the ones after it are not, and neither is a success unless something had failed.
fn log_attempt(lane: &Lane, claim: &Claim, answer: &Answer, verdict: Verdict) {
    let endpoint = lane.endpoint.id();
    let (delivery, event) = (claim.delivery, claim.kind.name());
    let upload = claim.upload.map(tracing::field::display);
    if answer.outcome.is_success() {
        if lane.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(%endpoint, "the receiver answers again");
        }
        tracing::debug!(%endpoint, %delivery, upload, event, took_ms = answer.took.as_millis(), "delivered");
        return;
    }
    if answer.outcome == AttemptOutcome::Aborted {
        return;
    }
    let attempt = claim.attempts.saturating_add(1);
    let (status, error) = (answer.outcome.status(), answer.outcome.error_class());
    let note = answer.note.as_deref();
    let next = match verdict {
        Verdict::RetryAt(at) => format!("next attempt at {at}"),
        Verdict::Dead => "given up".to_owned(),
        Verdict::Paused => "waits with its endpoint".to_owned(),
        Verdict::Cancelled => "was a test".to_owned(),
        Verdict::Succeeded => "done".to_owned(),
    };
    if lane.failing.swap(true, Ordering::Relaxed) {
        tracing::debug!(%endpoint, %delivery, upload, event, attempt, status, error, note, next, "could not deliver");
    } else {
        tracing::warn!(
            %endpoint, %delivery, upload, event, attempt, status, error, note, next,
            "could not deliver; further failures of this endpoint are logged at debug until it answers again"
        );
    }
}

/// Counts a delivery as in flight for as long as it lives.
struct InFlight(Metrics);

impl InFlight {
    fn counted(metrics: &Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}
