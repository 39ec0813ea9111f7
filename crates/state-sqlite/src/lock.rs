//! Locks that stay usable after a panic, because the data they guard here is valid at every step.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, and releases the lock meanwhile.
pub(crate) fn wait<'a, T>(notified: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    notified.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
