//! One attempt at one delivery, from the claim to the result to be recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::metrics::WebhookMetrics;
use crate::sending::decision::{AttemptDecision, decide, sign};
use crate::sending::egress::{AttemptResponse, Egress, SignedMessage};
use crate::sending::health::BreakerChange;
use crate::sending::recorder::{DeliveryResult, EndpointStop};
use crate::sending::registry::EndpointEntry;
use crate::settings::WebhookSettings;
use domain::delivery::{Attempt, AttemptOutcome, DeliveryClass, Disposition};
use domain::endpoint::DisabledBecause;
use domain::notice::Notice;
use domain::time::Timestamp;
use keyring::StageTokens;
use state::clock::Clock;
use state::{Claim, Settlement};

/// The parts that all attempts share.
pub(crate) struct Courier {
    pub(crate) egress: Egress,
    pub(crate) settings: WebhookSettings,
    pub(crate) clock: Clock,
    pub(crate) stage_tokens: Option<StageTokens>,
    pub(crate) metrics: WebhookMetrics,
    /// Cancelled when the drain timeout has expired.
    pub(crate) abort: CancellationToken,
    pub(crate) results: mpsc::Sender<DeliveryResult>,
}

impl Courier {
    /// Makes one attempt, in its own span. The slots are held until the result is handed over, which bounds
    /// the number of waiting results. `waiting` receives the attempt once it is recorded.
    pub(crate) async fn deliver<S>(
        &self,
        entry: &Arc<EndpointEntry>,
        claim: Claim,
        slots: S,
        waiting: Option<oneshot::Sender<Attempt>>,
    ) {
        let Claim { delivery, event, attempts, .. } = claim;
        let (endpoint, attempt) = (entry.id(), attempts.saturating_add(1));
        let span = tracing::debug_span!("webhook_attempt", %delivery, %event, %endpoint, attempt);
        self.attempt(entry, claim, slots, waiting).instrument(span).await;
    }

    async fn attempt<S>(
        &self,
        entry: &Arc<EndpointEntry>,
        claim: Claim,
        slots: S,
        waiting: Option<oneshot::Sender<Attempt>>,
    ) {
        let _in_flight = InFlightGauge::counted(&self.metrics);
        let endpoint = entry.endpoint();
        let started_at = self.clock.now();
        let number = claim.attempts.saturating_add(1);
        let body = claim.body.clone();
        let mut message = SignedMessage::new(&endpoint, claim.event, claim.kind, number, started_at, body);
        if let Some((tokens, upload)) = self.stage_tokens.as_ref().zip(claim.upload) {
            message = message.with_stage_token(&tokens.token(upload));
        }

        let began = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = self.egress.send(&endpoint, message) => answer,
            () = self.abort.cancelled() => AttemptResponse::without_response(AttemptOutcome::Aborted, None, began.elapsed()),
        };
        self.metrics.count_attempt(answer.outcome, answer.took);

        let now = self.clock.now();
        let decision = match (answer.outcome, claim.class) {
            (AttemptOutcome::Aborted, DeliveryClass::Test) => AttemptDecision::EndTest,
            (AttemptOutcome::Aborted, _) => AttemptDecision::RetryAt(now),
            _ => {
                let begun = claim.begun_at;
                let expiry = self.clock.extended(begun, begun.plus(self.settings.delivery_expiry)).since(begun);
                decide(&claim, endpoint.terms(), &answer, &self.settings, expiry, now, rand::random())
            }
        };
        let disposition = disposition_of(decision, claim.class, now);
        log_attempt(entry, &claim, &answer, disposition);
        self.metrics.count_times(&claim, disposition, started_at, now);
        let (notice, stop) = self.note_health(entry, &claim, &answer, decision, now);
        let settlement = Settlement {
            delivery: claim.delivery,
            lease: claim.lease,
            attempt: attempt(&claim, number, started_at, answer, disposition),
            disposition,
        };
        let stop = stop.map(|because| EndpointStop { because, url: endpoint.terms().url.clone() });
        let outcome =
            DeliveryResult { settlement, class: claim.class, entry: Arc::clone(entry), notice, stop, waiting };
        // The recorder receives until the last sender is dropped, and this is one.
        let _ = self.results.send(outcome).await;
        drop(slots);
    }

    /// Updates the health of the endpoint. Returns a notice for operators, and the reason if the endpoint is
    /// to be disabled.
    fn note_health(
        &self,
        entry: &EndpointEntry,
        claim: &Claim,
        answer: &AttemptResponse,
        decision: AttemptDecision,
        now: Timestamp,
    ) -> (Option<Notice>, Option<DisabledBecause>) {
        if answer.outcome == AttemptOutcome::Aborted {
            return (None, None);
        }
        if matches!(answer.outcome, AttemptOutcome::Status(502 | 504)) {
            entry.tighten();
        }
        let came = entry.note(sign(claim, answer, decision), &self.settings.health, &self.clock, rand::random());
        let endpoint = entry.id();
        match came.breaker {
            Some(BreakerChange::Opened { until }) => {
                self.metrics.breakers_opened.inc();
                tracing::warn!(%endpoint, %until, "the receiver keeps failing; the circuit breaker of the endpoint is \
                                                   open");
            }
            Some(BreakerChange::Closed) => {
                tracing::info!(%endpoint, "the receiver works again; the circuit breaker of the endpoint is closed")
            }
            None => {}
        }
        let since = entry.health().failing_since.unwrap_or(now);
        let notice = came.warn.map(|percent| Notice::EndpointFailing { endpoint: endpoint.clone(), since, percent });
        let stop = match decision {
            AttemptDecision::DisableEndpoint(because) => Some(because),
            _ if came.disable => Some(DisabledBecause::Failing),
            _ => None,
        };
        (notice, stop)
    }
}

/// Returns the disposition of the delivery. If the endpoint is being disabled, its delivery is due at once:
/// the outbox holds it back with the endpoint, and sends it if the endpoint is resumed.
const fn disposition_of(decision: AttemptDecision, class: DeliveryClass, now: Timestamp) -> Disposition {
    match (decision, class) {
        (AttemptDecision::Succeeded, _) => Disposition::Succeeded,
        (AttemptDecision::EndTest, _) => Disposition::Cancelled,
        (AttemptDecision::Abandon, _) => Disposition::Dead,
        // Old progress is useless when the endpoint is resumed.
        (AttemptDecision::DisableEndpoint(_), DeliveryClass::Progress) => Disposition::Dead,
        (AttemptDecision::DisableEndpoint(_), _) => Disposition::RetryAt(now),
        (AttemptDecision::RetryAt(at), _) => Disposition::RetryAt(at),
    }
}

fn attempt(
    claim: &Claim,
    number: u32,
    started_at: Timestamp,
    answer: AttemptResponse,
    disposition: Disposition,
) -> Attempt {
    Attempt {
        number,
        trigger: claim.trigger,
        started_at,
        took: answer.took,
        timings: answer.timings,
        remote: answer.remote,
        outcome: answer.outcome,
        response_headers: answer.headers,
        response_body: answer.body,
        note: answer.note,
        next_attempt_at: match disposition {
            Disposition::RetryAt(at) => Some(at),
            Disposition::Succeeded | Disposition::Dead | Disposition::Cancelled => None,
        },
    }
}

/// Logs an attempt: the first of several consecutive failures as a warning, the first success after a failure
/// at info level, and all others at debug level.
fn log_attempt(entry: &EndpointEntry, claim: &Claim, answer: &AttemptResponse, disposition: Disposition) {
    let endpoint = entry.id();
    let (delivery, event_type) = (claim.delivery, claim.kind.name());
    let upload = claim.upload.map(tracing::field::display);
    if answer.outcome.is_success() {
        if entry.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!(%endpoint, "deliveries to the receiver succeed again");
        }
        tracing::debug!(%endpoint, %delivery, upload, event_type, took_ms = answer.took.as_millis(), "delivered");
        return;
    }
    if answer.outcome == AttemptOutcome::Aborted {
        return;
    }
    let attempt = claim.attempts.saturating_add(1);
    let (status, error) = (answer.outcome.status(), answer.outcome.error_class());
    let note = answer.note.as_deref();
    let next = match disposition {
        Disposition::RetryAt(at) => format!("next attempt at {at}"),
        Disposition::Dead => "no further attempt".to_owned(),
        Disposition::Cancelled => "no further attempt, because it was a test".to_owned(),
        Disposition::Succeeded => "done".to_owned(),
    };
    if entry.is_failing.swap(true, Ordering::Relaxed) {
        tracing::debug!(%endpoint, %delivery, upload, event_type, attempt, status, error, note, next, "a delivery attempt failed");
    } else {
        tracing::warn!(
            %endpoint, %delivery, upload, event_type, attempt, status, error, note, next,
            "a delivery attempt failed; further failures of this endpoint are logged at debug level until an attempt \
             succeeds"
        );
    }
}

/// Counts a delivery as in flight until it is dropped.
struct InFlightGauge(WebhookMetrics);

impl InFlightGauge {
    fn counted(metrics: &WebhookMetrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics.clone())
    }
}

impl Drop for InFlightGauge {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}
