//! The outcome of a commit whose reply was lost.
//!
//! The connection to a database may break after a commit and before its reply. A caller that repeats such a
//! commit finds the version moved and mistakes its own work for that of another. Each commit therefore has an
//! identifier, which it writes into the record; the record then shows whether the commit was made.

use crate::{Error, Result, UploadStore};
use domain::id::{CommitId, UploadId};
use domain::node::Epoch;
use domain::principal::TenantScope;
use domain::upload::Upload;

/// The values by which a commit is recognized in the record it has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitIdentity {
    upload: UploadId,
    commit: Option<CommitId>,
    version: u64,
    epoch: Epoch,
}

impl CommitIdentity {
    pub fn upload(&self) -> UploadId {
        self.upload
    }

    /// Returns the epoch of the lease under which the commit is made.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the identity of the commit that will write this upload.
    pub fn of(upload: &Upload) -> Self {
        let record = upload.record();
        Self { upload: record.id, commit: record.commit_id, version: record.version + 1, epoch: record.lease.epoch }
    }
}

/// Returns an outcome unchanged if it is known. If the reply was lost, reads the record and returns the
/// outcome it shows. [`Error::Unanswered`] then means that the commit was not made and that no other caller
/// has changed the upload.
pub async fn resolve_lost_answer(
    store: &dyn UploadStore,
    commit: CommitIdentity,
    outcome: Result<Upload>,
) -> Result<Upload> {
    let Err(Error::Unanswered { operation }) = outcome else { return outcome };
    let Some(found) = store.find(TenantScope::All, commit.upload).await? else {
        return Err(Error::Unanswered { operation });
    };
    let record = found.record();
    if record.lease.epoch != commit.epoch {
        // Another node has taken over the upload since. Even if the commit was made, the caller may not
        // continue.
        return Err(Error::Conflict(commit.upload));
    }
    if record.version == commit.version && commit.commit.is_some() && record.commit_id == commit.commit {
        return Ok(found);
    }
    // A lower version: the commit was not made. The same or a higher one: another commit was made before or
    // after it.
    if record.version < commit.version {
        Err(Error::Unanswered { operation })
    } else {
        Err(Error::Conflict(commit.upload))
    }
}
