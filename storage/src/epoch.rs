//! Which of two callers is the newer, and what an older one is told.
//!
//! Whoever may write a blob holds a lease on it elsewhere; each time that lease is taken over its epoch
//! rises. The store compares epochs and nothing else: it knows neither leases nor time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::{fmt, io};

use crate::BlobKey;
use crate::lock::lock;

/// Counts how often a blob has changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a blob that has never been taken over from anyone.
    pub const FIRST: Self = Self(1);

    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The caller has lost its blob to a newer one. It is the source of an error of the kind
/// [`Fenced`](crate::ErrorKind::Fenced).
#[derive(Debug, thiserror::Error)]
#[error("epoch {newest} has taken it over from epoch {ours}")]
pub(crate) struct Fenced {
    ours: Epoch,
    newest: Epoch,
}

/// The newest epoch of each open blob, as far as this process has seen it. Blobs
/// that were never taken over are not listed.
#[derive(Debug, Default)]
pub(crate) struct Epochs(Mutex<HashMap<BlobKey, Epoch>>);

impl Epochs {
    /// Shuts out all epochs before this one; fails if a newer one has come before.
    pub(crate) fn admit(&self, key: &BlobKey, epoch: Epoch) -> io::Result<()> {
        let mut newest = self.newest();
        let known = newest.get(key).copied().unwrap_or(Epoch::FIRST);
        if epoch < known {
            return Err(io::Error::other(Fenced { ours: epoch, newest: known }));
        }
        if epoch > known {
            newest.insert(key.clone(), epoch);
        }
        Ok(())
    }

    /// Forgets a blob that nobody writes to any more.
    pub(crate) fn forget(&self, key: &BlobKey) {
        self.newest().remove(key);
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<BlobKey, Epoch>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blobs_that_were_taken_over_are_remembered() -> Result<(), Box<dyn std::error::Error>> {
        let (epochs, key) = (Epochs::default(), BlobKey::new("a")?);
        epochs.admit(&key, Epoch::FIRST)?;
        assert!(epochs.newest().is_empty());
        epochs.admit(&key, Epoch::new(3))?;
        epochs.admit(&key, Epoch::new(3))?;
        assert!(epochs.admit(&key, Epoch::new(2)).is_err());
        epochs.admit(&BlobKey::new("b")?, Epoch::FIRST)?;
        assert_eq!(epochs.newest().len(), 1);
        epochs.forget(&key);
        assert!(epochs.newest().is_empty());
        Ok(())
    }
}
