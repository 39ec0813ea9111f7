//! A bounded number of something, counted across threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// This many may be taken at once.
#[derive(Debug, Clone)]
pub(super) struct Places {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// One of them, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self::counted(limit, Arc::default())
    }

    /// This many, and how many are taken can be read in `taken`.
    pub(super) fn counted(limit: usize, taken: Arc<AtomicUsize>) -> Self {
        Self { taken, limit }
    }

    /// One of them, if one is left.
    pub(super) fn take(&self) -> Option<Place> {
        let one_more = |taken| (taken < self.limit).then_some(taken + 1);
        // Nothing else is ordered by this count.
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Place(Arc::clone(&self.taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are_and_each_comes_back() {
        let places = Places::new(2);
        let first = places.take().unwrap();
        let second = places.take();
        assert!(second.is_some() && places.clone().take().is_none());
        drop(first);
        assert!(places.take().is_some());
        assert!(Places::new(0).take().is_none());
    }
}
