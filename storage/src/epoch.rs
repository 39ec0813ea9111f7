//! Epochs, which decide between two callers and fence out the older one.
//!
//! The right to write a blob is a lease that is kept elsewhere; each time that lease is taken over, its epoch
//! increases. The store compares epochs and nothing else: it knows neither leases nor time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::{fmt, io};

use crate::BlobKey;
use crate::lock::lock;

/// A number that grows each time a blob changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a blob that has never been taken over.
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

/// A newer caller has taken over the blob. This is the source of an error of the kind
/// [`Fenced`](crate::ErrorKind::Fenced).
#[derive(Debug, thiserror::Error)]
#[error("epoch {newest} has taken it over from epoch {ours}")]
pub struct Fenced {
    ours: Epoch,
    newest: Epoch,
}

/// Number of finished or discarded blobs that are remembered: far more than can end before a caller that has
/// lost its lease finds that out.
const MOST_ENDED: usize = 4096;

/// The newest epoch of each open blob, and of those that ended last, as far as this process has seen it.
/// Blobs that were never taken over are not listed.
#[derive(Debug, Default)]
pub struct Epochs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    blobs: HashMap<BlobKey, Newest>,
    /// Blobs that have ended, in that order, each with its number. A blob that was opened or ended again
    /// since has another number, or none.
    ended: VecDeque<(BlobKey, u64)>,
    last_number: u64,
}

#[derive(Debug)]
struct Newest {
    epoch: Epoch,
    ended: Option<u64>,
}

impl Epochs {
    /// Fences out all epochs before this one; fails if a newer one was admitted before.
    pub fn admit(&self, key: &BlobKey, epoch: Epoch) -> io::Result<()> {
        let mut known = self.known();
        let newest = known.blobs.get_mut(key);
        let known_epoch = newest.as_ref().map_or(Epoch::FIRST, |newest| newest.epoch);
        if epoch < known_epoch {
            return Err(io::Error::other(Fenced { ours: epoch, newest: known_epoch }));
        }
        match newest {
            Some(newest) => newest.epoch = epoch,
            None if epoch > Epoch::FIRST => {
                known.blobs.insert(key.clone(), Newest { epoch, ended: None });
            }
            None => {}
        }
        Ok(())
    }

    /// Records that a blob is open, so that it is not forgotten.
    pub fn begin(&self, key: &BlobKey) {
        if let Some(newest) = self.known().blobs.get_mut(key) {
            newest.ended = None;
        }
    }

    /// Records that a blob has ended. It is forgotten once many others have ended.
    pub fn end(&self, key: &BlobKey) {
        let mut known = self.known();
        let Known { blobs, ended, last_number } = &mut *known;
        let Some(newest) = blobs.get_mut(key) else { return };
        *last_number += 1;
        newest.ended = Some(*last_number);
        ended.push_back((key.clone(), *last_number));
        while ended.len() > MOST_ENDED
            && let Some((oldest, number)) = ended.pop_front()
        {
            if blobs.get(&oldest).is_some_and(|newest| newest.ended == Some(number)) {
                blobs.remove(&oldest);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
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
        epochs.end(&key);
        assert!(epochs.known().blobs.is_empty() && epochs.known().ended.is_empty());
        epochs.admit(&key, Epoch::new(3))?;
        epochs.admit(&key, Epoch::new(3))?;
        assert!(epochs.admit(&key, Epoch::new(2)).is_err());
        epochs.admit(&BlobKey::new("b")?, Epoch::FIRST)?;
        assert_eq!(epochs.known().blobs.len(), 1);
        Ok(())
    }

    #[test]
    fn blobs_that_ended_are_forgotten_when_many_others_have() -> Result<(), Box<dyn std::error::Error>> {
        let (epochs, early, reopened) = (Epochs::default(), BlobKey::new("early")?, BlobKey::new("reopened")?);
        for key in [&early, &reopened] {
            epochs.admit(key, Epoch::new(3))?;
            epochs.end(key);
        }
        epochs.admit(&reopened, Epoch::new(3))?;
        epochs.begin(&reopened);
        for number in 0..MOST_ENDED {
            assert!(number > MOST_ENDED - 2 || epochs.admit(&early, Epoch::new(2)).is_err());
            let key = BlobKey::new(format!("other/{number}"))?;
            epochs.admit(&key, Epoch::new(2))?;
            epochs.end(&key);
        }
        assert!(epochs.known().ended.len() <= MOST_ENDED && epochs.known().blobs.len() <= MOST_ENDED + 1);
        epochs.admit(&early, Epoch::new(2))?;
        assert!(epochs.admit(&reopened, Epoch::new(2)).is_err(), "it is open");
        Ok(())
    }
}
