//! The samples of one scenario, summarized by subject and variant.

use crate::results::{Measured, Metric};
use crate::stats::Spread;
use crate::subject::Subject;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers<'a>(pub(crate) &'a Measured);

impl<'a> Numbers<'a> {
    /// Returns the variants of the scenario, in the order in which they were measured.
    pub(crate) fn variants(self) -> Vec<&'a str> {
        distinct(self.0.samples.iter().map(|sample| sample.variant.as_str()))
    }

    /// Returns the subjects that were measured in this variant, in the order of `Subject::ALL`.
    pub(crate) fn subjects(self, variant: &str) -> Vec<Subject> {
        let was = |subject: &Subject| {
            self.0.samples.iter().any(|sample| sample.subject == *subject && sample.variant == variant)
        };
        Subject::ALL.into_iter().filter(was).collect()
    }

    /// Returns the metrics of this variant.
    pub(crate) fn metrics(self, variant: &str) -> Vec<Metric> {
        let of_it = self.0.samples.iter().filter(|sample| sample.variant == variant);
        let mut metrics: Vec<Metric> = of_it.flat_map(|sample| sample.values.keys().copied()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        metrics
    }

    pub(crate) fn spread(self, subject: Subject, variant: &str, metric: Metric) -> Option<Spread> {
        let of_it = self.0.samples.iter().filter(|sample| sample.subject == subject && sample.variant == variant);
        let values: Vec<f64> = of_it.filter_map(|sample| sample.values.get(&metric).copied()).collect();
        Spread::of(&values)
    }

    pub(crate) fn median(self, subject: Subject, variant: &str, metric: Metric) -> Option<f64> {
        Some(self.spread(subject, variant, metric)?.median)
    }

    /// Returns the peer with the best median, and that median.
    pub(crate) fn best_peer(self, variant: &str, metric: Metric) -> Option<(Subject, f64)> {
        let peers = Subject::ALL.into_iter().filter(|subject| subject.is_peer());
        let medians = peers.filter_map(|peer| Some((peer, self.median(peer, variant, metric)?)));
        let order = |one: &(Subject, f64), other: &(Subject, f64)| one.1.total_cmp(&other.1);
        if metric.more_is_better() == Some(true) { medians.max_by(order) } else { medians.min_by(order) }
    }

    /// Returns the failed runs with their reasons; each reason once.
    pub(crate) fn failures(self) -> Vec<(Subject, &'a str, &'a str)> {
        distinct(
            self.0
                .samples
                .iter()
                .filter_map(|sample| Some((sample.subject, sample.variant.as_str(), sample.failure.as_deref()?))),
        )
    }
}

/// Returns each item once, in the order of first appearance.
fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}
