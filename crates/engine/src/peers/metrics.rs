//! The metrics of calls to other nodes, and of uploads that change hands.

use std::future::Future;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::NoAnswer;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TakeoverLabel {
    kind: &'static str,
}

#[derive(Debug)]
pub(crate) struct PeerMetrics {
    calls: Family<CallLabels, Histogram, Seconds>,
    takeovers: Family<TakeoverLabel, Histogram, Seconds>,
}

/// The calls that [`PeerMetrics::measure`] distinguishes.
#[derive(Debug, Clone, Copy)]
pub(super) enum MeasuredCall {
    Yield,
    Checkpoint,
    Progress,
    Forward,
}

/// The way in which an upload came from another node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takeover {
    /// The holder released it.
    Clean,
    /// The holder did not answer.
    Unclean,
}

/// Creates histograms of durations from a fast call to the limit of a takeover.
#[derive(Debug, Clone)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 1.5, 5.0, 30.0])
    }
}

impl Default for PeerMetrics {
    fn default() -> Self {
        Self { calls: Family::new_with_constructor(Seconds), takeovers: Family::new_with_constructor(Seconds) }
    }
}

impl MeasuredCall {
    const ALL: [Self; 4] = [Self::Yield, Self::Checkpoint, Self::Progress, Self::Forward];

    const fn name(self) -> &'static str {
        match self {
            Self::Yield => "yield",
            Self::Checkpoint => "checkpoint",
            Self::Progress => "progress",
            Self::Forward => "forward",
        }
    }
}

impl Takeover {
    const ALL: [Self; 2] = [Self::Clean, Self::Unclean];

    const fn label(self) -> TakeoverLabel {
        match self {
            Self::Clean => TakeoverLabel { kind: "clean" },
            Self::Unclean => TakeoverLabel { kind: "unclean" },
        }
    }
}

impl PeerMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        for call in MeasuredCall::ALL {
            for outcome in ["answered", "no-answer"] {
                drop(self.calls.get_or_create(&CallLabels { call: call.name(), outcome }));
            }
        }
        for takeover in Takeover::ALL {
            drop(self.takeovers.get_or_create(&takeover.label()));
        }
        let calls = "Time of calls to other nodes, by call and outcome, in seconds";
        registry.register_with_unit("peer_call", calls, Unit::Seconds, self.calls.clone());
        let takeovers = "Time to take over an upload from another node that holds it, in seconds: clean if that \
                         node released it, unclean if it did not answer";
        registry.register_with_unit("takeover", takeovers, Unit::Seconds, self.takeovers.clone());
    }

    /// Measures a call until its answer.
    pub(super) async fn measure<T>(
        &self,
        call: MeasuredCall,
        answer: impl Future<Output = Result<T, NoAnswer>>,
    ) -> Result<T, NoAnswer> {
        let began = Instant::now();
        let answer = answer.await;
        let outcome = if answer.is_ok() { "answered" } else { "no-answer" };
        let labels = CallLabels { call: call.name(), outcome };
        self.calls.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
        answer
    }

    /// Counts an upload that this node has taken from another one since `began`.
    pub(super) fn took_over(&self, takeover: Takeover, began: Instant) {
        self.takeovers.get_or_create(&takeover.label()).observe(began.elapsed().as_secs_f64());
    }
}
