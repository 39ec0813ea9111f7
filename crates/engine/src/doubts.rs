//! Uploads with a commit whose result is unknown.
//!
//! Such a commit may still take effect: a database that waits for its standby hides it until then. An upload
//! in doubt is therefore not continued before a new epoch has begun, which excludes the commit. The sweeper
//! releases the leases of those that nobody continues. An upload in doubt counts as an active one, so that
//! their number has a limit.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::lock::lock;
use domain::id::UploadId;
use domain::node::Epoch;

/// The uploads in doubt, each with the epoch of the commit.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<HashMap<UploadId, Epoch>>);

impl Doubts {
    pub(super) fn note(&self, id: UploadId, epoch: Epoch) {
        lock(&self.0).insert(id, epoch);
    }

    pub(super) fn contains(&self, id: UploadId) -> bool {
        lock(&self.0).contains_key(&id)
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Forgets an upload: a new epoch has begun.
    pub(super) fn settle(&self, id: UploadId) {
        lock(&self.0).remove(&id);
    }

    /// Forgets an upload unless a later commit is in doubt.
    pub(super) fn settle_epoch(&self, id: UploadId, epoch: Epoch) {
        let mut known = lock(&self.0);
        if known.get(&id) == Some(&epoch) {
            known.remove(&id);
        }
    }

    /// Returns some uploads in doubt.
    pub(super) fn some(&self, most: usize) -> Vec<(UploadId, Epoch)> {
        lock(&self.0).iter().take(most).map(|(id, epoch)| (*id, *epoch)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::Timestamp;

    #[test]
    fn a_later_doubt_outlives_the_end_of_an_earlier_one() {
        let doubts = Doubts::default();
        let id = UploadId::new(Timestamp::from_unix_ms(1), [1; 10]);
        let (first, second) = (Epoch::new(1), Epoch::new(2));
        doubts.note(id, first);
        assert_eq!(doubts.some(5), [(id, first)]);
        doubts.note(id, second);
        doubts.settle_epoch(id, first);
        assert!(doubts.contains(id) && doubts.count() == 1);
        doubts.settle_epoch(id, second);
        assert!(!doubts.contains(id) && doubts.some(5).is_empty());
        doubts.note(id, first);
        doubts.settle(id);
        assert_eq!(doubts.count(), 0);
    }
}
