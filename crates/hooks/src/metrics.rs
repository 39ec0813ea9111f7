//! Metrics of hooks.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::NotCalled;
use domain::hook::{CallOutcome, Hook};

/// Counters, durations and breaker states of hooks. Clones share their values.
#[derive(Debug, Clone)]
pub struct HookMetrics {
    calls: Family<CallLabel, Counter>,
    duration: Family<HookLabel, Histogram, fn() -> Histogram>,
    breaker_open: Family<HookLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    hook: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabel {
    hook: &'static str,
}

impl Default for HookMetrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            duration: Family::new_with_constructor(duration_histogram),
            breaker_open: Family::default(),
        }
    }
}

fn duration_histogram() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0])
}

impl HookMetrics {
    /// Registers every metric with all of its label values, so that an outcome that has not occurred is
    /// reported as zero and not absent.
    pub fn register(&self, registry: &mut Registry) {
        for hook in Hook::ALL.map(Hook::name) {
            for outcome in
                CallOutcome::ALL.map(CallOutcome::name).into_iter().chain(NotCalled::ALL.map(NotCalled::name))
            {
                drop(self.calls.get_or_create(&CallLabel { hook, outcome }));
            }
            drop(self.duration.get_or_create(&HookLabel { hook }));
            drop(self.breaker_open.get_or_create(&HookLabel { hook }));
        }
        registry.register("hook_calls", "Hook calls, by hook and outcome", self.calls.clone());
        let duration = "Duration of hook calls, in seconds";
        registry.register_with_unit("hook_duration", duration, Unit::Seconds, self.duration.clone());
        let open = "1 while the circuit breaker of a hook is open, else 0";
        registry.register("hook_breaker_open", open, self.breaker_open.clone());
    }

    pub(super) fn count_call(&self, hook: Hook, outcome: CallOutcome, took: Duration) {
        self.count(hook, outcome.name());
        self.duration.get_or_create(&HookLabel { hook: hook.name() }).observe(took.as_secs_f64());
    }

    /// Counts a call that was not made.
    pub(super) fn count_shed(&self, hook: Hook, why: &'static str) {
        self.count(hook, why);
    }

    fn count(&self, hook: Hook, outcome: &'static str) {
        self.calls.get_or_create(&CallLabel { hook: hook.name(), outcome }).inc();
    }

    pub(super) fn note_breaker(&self, hook: Hook, is_open: bool) {
        self.breaker_open.get_or_create(&HookLabel { hook: hook.name() }).set(i64::from(is_open));
    }
}
