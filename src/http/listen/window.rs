//! How far ahead the peers of HTTP/2 may send.
//!
//! What a peer sends ahead the server has to hold, and an upload can only be as fast as its window divided by the
//! round trip time. So every connection begins with a small window, and earns a larger one by filling what it has
//! within one round trip, out of a budget that all connections share.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use h2::Ping;
use h2::PingPong;
use h2::server::Connection;
use tokio::time::Instant;

use crate::http::listen::wire::Wire;

/// What every connection begins with. Nobody can make the server hold more without being fast.
pub const FIRST_WINDOW_BYTES: u32 = 1024 * 1024;

/// The shortest time between two looks at how much comes. Round trips on a local network are shorter and tell nothing.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What connections may be granted beyond their first window. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

impl Budget {
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// All of it or nothing.
    fn take(&self, bytes: u32) -> bool {
        let less = |left: u64| left.checked_sub(bytes.into());
        // Nothing else is ordered by this count.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self, bytes: u32) {
        self.0.fetch_add(bytes.into(), Ordering::Relaxed);
    }
}

/// Bytes of bodies that were taken, on all requests of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(Rc<Cell<u64>>);

impl Taken {
    pub(super) fn add(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }
}

/// The window of one connection, and of each request on it.
pub(super) struct Window {
    bytes: u32,
    most: u32,
    budget: Budget,
    taken: Taken,
    ping: Option<PingPong>,
    /// When the last look began, what had been taken by then, and whether its answer is still on the way.
    looked_at: Instant,
    taken_then: u64,
    looking: bool,
}

impl Window {
    pub(super) fn new(connection: &mut Connection<&mut Wire, Bytes>, taken: Taken, most: u32, budget: Budget) -> Self {
        Self {
            bytes: FIRST_WINDOW_BYTES,
            most,
            budget,
            taken,
            ping: connection.ping_pong(),
            looked_at: Instant::now(),
            taken_then: 0,
            looking: false,
        }
    }

    /// Ready when the connection has earned a larger window. Wants to be polled whenever something comes.
    pub(super) fn poll_earned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ping) = &mut self.ping else { return Poll::Pending };
        while self.bytes < self.most {
            if self.looking {
                let answered = ready!(ping.poll_pong(cx)).is_ok();
                self.looking = false;
                let came = self.taken.0.get() - self.taken_then;
                // The protocol's own bookkeeping lets the peer go on when half of a window is taken.
                if answered && came >= u64::from(self.bytes / 2) {
                    return Poll::Ready(());
                }
            }
            let worth_a_look = self.taken.0.get() > self.taken_then && self.looked_at.elapsed() >= LOOK_EVERY;
            // A connection that cannot be pinged is about to end.
            if !worth_a_look || ping.send_ping(Ping::opaque()).is_err() {
                break;
            }
            self.looked_at = Instant::now();
            self.taken_then = self.taken.0.get();
            self.looking = true;
        }
        Poll::Pending
    }

    /// Doubles the window, if the budget allows.
    pub(super) fn grow(&mut self, connection: &mut Connection<&mut Wire, Bytes>) {
        let larger = self.bytes.saturating_mul(2).min(self.most);
        let more = larger - self.bytes;
        if !self.budget.take(more) {
            return;
        }
        // The peer may not have agreed to the last change yet; then there is another look.
        match connection.set_initial_window_size(larger) {
            Ok(()) => {
                connection.set_target_window_size(larger);
                self.bytes = larger;
            }
            Err(_) => self.budget.give_back(more),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes - FIRST_WINDOW_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_all_or_nothing_and_takes_back() {
        let budget = Budget::new(100);
        assert!(budget.take(60) && !budget.clone().take(41) && budget.take(40) && !budget.take(1));
        budget.give_back(60);
        assert!(budget.take(60));
    }
}
