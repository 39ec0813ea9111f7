//! The circuit breaker of an endpoint, and changes of its health.
//!
//! Several nodes send to one endpoint. Each reports the attempts it has made as a [`HealthChange`], and a
//! store applies the changes one after the other, so the health counts the attempts of all nodes. The
//! breaker is part of the health: it opens and closes for all of them.

use std::time::Duration;

use crate::endpoint::Health;
use crate::time::Timestamp;

/// State of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    /// Nothing is sent before `until`.
    Open {
        until: Timestamp,
    },
    /// One delivery may be sent as a probe.
    HalfOpen,
}

impl BreakerState {
    /// Returns the state of a breaker that is open until a time. It stays open for at most `longest_pause`:
    /// an end beyond that was set by a clock that was ahead.
    pub fn of(open_until: Option<Timestamp>, longest_pause: Duration, now: Timestamp) -> Self {
        match open_until {
            None => Self::Closed,
            Some(until) if now < until && until <= now.plus(longest_pause) => Self::Open { until },
            Some(_) => Self::HalfOpen,
        }
    }
}

/// The effect of some attempts on the health of their endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthChange {
    /// True if an attempt succeeded, which clears all failures before it. The other fields tell what
    /// followed.
    pub has_succeeded: bool,
    /// The number of failed attempts.
    pub failures: u32,
    /// The time of the first of them.
    pub failing_since: Option<Timestamp>,
    /// The number of deliveries that failed for good.
    pub exhausted: u32,
    /// The time until which the breaker was opened.
    pub opened_until: Option<Timestamp>,
    /// The time from which an open breaker permits a probe, if an operator brings that forward.
    pub probe_at: Option<Timestamp>,
    /// Progress toward being disabled at the last warning, in percent.
    pub warned_percent: u8,
}

impl HealthChange {
    /// Permits a probe at once if the breaker is open.
    pub fn probe(now: Timestamp) -> Self {
        Self { probe_at: Some(now), ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns this change followed by another.
    #[must_use]
    pub fn then(self, next: &Self) -> Self {
        if next.has_succeeded {
            return *next;
        }
        let both = Health::default().after(&Self { probe_at: None, ..self }).after(&Self { probe_at: None, ..*next });
        Self {
            has_succeeded: self.has_succeeded,
            failures: both.consecutive_failures,
            failing_since: both.failing_since,
            exhausted: both.exhausted,
            opened_until: both.open_until,
            probe_at: next.probe_at.or(self.probe_at),
            warned_percent: both.warned_percent,
        }
    }
}

impl Health {
    /// Returns the health after a change. The failures of several nodes add up, and a success at any of them
    /// clears those before it.
    #[must_use]
    pub fn after(self, change: &HealthChange) -> Self {
        let before = if change.has_succeeded { Self::default() } else { self };
        let opened = change.opened_until.or(before.open_until);
        let probed = opened.zip(change.probe_at).map(|(until, at)| until.min(at));
        Self {
            consecutive_failures: before.consecutive_failures.saturating_add(change.failures),
            failing_since: match (before.failing_since, change.failing_since) {
                (Some(before), Some(since)) => Some(before.min(since)),
                (before, since) => before.or(since),
            },
            exhausted: before.exhausted.saturating_add(change.exhausted),
            open_until: probed.or(opened),
            warned_percent: before.warned_percent.max(change.warned_percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_300_290_000).plus(Duration::from_secs(seconds))
    }

    fn failed(failures: u32, since: u64) -> HealthChange {
        HealthChange { failures, failing_since: Some(at(since)), ..HealthChange::default() }
    }

    /// scale-out C9.
    #[test]
    fn failures_at_two_nodes_add_up() {
        let one = HealthChange { exhausted: 1, ..failed(6, 7) };
        let other = HealthChange { warned_percent: 50, opened_until: Some(at(50)), ..failed(5, 3) };
        let both = Health::default().after(&one).after(&other);
        assert_eq!(both, Health::default().after(&other).after(&one));
        let expected = Health {
            consecutive_failures: 11,
            failing_since: Some(at(3)),
            exhausted: 1,
            open_until: Some(at(50)),
            warned_percent: 50,
        };
        assert_eq!(both, expected);
        assert_eq!(both.after(&HealthChange::default()), both);
        assert_eq!(Health::default().after(&one.then(&other)), both);
    }

    #[test]
    fn a_success_clears_what_was_before_it() {
        let failing = Health::default().after(&HealthChange { opened_until: Some(at(9)), ..failed(12, 1) });
        let worked = HealthChange { has_succeeded: true, ..HealthChange::default() };
        assert_eq!(failing.after(&worked), Health::default());
        let failed_again = HealthChange { has_succeeded: true, ..failed(2, 5) };
        let expected = Health { consecutive_failures: 2, failing_since: Some(at(5)), ..Health::default() };
        assert_eq!(failing.after(&failed_again), expected);
        assert_eq!(failing.after(&worked.then(&failed(2, 5))), expected);
        assert_eq!(failing.after(&failed(9, 2).then(&worked)), Health::default());
    }

    #[test]
    fn a_probe_is_brought_forward_only_while_the_breaker_is_open() {
        let open = Health { open_until: Some(at(30)), ..Health::default() };
        let pause = Duration::from_secs(60);
        let breaker = |health: Health| BreakerState::of(health.open_until, pause, at(1));
        assert_eq!(breaker(open), BreakerState::Open { until: at(30) });
        let probed = open.after(&HealthChange::probe(at(1)));
        assert_eq!(breaker(probed), BreakerState::HalfOpen);
        assert_eq!(probed.after(&HealthChange::probe(at(5))), probed);
        assert_eq!(Health::default().after(&HealthChange::probe(at(1))), Health::default());
    }

    #[test]
    fn an_end_beyond_any_pause_does_not_keep_the_breaker_open() {
        let ahead = BreakerState::of(Some(at(86_400)), Duration::from_secs(60), at(0));
        assert_eq!(ahead, BreakerState::HalfOpen);
    }
}
