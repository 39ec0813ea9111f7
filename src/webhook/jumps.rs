//! Time that was not there: a machine slept, or the clock was set ahead. Nothing could be sent in it, so no delivery is
//! given up for it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::time::Timestamp;

/// A clock that is ahead by more than this between two looks has jumped.
const CLOCK_JUMP: Duration = Duration::from_secs(30);

/// How far the wall clock went ahead of the time that really passed.
#[derive(Debug)]
pub(super) struct Jumps(Mutex<State>);

#[derive(Debug)]
struct State {
    seen: (Instant, Timestamp),
    ahead: Duration,
    /// When the clock jumped last.
    at: Instant,
}

impl Jumps {
    pub(super) fn none(now: Timestamp) -> Self {
        let instant = Instant::now();
        Self(Mutex::new(State { seen: (instant, now), ahead: Duration::ZERO, at: instant }))
    }

    /// An expiry with the time that was not there. Once all of the expiry has passed since a jump, whatever was there then
    /// has had all of it, and the jump is forgotten.
    pub(super) fn prolonged(&self, expiry: Duration, now: Timestamp) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = Instant::now();
        let ahead = now.since(state.seen.1).saturating_sub(instant - state.seen.0);
        state.seen = (instant, now);
        if ahead > CLOCK_JUMP {
            state.ahead = state.ahead.saturating_add(ahead);
            state.at = instant;
        } else if instant - state.at > expiry {
            state.ahead = Duration::ZERO;
        }
        expiry.saturating_add(state.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::time::sleep;

    use crate::webhook::testing::wall_clock;

    const EXPIRY: Duration = Duration::from_hours(96);

    #[tokio::test(start_paused = true)]
    async fn time_that_passed_is_no_jump() {
        let begin = wall_clock();
        let jumps = Jumps::none(begin);
        let mut by_the_clock = Duration::ZERO;
        for (passed, ahead, noted) in [(3_600, 0, 0), (60, 29, 0), (60, 31, 31), (60, 0, 31), (0, 1_000, 1_031)] {
            sleep(Duration::from_secs(passed)).await;
            by_the_clock += Duration::from_secs(passed + ahead);
            let found = jumps.prolonged(EXPIRY, begin.plus(by_the_clock)) - EXPIRY;
            assert!(found.abs_diff(Duration::from_secs(noted)) < Duration::from_millis(50), "{found:?}, not {noted} s");
        }
        let before = jumps.prolonged(EXPIRY, begin.plus(by_the_clock));
        assert_eq!(jumps.prolonged(EXPIRY, begin), before, "it was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_is_forgotten_with_what_it_was_counted_for() {
        let begin = wall_clock();
        let jumps = Jumps::none(begin);
        let day = Duration::from_hours(24);
        assert_eq!(jumps.prolonged(EXPIRY, begin.plus(day)), EXPIRY + day);
        sleep(EXPIRY).await;
        assert_eq!(jumps.prolonged(EXPIRY, begin.plus(day + EXPIRY)), EXPIRY + day);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(jumps.prolonged(EXPIRY, begin.plus(day + EXPIRY + Duration::from_secs(1))), EXPIRY);
    }
}
