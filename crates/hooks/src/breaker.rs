//! A circuit breaker. After several consecutive failures it opens and blocks calls for a while; then one call
//! probes the hook.
//!
//! While a hook is down, its clients get one quick rejection each instead of waiting for a whole timeout.
//!
//! The breaker of a webhook endpoint is separate: it is stored with the endpoint's health, also considers the
//! failure rate, and its pauses end at wall-clock times. The two share only the names of their three states.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Breaker {
    /// Number of consecutive failures that opens the breaker.
    failures: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One call probes whether the hook works again.
    HalfOpen,
}

/// The permission to make one call. If a probe's permit is dropped without a result, the next call probes.
#[derive(Debug)]
pub(super) struct CallPermit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_complete: bool,
}

impl Breaker {
    pub(super) fn new(failures: u32, pause: Duration) -> Self {
        Self { failures, pause, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Reports whether a call would be blocked now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        match *self.lock() {
            State::Closed { .. } => false,
            State::Open { until } => now < until,
            State::HalfOpen => true,
        }
    }

    /// Returns a permit if a call may be made now.
    pub(super) fn admit(&self, now: Instant) -> Option<CallPermit<'_>> {
        let mut state = self.lock();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } if now >= until => true,
            State::Open { .. } | State::HalfOpen => return None,
        };
        if is_probe {
            *state = State::HalfOpen;
        }
        Some(CallPermit { breaker: self, is_probe, is_complete: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallPermit<'_> {
    /// Records the result of the call.
    pub(super) fn complete(mut self, worked: bool, now: Instant) {
        self.is_complete = true;
        let breaker = self.breaker;
        let mut state = breaker.lock();
        *state = match *state {
            _ if worked => State::Closed { failures: 0 },
            State::Closed { failures } if failures + 1 < breaker.failures => State::Closed { failures: failures + 1 },
            State::HalfOpen if !self.is_probe => State::HalfOpen,
            State::Open { until } => State::Open { until },
            State::Closed { .. } | State::HalfOpen => State::Open { until: now + breaker.pause },
        };
    }
}

impl Drop for CallPermit<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_complete {
            // The caller has gone without a result. The next call probes.
            *self.breaker.lock() = State::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.admit(now).unwrap().complete(false, now);
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_one_call_tries() {
        let breaker = Breaker::new(3, PAUSE);
        let now = Instant::now();
        fail(&breaker, now);
        fail(&breaker, now);
        breaker.admit(now).unwrap().complete(true, now);
        fail(&breaker, now);
        fail(&breaker, now);
        assert!(!breaker.is_open(now), "a success between them");
        fail(&breaker, now);
        assert!(breaker.is_open(now) && breaker.admit(now).is_none());

        let later = now + PAUSE;
        assert!(!breaker.is_open(later));
        let permit = breaker.admit(later).unwrap();
        assert!(breaker.is_open(later) && breaker.admit(later).is_none(), "one tries at a time");
        permit.complete(false, later);
        assert!(breaker.admit(later + PAUSE / 2).is_none());
        breaker.admit(later + PAUSE).unwrap().complete(true, later + PAUSE);
        assert!(breaker.admit(later + PAUSE).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_given_up_leaves_the_next_one_free() {
        let breaker = Breaker::new(1, PAUSE);
        fail(&breaker, Instant::now());
        tokio::time::advance(PAUSE).await;
        drop(breaker.admit(Instant::now()).unwrap());
        assert!(breaker.admit(Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_changes_nothing_but_by_success() {
        let breaker = Breaker::new(1, PAUSE);
        let now = Instant::now();
        let (first, second, third) =
            (breaker.admit(now).unwrap(), breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
        first.complete(false, now);
        let later = now + PAUSE;
        let trying = breaker.admit(later).unwrap();
        second.complete(false, later);
        assert!(breaker.is_open(later));
        trying.complete(false, later);
        third.complete(true, later);
        assert!(!breaker.is_open(later), "any success closes the breaker");
    }
}
