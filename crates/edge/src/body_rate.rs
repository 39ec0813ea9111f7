//! The minimum rate of a request's body.
//!
//! Only the time in which the server waits for the body counts. A server that reads nothing because its
//! memory or its disk is busy therefore never ends a request for its rate. There is no timer: a client that
//! sends nothing is ended by the idle timeout, and the rate of a client that sends a little is checked
//! whenever bytes arrive.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// The rate that the body of a request must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MinRate {
    pub(crate) bytes_per_second: u64,
    /// The time over which the rate is averaged.
    pub(crate) window: Duration,
}

/// The time in which a request of a connection did not accept bytes. Over HTTP/2, one such request can keep
/// the others from receiving theirs. Clones belong to the same connection.
#[derive(Debug, Clone, Default)]
pub struct Pauses(Rc<State>);

#[derive(Debug, Default)]
struct State {
    paused: Cell<u32>,
    since: Cell<Option<Instant>>,
    total: Cell<Duration>,
}

/// A pause, which ends when it is dropped.
#[derive(Debug)]
pub struct Pause(Pauses);

/// The measured rate of the body of one request.
#[derive(Debug)]
pub(crate) struct BodyRate {
    least: MinRate,
    pauses: Pauses,
    /// Bytes that arrived in the current window.
    bytes: u64,
    waited: Duration,
    /// The start of the current wait, and the total of the pauses up to then.
    waiting: Option<(Instant, Duration)>,
}

impl Pauses {
    pub fn begin(&self) -> Pause {
        if self.0.paused.replace(self.0.paused.get() + 1) == 0 {
            self.0.since.set(Some(Instant::now()));
        }
        Pause(self.clone())
    }

    fn total(&self, now: Instant) -> Duration {
        self.0.total.get() + self.0.since.get().map_or(Duration::ZERO, |since| now - since)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let state = &self.0.0;
        state.paused.set(state.paused.get() - 1);
        if state.paused.get() == 0 {
            state.total.set(self.0.total(Instant::now()));
            state.since.set(None);
        }
    }
}

impl BodyRate {
    pub(crate) fn new(least: MinRate, pauses: Pauses) -> Self {
        Self { least, pauses, bytes: 0, waited: Duration::ZERO, waiting: None }
    }

    /// Records that the body was polled and no bytes were available.
    pub(crate) fn on_pending(&mut self) {
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some((now, self.pauses.total(now)));
        }
    }

    /// Records that bytes arrived. Returns whether the minimum rate is kept.
    pub(crate) fn on_bytes(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let Some((since, paused)) = self.waiting.take() else { return true };
        let now = Instant::now();
        self.waited += (now - since).saturating_sub(self.pauses.total(now) - paused);
        if self.waited < self.least.window {
            return true;
        }
        let wanted = u128::from(self.least.bytes_per_second) * self.waited.as_millis() / 1_000;
        let kept = u128::from(self.bytes) >= wanted;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: MinRate = MinRate { bytes_per_second: 64, window: Duration::from_secs(60) };

    /// Returns how long a body is accepted that sends `bytes` bytes after each wait; `None` if it is still
    /// accepted after an hour.
    async fn lasts(bytes: usize, wait: Duration, between: impl AsyncFn(&Pauses)) -> Option<Duration> {
        let pauses = Pauses::default();
        let mut rate = BodyRate::new(LEAST, pauses.clone());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3_600) {
            rate.on_pending();
            tokio::time::advance(wait).await;
            rate.on_pending();
            if !rate.on_bytes(bytes) {
                return Some(began.elapsed());
            }
            between(&pauses).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_below_the_rate_is_ended_after_the_window() {
        let second = Duration::from_secs(1);
        assert_eq!(lasts(10, second, async |_| {}).await, Some(60 * second));
        assert_eq!(lasts(64, second, async |_| {}).await, None);
        assert_eq!(lasts(64 * 50, 50 * second, async |_| {}).await, None, "only the average counts");
        assert_eq!(lasts(1, 59 * second, async |_| {}).await, Some(118 * second));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_is_taken_does_not_count() {
        let busy = async |_: &Pauses| tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(lasts(64, Duration::from_secs(1), busy).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_not_ended_for_another_that_is_not_taken() {
        let pauses = Pauses::default();
        let mut rate = BodyRate::new(LEAST, pauses.clone());
        for _ in 0..100 {
            rate.on_pending();
            let one = pauses.begin();
            tokio::time::advance(Duration::from_secs(10)).await;
            let other = pauses.begin();
            drop(one);
            tokio::time::advance(Duration::from_secs(10)).await;
            drop(other);
            assert!(rate.on_bytes(1));
        }
    }
}
