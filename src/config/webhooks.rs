//! Delivery of events, and its endpoints.

use std::time::Duration;

use webhook::{HealthRules, MAX_JITTER_PERCENT, WebhookSettings};

use crate::config::endpoint::{EndpointConfig, read_endpoints};
use crate::config::reader::{Parsed, Reader, duration_item};
use crate::config::units::{KIB, MIB, days, duration_text, hours, minutes, ms, secs};
use domain::delivery::LEASE_MARGIN;
use domain::endpoint::{MAX_RETRY_WAITS, RETRY_WAITS, TIMEOUTS};
use domain::network::Network;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhooksConfig {
    pub sending: WebhookSettings,
    pub allow_networks: Vec<Network>,
    pub https_only: bool,
    /// Endpoints, with unique names.
    pub endpoints: Vec<EndpointConfig>,
}

impl WebhooksConfig {
    /// Reads the settings. The sender gets half of the shutdown time.
    pub(super) fn read(from: &mut Reader, shutdown_timeout: Duration) -> Self {
        let webhooks = Self {
            sending: read_sending(from, shutdown_timeout / 2),
            allow_networks: from.list("webhooks.allow_networks", networks),
            https_only: from.boolean("webhooks.https_only"),
            endpoints: read_endpoints(from),
        };
        webhooks.require_sense(from);
        webhooks
    }

    /// Checks the rules between keys.
    fn require_sense(&self, from: &mut Reader) {
        let sending = &self.sending;
        let margin = duration_text(LEASE_MARGIN);
        let exceeds =
            |others: &[String]| format!("too short; it must exceed {} by at least {margin}", others.join(", "));
        let at_most = |others: &[String]| format!("too large; it cannot be more than {}", others.join(", "));
        let lasts = sending.timeout <= sending.longest_timeout();
        from.require(lasts, &["webhooks.lease", "webhooks.timeout"], exceeds);
        let connects = sending.connect_timeout <= sending.timeout;
        from.require(connects, &["webhooks.connect_timeout", "webhooks.timeout"], at_most);
        let share =
            usize::try_from(sending.max_in_flight_per_endpoint).is_ok_and(|share| share <= sending.max_in_flight);
        from.require(share, &["webhooks.max_in_flight_per_endpoint", "webhooks.max_in_flight"], at_most);
        let kept = sending.response_kept_bytes <= sending.response_limit_bytes;
        from.require(kept, &["webhooks.response_kept", "webhooks.response_limit"], at_most);
        let dead = sending.keep_dead >= sending.keep_finished;
        from.require(dead, &["webhooks.keep_dead", "webhooks.keep_finished"], |others| {
            format!("too short; it cannot be less than {}", others.join(", "))
        });
        for endpoint in &self.endpoints {
            let (name, terms) = (&endpoint.name, &endpoint.terms);
            if terms.timeout.is_some_and(|timeout| timeout > sending.longest_timeout()) {
                let most = duration_text(sending.longest_timeout());
                from.reject_line(format!(
                    "endpoint {name}: its timeout can be at most {most}; webhooks.lease must exceed it by {margin}"
                ));
            }
            if !sending.allows_in_flight(terms.max_in_flight) {
                from.reject_line(format!("endpoint {name}: its max_in_flight is more than webhooks.max_in_flight"));
            }
        }
    }
}

fn read_sending(from: &mut Reader, drain_timeout: Duration) -> WebhookSettings {
    WebhookSettings {
        timeout: from.duration("webhooks.timeout", TIMEOUTS),
        connect_timeout: from.duration("webhooks.connect_timeout", ms(100)..=secs(30)),
        retry_schedule: from.list("webhooks.retry_schedule", retry_schedule),
        retry_jitter_percent: from.count("webhooks.retry_jitter_percent", 0..=MAX_JITTER_PERCENT),
        lease: from.duration("webhooks.lease", secs(6)..=minutes(10)),
        max_in_flight: from.count("webhooks.max_in_flight", 1..=10_000),
        max_in_flight_per_endpoint: from.count("webhooks.max_in_flight_per_endpoint", 1..=10_000),
        response_limit_bytes: from.size("webhooks.response_limit", KIB..=16 * MIB),
        response_kept_bytes: from.size("webhooks.response_kept", 0..=64 * KIB),
        delivery_expiry: from.duration("webhooks.delivery_expiry", minutes(1)..=days(30)),
        drain_timeout,
        health: HealthRules {
            breaker_failures: from.count("webhooks.breaker_failures", 0..=1_000),
            breaker_pause: from.duration("webhooks.breaker_pause", secs(1)..=hours(1)),
            disable_after: from.duration("webhooks.disable_after", hours(1)..=days(30)),
        },
        max_endpoints: from.count("webhooks.max_endpoints", 1..=1_000),
        config_epoch: from.count("webhooks.config_epoch", 0..=1_000_000_000),
        replay_rate: from.count("webhooks.replay_rate", 1..=10_000),
        keep_finished: from.duration("webhooks.keep_finished", hours(1)..=days(3650)),
        keep_dead: from.duration("webhooks.keep_dead", hours(1)..=days(3650)),
        keep_ended_uploads: from.duration("retention.ended_uploads", hours(1)..=days(3650)),
        max_backlog_age: from.duration("webhooks.max_backlog_age", hours(1)..=days(3650)),
        max_backlog: from.count("webhooks.max_backlog", 1_000..=1_000_000_000),
        keep_hook_calls: from.count("hooks.keep_calls", 1..=100_000_000),
        max_due_age: from.duration("webhooks.max_due_age", secs(0)..=days(7)),
    }
}

pub(super) fn networks(items: Vec<&str>) -> Parsed<Vec<Network>> {
    items.into_iter().map(|item| item.parse().map_err(|why| format!("{item:?} is {why}"))).collect()
}

pub(super) fn retry_schedule(items: Vec<&str>) -> Parsed<Vec<Duration>> {
    match items.len() {
        0 => Err("empty; write at least one wait, such as 5s".to_owned()),
        1..=MAX_RETRY_WAITS => items.into_iter().map(|item| duration_item(item, &RETRY_WAITS)).collect(),
        _ => Err(format!("too long; write at most {MAX_RETRY_WAITS} waits")),
    }
}
