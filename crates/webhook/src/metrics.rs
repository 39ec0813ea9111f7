//! Metrics of the sender. Labels have few values: they name no endpoint and no upload.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use domain::delivery::{AttemptOutcome, Backlog, DeliveryClass, Disposition};
use domain::time::Timestamp;
use state::Claim;

/// Metrics of the sender. Clones share their values.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    attempts: Family<OutcomeLabel, Counter>,
    settled: Family<DispositionLabel, Counter>,
    duration: Histogram,
    first_attempt: Histogram,
    end_to_end: Histogram,
    queue: Family<StateLabel, Gauge>,
    endpoints: Family<StateLabel, Gauge>,
    pub(super) in_flight: Gauge,
    pub(super) oldest_due: Gauge<f64, AtomicU64>,
    pub(super) leases_expired: Counter,
    pub(super) breakers_opened: Counter,
    pub(super) expired: Counter,
    pub(super) dropped: Counter,
    superseded: Counter,
    pub(super) outbox_write: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DispositionLabel {
    disposition: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        let seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0];
        Self {
            attempts: Family::default(),
            settled: Family::default(),
            duration: Histogram::new(seconds),
            first_attempt: Histogram::new([0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0]),
            end_to_end: Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 36_000.0, 360_000.0]),
            queue: Family::default(),
            endpoints: Family::default(),
            in_flight: Gauge::default(),
            oldest_due: Gauge::default(),
            breakers_opened: Counter::default(),
            leases_expired: Counter::default(),
            expired: Counter::default(),
            dropped: Counter::default(),
            superseded: Counter::default(),
            outbox_write: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
        }
    }
}

/// Labels for the outcome of an attempt for its delivery.
const DISPOSITIONS: [&str; 5] = ["succeeded", "retry", "superseded", "dead", "cancelled"];

const STATUS_CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "other"];

impl WebhookMetrics {
    /// Registers every metric with all of its label values, so that an outcome that has not occurred is
    /// reported as zero and not absent.
    pub fn register(&self, registry: &mut Registry) {
        for outcome in STATUS_CLASSES.into_iter().chain(AttemptOutcome::ERRORS.map(error_class)) {
            drop(self.attempts.get_or_create(&OutcomeLabel { outcome }));
        }
        for disposition in DISPOSITIONS {
            drop(self.settled.get_or_create(&DispositionLabel { disposition }));
        }
        self.show_queue(&Backlog::default());
        self.show_endpoints(["enabled", "open", "paused", "disabled"].map(|state| (state, 0)));
        registry.register("webhook_attempts", "Delivery attempts, by outcome", self.attempts.clone());
        registry.register(
            "webhook_deliveries_settled",
            "Settled delivery claims, by disposition",
            self.settled.clone(),
        );
        registry.register_with_unit(
            "webhook_attempt_duration",
            "Duration of delivery attempts, in seconds",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register("webhook_in_flight", "Deliveries that are being sent", self.in_flight.clone());
        let first = "Time from an event to the start of its first attempt, in seconds";
        registry.register_with_unit("webhook_first_attempt_delay", first, Unit::Seconds, self.first_attempt.clone());
        let whole = "Time from an event to its successful response, in seconds";
        registry.register_with_unit("webhook_end_to_end", whole, Unit::Seconds, self.end_to_end.clone());
        let queue = "Unfinished deliveries, by state, counted at intervals, up to 100000";
        registry.register("webhook_queue", queue, self.queue.clone());
        let oldest = "Time for which the oldest sendable delivery has been due, measured at intervals, in seconds";
        registry.register_with_unit("webhook_oldest_due", oldest, Unit::Seconds, self.oldest_due.clone());
        let endpoints = "Endpoints, by state; an endpoint whose circuit breaker is open counts as open";
        registry.register("webhook_endpoints", endpoints, self.endpoints.clone());
        let expired = "Delivery claims after the lease of the previous sender had expired";
        registry.register("webhook_leases_expired", expired, self.leases_expired.clone());
        let opened = "Circuit breakers of endpoints that opened";
        registry.register("webhook_breakers_opened", opened, self.breakers_opened.clone());
        let given_up = "Deliveries that expired after webhooks.delivery_expiry";
        registry.register("webhook_deliveries_expired", given_up, self.expired.clone());
        let dropped = "Deliveries cancelled beyond webhooks.max_backlog or webhooks.max_backlog_age";
        registry.register("webhook_deliveries_dropped", dropped, self.dropped.clone());
        let superseded = "Progress deliveries that were dropped, mostly superseded by newer ones, counted at intervals";
        registry.register("webhook_superseded", superseded, self.superseded.clone());
        let write = "Time to record results of attempts, including waits for a failing database, in seconds";
        registry.register_with_unit("webhook_outbox_write", write, Unit::Seconds, self.outbox_write.clone());
    }

    /// Observes the delays of a delivery: from its event to its first attempt, and to its success.
    pub(super) fn count_times(&self, claim: &Claim, disposition: Disposition, started_at: Timestamp, now: Timestamp) {
        if claim.class == DeliveryClass::Test {
            return;
        }
        if claim.attempts == claim.attempts_before {
            self.first_attempt.observe(started_at.since(claim.begun_at).as_secs_f64());
        }
        if disposition == Disposition::Succeeded {
            self.end_to_end.observe(now.since(claim.begun_at).as_secs_f64());
        }
    }

    /// Raises the counter to `total`, the number since the store was opened.
    pub(super) fn show_superseded(&self, total: u64) {
        self.superseded.inc_by(total.saturating_sub(self.superseded.get()));
    }

    pub(super) fn show_queue(&self, backlog: &Backlog) {
        let states = [
            ("waiting", backlog.waiting),
            ("ready", backlog.ready),
            ("leased", backlog.leased),
            ("paused", backlog.paused),
        ];
        for (state, count) in states {
            self.queue.get_or_create(&StateLabel { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn show_endpoints(&self, states: [(&'static str, i64); 4]) {
        for (state, count) in states {
            self.endpoints.get_or_create(&StateLabel { state }).set(count);
        }
    }

    pub(super) fn count_attempt(&self, outcome: AttemptOutcome, took: Duration) {
        let outcome = match outcome {
            AttemptOutcome::Status(status) => status_class(status),
            error => error_class(error),
        };
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn count_settled(&self, disposition: Disposition, class: DeliveryClass) {
        let disposition = match (disposition, class) {
            (Disposition::Succeeded, _) => "succeeded",
            (Disposition::RetryAt(_), _) => "retry",
            (Disposition::Dead, DeliveryClass::Progress) => "superseded",
            (Disposition::Dead, _) => "dead",
            (Disposition::Cancelled, _) => "cancelled",
        };
        self.settled.get_or_create(&DispositionLabel { disposition }).inc();
    }
}

fn error_class(error: AttemptOutcome) -> &'static str {
    error.error_class().unwrap_or("transport")
}

fn status_class(status: u16) -> &'static str {
    match status {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing;

    #[test]
    fn counts_come_out_under_their_names() {
        let (metrics, mut registry) = (WebhookMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.count_attempt(AttemptOutcome::Status(204), Duration::from_millis(7));
        metrics.count_attempt(AttemptOutcome::Status(503), Duration::from_millis(7));
        metrics.count_attempt(AttemptOutcome::Timeout, Duration::from_secs(15));
        metrics.count_settled(Disposition::Dead, DeliveryClass::Progress);
        metrics.in_flight.inc();
        metrics.show_queue(&Backlog { ready: 7, ..Backlog::default() });
        metrics.show_endpoints([("enabled", 2), ("open", 1), ("paused", 0), ("disabled", 0)]);
        metrics.oldest_due.set(1.5);
        metrics.show_superseded(3);
        metrics.show_superseded(5);
        let (claim, second) = (testing::claim(), Duration::from_secs(1));
        let begun = claim.begun_at;
        metrics.count_times(&claim, Disposition::Succeeded, begun, begun.plus(second));
        metrics.count_times(&Claim { attempts: 1, ..claim }, Disposition::Dead, begun, begun.plus(second));

        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"webhook_attempts_total{outcome="2xx"} 1"#,
            r#"webhook_attempts_total{outcome="5xx"} 1"#,
            r#"webhook_attempts_total{outcome="timeout"} 1"#,
            r#"webhook_deliveries_settled_total{disposition="superseded"} 1"#,
            r#"webhook_attempt_duration_seconds_bucket{le="0.01"} 2"#,
            "webhook_in_flight 1",
            r#"webhook_queue{state="ready"} 7"#,
            r#"webhook_endpoints{state="open"} 1"#,
            "webhook_oldest_due_seconds 1.5",
            "webhook_first_attempt_delay_seconds_count 1",
            r#"webhook_end_to_end_seconds_bucket{le="1.0"} 1"#,
            "webhook_breakers_opened_total 0",
            "webhook_leases_expired_total 0",
            "webhook_deliveries_expired_total 0",
            "webhook_deliveries_dropped_total 0",
            "webhook_superseded_total 5",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}
