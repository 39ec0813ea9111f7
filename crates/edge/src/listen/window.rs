//! Receive windows of HTTP/2 connections.
//!
//! The server must hold what a peer sends ahead, and the rate of an upload is at most its window divided by
//! the round trip time. Each connection therefore starts with a small window, and earns a larger one when the
//! server consumes half of it within one round trip. The growth comes from a budget that all connections
//! share. It is granted as soon as that has happened, not when the round trip is over, because over a long
//! line it would come one round trip late each time.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::Connection;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// The initial window of every connection. Only a fast peer can make the server hold more.
pub const FIRST_WINDOW_BYTES: u32 = 1024 * 1024;

/// The shortest time between two measurements. Round trips on a local network are shorter and show nothing.
const MEASURE_EVERY: Duration = Duration::from_millis(10);

/// The longest round trip that counts. The peer determines when it ends, and could otherwise take any time to
/// send half a window.
const LONGEST_MEASUREMENT: Duration = Duration::from_secs(1);

/// The factors by which a window grows; the second applies if the budget is too small for the first.
const STEPS: [u32; 2] = [4, 2];

/// The budget for growth beyond the initial windows. Clones share it.
#[derive(Debug, Clone)]
pub struct WindowBudget(Arc<AtomicU64>);

impl WindowBudget {
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Returns the bytes that are left of it.
    pub fn free_bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes all of the bytes or none.
    fn take(&self, bytes: u32) -> bool {
        let less = |left: u64| left.checked_sub(bytes.into());
        // No other memory access is ordered by this count.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self, bytes: u32) {
        self.0.fetch_add(bytes.into(), Ordering::Relaxed);
    }
}

/// The number of consumed body bytes, over all requests of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct ConsumedBytes(Rc<Cell<u64>>);

impl ConsumedBytes {
    pub(super) fn add(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }
}

/// The window of one connection, and of each request on it.
pub(super) struct ReceiveWindow {
    bytes: u32,
    most: u32,
    budget: WindowBudget,
    taken: ConsumedBytes,
    ping: Option<PingPong>,
    /// True while the response to the last ping is outstanding.
    pinging: bool,
    /// The state when bytes last arrived.
    before: Mark,
    measurement: Measurement,
}

#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    taken: u64,
}

/// A measurement of the consumed bytes until a ping is answered. It includes the bytes consumed just before
/// the ping, because these may have been all that the window allows.
struct Measurement {
    since: Mark,
    /// True if the measurement has led to a larger window, about which it says nothing.
    spent: bool,
}

impl ReceiveWindow {
    pub(super) fn new<S: AsyncRead + AsyncWrite + Unpin>(
        connection: &mut Connection<S, Bytes>,
        taken: ConsumedBytes,
        most: u32,
        budget: WindowBudget,
    ) -> Self {
        let now = Mark::now(0);
        Self {
            bytes: FIRST_WINDOW_BYTES,
            most,
            budget,
            taken,
            ping: connection.ping_pong(),
            pinging: false,
            before: now,
            measurement: Measurement::since(now),
        }
    }

    /// Ready when the connection has earned a larger window. Must be polled whenever bytes arrive.
    pub(super) fn poll_earned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ping) = &mut self.ping else { return Poll::Pending };
        if self.bytes >= self.most {
            return Poll::Pending;
        }
        let now = Mark::now(self.taken.0.get());
        let before = std::mem::replace(&mut self.before, now);
        if self.pinging && !self.measurement.shows_fast_peer(now, self.bytes) {
            // After an error, the next ping fails, too.
            let _answered = ready!(ping.poll_pong(cx));
            self.pinging = false;
        }
        if !self.pinging && self.measurement.is_old(now) && ping.send_ping(Ping::opaque()).is_ok() {
            self.measurement = Measurement::since(before);
            self.pinging = true;
            // The pong cannot have arrived yet; this registers the wake-up for it.
            let _unanswered = ping.poll_pong(cx);
        }
        if !self.pinging || !self.measurement.shows_fast_peer(now, self.bytes) {
            return Poll::Pending;
        }
        self.measurement.spent = true;
        Poll::Ready(())
    }

    /// Enlarges the window as far as the budget allows.
    pub(super) fn grow<S: AsyncRead + AsyncWrite + Unpin>(&mut self, connection: &mut Connection<S, Bytes>) {
        let mut sizes = STEPS.iter().map(|step| self.bytes.saturating_mul(*step).min(self.most));
        let Some(larger) = sizes.find(|larger| self.budget.take(larger - self.bytes)) else { return };
        // The peer may not have acknowledged the last change yet. In this case a later measurement tries
        // again.
        match connection.set_initial_window_size(larger) {
            Ok(()) => {
                connection.set_target_window_size(larger);
                self.bytes = larger;
            }
            Err(_) => self.budget.give_back(larger - self.bytes),
        }
    }
}

impl Mark {
    fn now(taken: u64) -> Self {
        Self { at: Instant::now(), taken }
    }
}

impl Measurement {
    fn since(moment: Mark) -> Self {
        Self { since: moment, spent: false }
    }

    /// Returns whether half of the window was consumed since the measurement began. That is when h2 sends the
    /// peer a window update.
    fn shows_fast_peer(&self, now: Mark, window_bytes: u32) -> bool {
        let came = now.taken - self.since.taken;
        !self.spent && came >= u64::from(window_bytes / 2) && now.at - self.since.at <= LONGEST_MEASUREMENT
    }

    /// Returns whether the next measurement is due, and bytes have arrived since the last one.
    fn is_old(&self, now: Mark) -> bool {
        now.taken > self.since.taken && now.at - self.since.at >= MEASURE_EVERY
    }
}

impl Drop for ReceiveWindow {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes - FIRST_WINDOW_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_all_or_nothing_and_takes_back() {
        let budget = WindowBudget::new(100);
        assert!(budget.take(60) && !budget.clone().take(41) && budget.take(40) && !budget.take(1));
        budget.give_back(60);
        assert!(budget.take(60));
    }
    #[test]
    fn half_a_window_in_a_round_trip_is_fast_once_and_not_at_leisure() {
        let began = Mark::now(1_000);
        let later = |after, taken| Mark { at: began.at + after, taken };
        let mut measurement = Measurement::since(began);
        assert!(!measurement.is_old(later(MEASURE_EVERY / 2, 2_000)), "it has just begun");
        assert!(measurement.is_old(later(MEASURE_EVERY, 1_001)) && !measurement.is_old(later(MEASURE_EVERY, 1_000)));
        assert!(!measurement.shows_fast_peer(later(LONGEST_MEASUREMENT, 1_499), 1_000));
        assert!(measurement.shows_fast_peer(later(LONGEST_MEASUREMENT, 1_500), 1_000));
        let leisurely = later(LONGEST_MEASUREMENT + MEASURE_EVERY, 10_000);
        assert!(!measurement.shows_fast_peer(leisurely, 1_000), "the answer to its ping may have been held back");
        measurement.spent = true;
        assert!(!measurement.shows_fast_peer(later(MEASURE_EVERY, 1_500), 1_000));
    }
}
