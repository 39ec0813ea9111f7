//! Settings of sending, for all endpoints.

use std::time::Duration;

use crate::sending::health::HealthRules;
use crate::sending::retry;
use domain::delivery::LEASE_MARGIN;

/// Defaults for endpoints without a separate value, and settings of the sender as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Timeout of a whole exchange: name lookup, connecting, TLS, headers and body.
    pub timeout: Duration,
    /// Timeout for the part before the request is sent.
    pub connect_timeout: Duration,
    /// The wait after each failure. When the schedule is used up, no attempts are left.
    pub retry_schedule: Vec<Duration>,
    /// Random deviation of a wait, at most [`MAX_JITTER_PERCENT`](crate::MAX_JITTER_PERCENT).
    pub retry_jitter_percent: u8,
    /// Time for which a claim reserves a delivery. It exceeds every exchange by [`LEASE_MARGIN`].
    pub lease: Duration,
    /// Maximum number of deliveries in flight, at least 1.
    pub max_in_flight: usize,
    /// Maximum number of deliveries in flight to one endpoint, at least 1.
    pub max_in_flight_per_endpoint: u32,
    /// Number of bytes that are read of a response body.
    pub response_limit_bytes: u64,
    /// Number of bytes that are stored of a response body.
    pub response_kept_bytes: u64,
    /// No attempt is planned for later than this after the delivery began.
    pub delivery_expiry: Duration,
    /// Time for which exchanges may continue after the stop signal.
    pub drain_timeout: Duration,
    pub health: HealthRules,
    /// The epoch of the configured endpoints: a node with a lower one than another leaves them as they are.
    pub config_epoch: u64,
    /// Maximum number of endpoints created through the API.
    pub max_endpoints: usize,
    /// Maximum number of deliveries per second that all replays queue in total.
    pub replay_rate: u32,
    /// Retention of finished deliveries and of events.
    pub keep_finished: Duration,
    /// Retention of dead deliveries.
    pub keep_dead: Duration,
    /// Retention of records of uploads that failed, expired or were terminated.
    pub keep_ended_uploads: Duration,
    /// Maximum time for which deliveries wait for an endpoint that is stopped or no longer exists.
    pub max_backlog_age: Duration,
    /// Maximum number of deliveries that wait for one endpoint.
    pub max_backlog: u64,
    /// Number of the latest hook calls that are kept, at least 1.
    pub keep_hook_calls: u64,
    /// Time for which a delivery may be due before the sender counts as unhealthy; zero for no limit.
    pub max_due_age: Duration,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            retry_schedule: retry::DEFAULT_SCHEDULE.to_vec(),
            retry_jitter_percent: 20,
            lease: Duration::from_secs(60),
            max_in_flight: 512,
            max_in_flight_per_endpoint: 16,
            response_limit_bytes: 64 << 10,
            response_kept_bytes: 4 << 10,
            delivery_expiry: Duration::from_hours(96),
            drain_timeout: Duration::from_secs(20),
            health: HealthRules::default(),
            config_epoch: 0,
            max_endpoints: 100,
            replay_rate: 200,
            keep_finished: Duration::from_hours(30 * 24),
            keep_dead: Duration::from_hours(90 * 24),
            keep_ended_uploads: Duration::from_hours(30 * 24),
            max_backlog_age: Duration::from_hours(30 * 24),
            max_backlog: 1_000_000,
            keep_hook_calls: 100_000,
            max_due_age: Duration::ZERO,
        }
    }
}

/// Error for settings that would break a promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWebhookSettings {
    #[error(
        "the lease of a delivery ({lease:?}) must exceed the timeout of an attempt ({timeout:?}) by at least \
         {LEASE_MARGIN:?}, or a delivery could be sent twice at the same time"
    )]
    ShortLease { lease: Duration, timeout: Duration },
    #[error("the retry jitter can be at most {max} percent, not {0}", max = retry::MAX_JITTER_PERCENT)]
    Jitter(u8),
    #[error("at least one delivery must be allowed in flight")]
    NothingInFlight,
}

impl WebhookSettings {
    pub fn check(&self) -> Result<(), InvalidWebhookSettings> {
        if self.timeout > self.longest_timeout() {
            return Err(InvalidWebhookSettings::ShortLease { lease: self.lease, timeout: self.timeout });
        }
        if self.retry_jitter_percent > retry::MAX_JITTER_PERCENT {
            return Err(InvalidWebhookSettings::Jitter(self.retry_jitter_percent));
        }
        if self.max_in_flight == 0 || self.max_in_flight_per_endpoint == 0 {
            return Err(InvalidWebhookSettings::NothingInFlight);
        }
        Ok(())
    }

    /// Returns the longest timeout of an exchange that the lease still outlasts.
    pub fn longest_timeout(&self) -> Duration {
        self.lease.saturating_sub(LEASE_MARGIN)
    }

    /// Reports whether an endpoint may have `own` as its limit of deliveries in flight.
    pub fn allows_in_flight(&self, own: Option<u32>) -> bool {
        own.is_none_or(|own| usize::try_from(own).is_ok_and(|own| (1..=self.max_in_flight).contains(&own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_could_end_during_an_exchange_is_refused() {
        assert_eq!(WebhookSettings::default().check(), Ok(()));
        let timeout = Duration::from_secs(15);
        let short =
            WebhookSettings { lease: timeout + LEASE_MARGIN - Duration::from_millis(1), ..WebhookSettings::default() };
        assert_eq!(short.check(), Err(InvalidWebhookSettings::ShortLease { lease: short.lease, timeout }));
        let wild = WebhookSettings { retry_jitter_percent: 51, ..WebhookSettings::default() };
        assert_eq!(wild.check(), Err(InvalidWebhookSettings::Jitter(51)));
        let idle = WebhookSettings { max_in_flight_per_endpoint: 0, ..WebhookSettings::default() };
        assert_eq!(idle.check(), Err(InvalidWebhookSettings::NothingInFlight));
    }
}
