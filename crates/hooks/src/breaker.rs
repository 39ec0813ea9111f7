//! A circuit breaker: after several failures in a row nothing is asked for a while; then one call tries.
//!
//! So a hook that is down costs its clients one quick refusal each, and not a whole timeout.
//!
//! The breaker of a webhook endpoint is another thing: it is stored with the endpoint's health, also judges
//! the share of failures, and its pauses are times of day. What the two have in common is three names for
//! states.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Breaker {
    /// This many failures in a row open it.
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
    /// One call tries whether it works again.
    Trying,
}

/// The right to make one call. Dropped without a result it leaves things as they were.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    tries: bool,
    settled: bool,
}

impl Breaker {
    pub(super) fn new(failures: u32, pause: Duration) -> Self {
        Self { failures, pause, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Whether a call would be refused now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        match *self.lock() {
            State::Closed { .. } => false,
            State::Open { until } => now < until,
            State::Trying => true,
        }
    }

    /// Lets a call through, if one may be made now.
    pub(super) fn admit(&self, now: Instant) -> Option<Pass<'_>> {
        let mut state = self.lock();
        let tries = match *state {
            State::Closed { .. } => false,
            State::Open { until } if now >= until => true,
            State::Open { .. } | State::Trying => return None,
        };
        if tries {
            *state = State::Trying;
        }
        Some(Pass { breaker: self, tries, settled: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Notes how the call went.
    pub(super) fn settle(mut self, worked: bool, now: Instant) {
        self.settled = true;
        let breaker = self.breaker;
        let mut state = breaker.lock();
        *state = match *state {
            _ if worked => State::Closed { failures: 0 },
            State::Closed { failures } if failures + 1 < breaker.failures => State::Closed { failures: failures + 1 },
            State::Trying if !self.tries => State::Trying,
            State::Open { until } => State::Open { until },
            State::Closed { .. } | State::Trying => State::Open { until: now + breaker.pause },
        };
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.tries && !self.settled {
            // Whoever wanted to know has gone. The next call tries.
            *self.breaker.lock() = State::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.admit(now).unwrap().settle(false, now);
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_one_call_tries() {
        let breaker = Breaker::new(3, PAUSE);
        let now = Instant::now();
        fail(&breaker, now);
        fail(&breaker, now);
        breaker.admit(now).unwrap().settle(true, now);
        fail(&breaker, now);
        fail(&breaker, now);
        assert!(!breaker.is_open(now), "a success between them");
        fail(&breaker, now);
        assert!(breaker.is_open(now) && breaker.admit(now).is_none());

        let later = now + PAUSE;
        assert!(!breaker.is_open(later));
        let pass = breaker.admit(later).unwrap();
        assert!(breaker.is_open(later) && breaker.admit(later).is_none(), "one tries at a time");
        pass.settle(false, later);
        assert!(breaker.admit(later + PAUSE / 2).is_none());
        breaker.admit(later + PAUSE).unwrap().settle(true, later + PAUSE);
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
        first.settle(false, now);
        let later = now + PAUSE;
        let trying = breaker.admit(later).unwrap();
        second.settle(false, later);
        assert!(breaker.is_open(later));
        trying.settle(false, later);
        third.settle(true, later);
        assert!(!breaker.is_open(later), "it works, whoever found out");
    }
}
