//! The requests for uploads that a node has made to their holders, and that were not answered: only then may
//! it take an upload from a live node that has not released it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::id::{InstanceId, UploadId};

/// The unanswered requests of one node. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Unanswered(Arc<Mutex<BTreeSet<(UploadId, InstanceId)>>>);

impl Unanswered {
    /// Records a request for an upload to its holder.
    pub fn asks(&self, upload: UploadId, holder: InstanceId) {
        self.lock().insert((upload, holder));
    }

    /// Records the answer of a holder.
    pub fn answered(&self, upload: UploadId, holder: InstanceId) {
        self.lock().remove(&(upload, holder));
    }

    pub fn contains(&self, upload: UploadId, holder: InstanceId) -> bool {
        self.lock().contains(&(upload, holder))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(UploadId, InstanceId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
