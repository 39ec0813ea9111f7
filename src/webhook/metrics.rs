//! What operators can watch of the sender. Labels have few values: no endpoint, no upload.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::domain::delivery::AttemptOutcome;
use crate::domain::delivery::DeliveryClass;
use crate::state::Verdict;

/// Counts of the sender. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    attempts: Family<OutcomeLabel, Counter>,
    settled: Family<VerdictLabel, Counter>,
    duration: Histogram,
    pub(super) in_flight: Gauge,
    pub(super) endpoints_paused: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0];
        Self {
            attempts: Family::default(),
            settled: Family::default(),
            duration: Histogram::new(seconds),
            in_flight: Gauge::default(),
            endpoints_paused: Gauge::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("webhook_attempts", "Attempts to deliver, by how they ended", self.attempts.clone());
        registry.register("webhook_deliveries_settled", "Settled claims of deliveries", self.settled.clone());
        registry.register("webhook_attempt_duration_seconds", "How long attempts took", self.duration.clone());
        registry.register("webhook_in_flight", "Deliveries being sent now", self.in_flight.clone());
        let paused = "Endpoints that asked for no more deliveries and get none until the next start";
        registry.register("webhook_endpoints_paused", paused, self.endpoints_paused.clone());
    }

    pub(super) fn count_attempt(&self, outcome: AttemptOutcome, took: Duration) {
        let outcome = match outcome {
            AttemptOutcome::Status(status) => status_class(status),
            error => error.error_class().unwrap_or("transport"),
        };
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn count_settled(&self, verdict: Verdict, class: DeliveryClass) {
        let verdict = match (verdict, class) {
            (Verdict::Succeeded, _) => "succeeded",
            (Verdict::RetryAt(_), _) => "retry",
            (Verdict::Dead, DeliveryClass::Progress) => "superseded",
            (Verdict::Dead, _) => "dead",
            (Verdict::Paused, _) => "paused",
            (Verdict::Cancelled, _) => "cancelled",
        };
        self.settled.get_or_create(&VerdictLabel { verdict }).inc();
    }
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

    #[test]
    fn counts_come_out_under_their_names() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.count_attempt(AttemptOutcome::Status(204), Duration::from_millis(7));
        metrics.count_attempt(AttemptOutcome::Status(503), Duration::from_millis(7));
        metrics.count_attempt(AttemptOutcome::Timeout, Duration::from_secs(15));
        metrics.count_settled(Verdict::Dead, DeliveryClass::Progress);
        metrics.in_flight.inc();

        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"webhook_attempts_total{outcome="2xx"} 1"#,
            r#"webhook_attempts_total{outcome="5xx"} 1"#,
            r#"webhook_attempts_total{outcome="timeout"} 1"#,
            r#"webhook_deliveries_settled_total{verdict="superseded"} 1"#,
            r#"webhook_attempt_duration_seconds_bucket{le="0.01"} 2"#,
            "webhook_in_flight 1",
            "webhook_endpoints_paused 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}
