//! Watches for tasks that spin. The clock stands still while any task is busy, so a spinning task would keep
//! a run from ever ending; only real time reveals it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

/// A run whose thread has not been idle for this long is considered to spin.
const LIMIT: Duration = Duration::from_secs(8);

/// The watchdog of one thread. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Watchdog(Arc<Beats>);

#[derive(Debug, Default)]
struct Beats {
    count: AtomicU64,
    bark: Notify,
}

impl Watchdog {
    /// Starts to watch the runs of this thread, until the returned value is dropped.
    pub fn start() -> Self {
        let watchdog = Self::default();
        let watched = Arc::downgrade(&watchdog.0);
        std::thread::spawn(move || watch(&watched));
        watchdog
    }

    /// Records that the thread is idle now.
    pub fn beat(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the thread has been busy for too long.
    pub async fn barked(&self) {
        self.0.bark.notified().await;
    }
}

fn watch(watched: &Weak<Beats>) {
    let mut before = None;
    while let Some(beats) = watched.upgrade() {
        let count = beats.count.load(Ordering::Relaxed);
        if before.replace(count) == Some(count) {
            beats.bark.notify_waiters();
        }
        drop(beats);
        std::thread::sleep(LIMIT);
    }
}
