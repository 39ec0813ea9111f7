//! A limited number of slots, counted across threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// At most `limit` slots, which can be taken concurrently.
#[derive(Debug, Clone)]
pub(super) struct ConnectionSlots {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// A slot, released when dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot(Arc<AtomicUsize>);

impl ConnectionSlots {
    pub(super) fn new(limit: usize) -> Self {
        Self::counted(limit, Arc::default())
    }

    /// Creates `limit` slots. The number of slots in use can be read from `taken`.
    pub(super) fn counted(limit: usize, taken: Arc<AtomicUsize>) -> Self {
        Self { taken, limit }
    }

    /// Takes a slot, if one is free.
    pub(super) fn take(&self) -> Option<ConnectionSlot> {
        let one_more = |taken| (taken < self.limit).then_some(taken + 1);
        // No other memory access is ordered by this count.
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(ConnectionSlot(Arc::clone(&self.taken)))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are_and_each_comes_back() {
        let slots = ConnectionSlots::new(2);
        let first = slots.take().unwrap();
        let second = slots.take();
        assert!(second.is_some() && slots.clone().take().is_none());
        drop(first);
        assert!(slots.take().is_some());
        assert!(ConnectionSlots::new(0).take().is_none());
    }
}
