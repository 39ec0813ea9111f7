//! The whole conformance suite, run on the state in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, ClockReading};
use crate::conformance::{NOW, StateFixture, bodies, leases};
use crate::memory::{MemoryDatabase, MemoryState};
use crate::{Leases, Membership, conformance_suite};

impl StateFixture for MemoryDatabase {
    type Store = MemoryState;

    fn new() -> Self {
        Self::new(bodies())
    }

    async fn open(&self) -> Arc<MemoryState> {
        Self::open(self)
    }

    fn transactions(store: &MemoryState) -> u64 {
        store.transactions()
    }
}

conformance_suite!(MemoryDatabase);

/// Only the clock of the state determines which nodes are alive, so that it is the same for all, and tests
/// can advance it.
#[tokio::test]
async fn whether_a_node_is_alive_is_judged_by_the_clock_of_the_state() {
    let seconds = Arc::new(AtomicU64::new(0));
    let passed = Arc::clone(&seconds);
    let clock = Clock::new(move || {
        let running = Duration::from_secs(passed.load(Ordering::Relaxed));
        ClockReading { time_of_day: NOW.plus(running), running }
    });
    let store = MemoryDatabase::new(bodies()).open_by(clock);
    let node = leases::node(1);
    store.join(&node, Membership::Others, Some(Duration::from_secs(10))).await.unwrap();
    seconds.store(9, Ordering::Relaxed);
    assert!(store.renew(node.instance, Duration::from_secs(10)).await.unwrap());
    seconds.store(18, Ordering::Relaxed);
    assert!(store.renew(node.instance, Duration::from_secs(10)).await.unwrap());
    seconds.store(28, Ordering::Relaxed);
    assert!(!store.renew(node.instance, Duration::from_secs(10)).await.unwrap());
}
