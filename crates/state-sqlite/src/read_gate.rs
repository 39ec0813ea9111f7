//! A gate in front of long reads, which the writer closes while it resets the write-ahead log.
//!
//! SQLite can restart the log only at a moment when no reader uses it. Long reads that overlap leave no such
//! moment, and the log grows as long as they do. While the gate is closed, no long read begins, and running
//! ones are interrupted within about a thousand steps; they restart when the gate is open.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use crate::lock::{lock, wait};

#[derive(Default)]
pub(super) struct ReadGate {
    is_closed: AtomicBool,
    /// Locked to change `is_closed`, so that no waiting read misses the opening.
    changing: Mutex<()>,
    opened: Condvar,
}

impl fmt::Debug for ReadGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadGate").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl ReadGate {
    /// Closes the gate until the returned value is dropped.
    pub(super) fn close(&self) -> impl Drop + '_ {
        self.set(true);
        ClosedGate(self)
    }

    /// Waits until the gate is open.
    pub(super) fn pass(&self) {
        let mut changing = lock(&self.changing);
        while self.is_closed() {
            changing = wait(&self.opened, changing);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn set(&self, is_closed: bool) {
        let _changing = lock(&self.changing);
        self.is_closed.store(is_closed, Ordering::Release);
        self.opened.notify_all();
    }
}

struct ClosedGate<'a>(&'a ReadGate);

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
