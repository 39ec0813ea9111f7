//! Watches for tasks that spin. On a clock that stands still while anything is busy, these would keep a run
//! from ever ending; real time is the only way to tell.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

/// A run whose thread was not idle for this long is taken to spin.
const LIMIT: Duration = Duration::from_secs(8);

/// The dog of one thread. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Watchdog(Arc<Beats>);

#[derive(Debug, Default)]
struct Beats {
    count: AtomicU64,
    bark: Notify,
}

impl Watchdog {
    /// Starts to watch the runs of this thread, until this is dropped.
    pub fn start() -> Self {
        let watchdog = Self::default();
        let watched = Arc::downgrade(&watchdog.0);
        std::thread::spawn(move || watch(&watched));
        watchdog
    }

    /// Notes that the thread has nothing to do just now.
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
