//! How events are delivered, and to whom.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::endpoint::{Endpoint, read_endpoints};
use crate::config::reader::{Judged, Reader, duration_item};
use crate::config::units::{KIB, MIB, days, duration_text, hours, minutes, ms, secs};
use domain::delivery::LEASE_MARGIN;
use domain::network::Network;

const WAIT: RangeInclusive<Duration> = secs(1)..=days(7);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhooks {
    /// For a whole attempt, connecting and reading the answer included.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// The wait after each failed attempt; never empty.
    pub retry_schedule: Vec<Duration>,
    pub retry_jitter_percent: u8,
    pub lease: Duration,
    pub max_in_flight: u32,
    pub max_in_flight_per_endpoint: u32,
    pub response_limit_bytes: u64,
    pub response_kept_bytes: u64,
    pub delivery_expiry: Duration,
    /// So many failures in a row open an endpoint's circuit breaker; 0: it never opens.
    pub breaker_failures: u32,
    pub breaker_pause: Duration,
    pub disable_after: Duration,
    /// `None`: something may be due for ever.
    pub max_due_age: Option<Duration>,
    pub replay_rate: u32,
    pub keep_finished: Duration,
    pub keep_dead: Duration,
    pub max_backlog_age: Duration,
    pub max_backlog: u64,
    pub max_endpoints: u32,
    pub allow_networks: Vec<Network>,
    pub https_only: bool,
    /// Their names differ.
    pub endpoints: Vec<Endpoint>,
}

impl Webhooks {
    pub(super) fn read(from: &mut Reader) -> Self {
        let webhooks = Self {
            timeout: from.duration("webhooks.timeout", secs(1)..=secs(30)),
            connect_timeout: from.duration("webhooks.connect_timeout", ms(100)..=secs(30)),
            retry_schedule: from.list("webhooks.retry_schedule", retry_schedule),
            retry_jitter_percent: from.count("webhooks.retry_jitter_percent", 0..=50),
            lease: from.duration("webhooks.lease", secs(6)..=minutes(10)),
            max_in_flight: from.count("webhooks.max_in_flight", 1..=10_000),
            max_in_flight_per_endpoint: from.count("webhooks.max_in_flight_per_endpoint", 1..=10_000),
            response_limit_bytes: from.size("webhooks.response_limit", KIB..=16 * MIB),
            response_kept_bytes: from.size("webhooks.response_kept", 0..=64 * KIB),
            delivery_expiry: from.duration("webhooks.delivery_expiry", minutes(1)..=days(30)),
            breaker_failures: from.count("webhooks.breaker_failures", 0..=1_000),
            breaker_pause: from.duration("webhooks.breaker_pause", secs(1)..=hours(1)),
            disable_after: from.duration("webhooks.disable_after", hours(1)..=days(30)),
            max_due_age: Some(from.duration("webhooks.max_due_age", secs(0)..=days(7))).filter(|age| !age.is_zero()),
            replay_rate: from.count("webhooks.replay_rate", 1..=10_000),
            keep_finished: from.duration("webhooks.keep_finished", hours(1)..=days(3650)),
            keep_dead: from.duration("webhooks.keep_dead", hours(1)..=days(3650)),
            max_backlog_age: from.duration("webhooks.max_backlog_age", hours(1)..=days(3650)),
            max_backlog: from.count("webhooks.max_backlog", 1_000..=1_000_000_000),
            max_endpoints: from.count("webhooks.max_endpoints", 1..=1_000),
            allow_networks: from.list("webhooks.allow_networks", networks),
            https_only: from.boolean("webhooks.https_only"),
            endpoints: read_endpoints(from),
        };
        webhooks.require_sense(from);
        webhooks
    }

    /// The rules that hold between keys.
    fn require_sense(&self, from: &mut Reader) {
        let margin = duration_text(LEASE_MARGIN);
        let exceeds =
            |others: &[String]| format!("too short; it must exceed {} by at least {margin}", others.join(", "));
        let at_most = |others: &[String]| format!("too much; it cannot be more than {}", others.join(", "));
        let lasts = self.lease >= self.timeout + LEASE_MARGIN;
        from.require(lasts, &["webhooks.lease", "webhooks.timeout"], exceeds);
        let connects = self.connect_timeout <= self.timeout;
        from.require(connects, &["webhooks.connect_timeout", "webhooks.timeout"], at_most);
        let share = self.max_in_flight_per_endpoint <= self.max_in_flight;
        from.require(share, &["webhooks.max_in_flight_per_endpoint", "webhooks.max_in_flight"], at_most);
        let kept = self.response_kept_bytes <= self.response_limit_bytes;
        from.require(kept, &["webhooks.response_kept", "webhooks.response_limit"], at_most);
        let dead = self.keep_dead >= self.keep_finished;
        from.require(dead, &["webhooks.keep_dead", "webhooks.keep_finished"], |others| {
            format!("too short; it cannot be less than {}", others.join(", "))
        });
        for endpoint in &self.endpoints {
            let terms = &endpoint.terms;
            if terms.timeout.is_some_and(|timeout| self.lease < timeout + LEASE_MARGIN) {
                let (name, most) = (&endpoint.name, duration_text(self.lease.saturating_sub(LEASE_MARGIN)));
                from.refuse_line(format!(
                    "endpoint {name}: its timeout can be {most} at most; webhooks.lease must exceed it by {margin}"
                ));
            }
            if terms.max_in_flight.is_some_and(|count| count > self.max_in_flight) {
                let name = &endpoint.name;
                from.refuse_line(format!("endpoint {name}: its max_in_flight is more than webhooks.max_in_flight"));
            }
        }
    }
}

pub(super) fn networks(items: Vec<&str>) -> Judged<Vec<Network>> {
    items.into_iter().map(|item| item.parse().map_err(|why| format!("{item:?} is {why}"))).collect()
}

pub(super) fn retry_schedule(items: Vec<&str>) -> Judged<Vec<Duration>> {
    match items.len() {
        0 => Err("empty; write at least one wait, such as 5s".to_owned()),
        1..=100 => items.into_iter().map(|item| duration_item(item, &WAIT)).collect(),
        _ => Err("too long; write at most 100 waits".to_owned()),
    }
}
