//! Connections and requests that are rejected, shed or ended before they are served: counted exactly, logged
//! in samples.
//!
//! Any client that reaches the server can cause rejections at any rate. A rejection therefore costs a
//! counter, and a log line only while few of its kind were logged.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::lock::lock;

/// The number of lines logged per reason in each [`PERIOD`].
const LINES: u32 = 100;

const PERIOD: Duration = Duration::from_secs(60);

domain::named! {
    /// The reason for which a connection or request was rejected, shed or ended.
    pub enum Reason {
        /// The head of a request is unreadable.
        UnreadableHead = "unreadable-head",
        /// The head of a request took too long to arrive.
        SlowHead = "slow-head",
        /// The framing of a body is invalid.
        BrokenBody = "broken-body",
        /// The rate of a body fell below the minimum.
        SlowBody = "slow-body",
        /// All connection slots are in use.
        Full = "full",
        /// The client's address has reached its limit of connections.
        Connections = "connections-of-address",
        /// The client's address has reached its limit of event streams and long polls.
        Streams = "streams-of-address",
        /// The client's address has reached its limit of uploads.
        Uploads = "uploads-of-address",
    }
}

/// Counts and logs these events. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: Family<Label, Counter>,
    samples: [Mutex<LogSampler>; Reason::ALL.len()],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    reason: &'static str,
}

impl Refusals {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Connections and requests that were rejected, shed or ended before they were served, by reason";
        registry.register("refusals", help, self.0.counts.clone());
        for reason in Reason::ALL {
            self.counter(reason);
        }
    }

    /// Counts an event, and logs it if it is in the sample. The detail may contain what the client sent.
    pub fn note(&self, reason: Reason, client: Option<IpAddr>, detail: &str) {
        self.counter(reason).inc();
        let mut sample = lock(&self.0.samples[reason as usize]);
        let admitted = sample.admit(Instant::now());
        drop(sample);
        let Some(Sampled { suppressed, .. }) = admitted else { return };
        let name = reason.name();
        if suppressed > 0 {
            tracing::info!(reason = name, suppressed, "some rejections for this reason were counted but not logged");
        }
        let client = client.map(tracing::field::display);
        tracing::info!(reason = name, client, detail = %detail.escape_debug(), "rejected a connection or request");
    }

    fn counter(&self, reason: Reason) -> impl std::ops::Deref<Target = Counter> {
        self.0.counts.get_or_create(&Label { reason: reason.name() })
    }
}

/// Selects which of many events of one kind are logged.
#[derive(Debug, Default)]
pub struct LogSampler {
    /// The start of the current period.
    since: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Sampled {
    /// The number of events of the previous period that were not logged.
    pub suppressed: u64,
    /// True if no further event is logged in this period.
    pub is_last: bool,
}

impl LogSampler {
    pub fn admit(&mut self, now: Instant) -> Option<Sampled> {
        let mut suppressed = 0;
        if self.since.is_none_or(|since| now - since >= PERIOD) {
            suppressed = self.suppressed;
            *self = Self { since: Some(now), logged: 0, suppressed: 0 };
        }
        if self.logged == LINES {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(Sampled { suppressed, is_last: self.logged == LINES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_logged_in_a_minute_and_what_was_left_out_is_told_in_the_next() {
        let mut sample = LogSampler::default();
        let now = Instant::now();
        for line in 1..=LINES {
            assert_eq!(sample.admit(now), Some(Sampled { suppressed: 0, is_last: line == LINES }));
        }
        for _ in 0..7 {
            assert_eq!(sample.admit(now + PERIOD / 2), None);
        }
        assert_eq!(sample.admit(now + PERIOD), Some(Sampled { suppressed: 7, is_last: false }));
        assert_eq!(sample.admit(now + PERIOD), Some(Sampled { suppressed: 0, is_last: false }));
    }

    #[test]
    fn every_reason_has_a_sample_and_a_name_of_its_own() {
        let refusals = Refusals::default();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            refusals.note(reason, None, "a test");
            assert_eq!(refusals.counter(reason).get(), 1, "{reason:?}");
        }
    }
}
