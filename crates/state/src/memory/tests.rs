//! The whole conformance suite, run on the state in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, ClockReading};
use crate::conformance::{NOW, StateFixture, bodies, change_of, cluster_record, leases, new_upload};
use crate::memory::{MemoryDatabase, MemoryState};
use crate::{LEFT_NODES_KEPT, Leases, Membership, Uploads, conformance_suite};

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

#[tokio::test]
async fn nodes_of_a_cluster_have_its_name_and_a_common_key() {
    let database = MemoryDatabase::new(bodies());
    let (first, second) = (database.open(), database.open());
    cluster_record::nodes_of_a_cluster_have_its_name_and_a_common_key(&*first, &*second).await;
}

/// scale-out C3: the record of a node that left is removed when it is old, and takeovers are unclean then.
#[tokio::test]
async fn a_node_that_left_long_ago_is_forgotten() {
    for (days, is_clean) in [(29, true), (30, false)] {
        let passed = Arc::new(AtomicU64::new(0));
        let days_passed = Arc::clone(&passed);
        let clock = Clock::new(move || {
            let running = Duration::from_hours(24 * days_passed.load(Ordering::Relaxed));
            ClockReading { time_of_day: NOW.plus(running), running }
        });
        let store = MemoryDatabase::new(bodies()).open_by(clock);
        let [left, next] = [leases::node(1), leases::node(2)];
        store.join(&left, Membership::Others, None).await.unwrap();
        let mut upload = new_upload(1);
        upload.assign_to(left.instance);
        let id = store.insert(change_of(upload)).await.unwrap().id();
        store.leave(left.instance).await.unwrap();
        passed.store(days, Ordering::Relaxed);
        store.join(&next, Membership::Others, None).await.unwrap();
        let lease = store.acquire(id, next.instance).await.unwrap().unwrap();
        assert_eq!(lease.generation < lease.epoch, is_clean, "{days} days: {lease:?}");
    }
    assert_eq!(LEFT_NODES_KEPT, Duration::from_hours(24 * 30));
}

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
