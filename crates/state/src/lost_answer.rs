//! What became of a commit whose answer was lost.
//!
//! The connection to a database may break after it has committed and before it has said so. Whoever repeats
//! such a commit finds the version moved and takes its own work for that of another. So each commit has a
//! name, which it writes into the record, and the record is the truth.

use crate::{Error, Result, UploadStore};
use domain::id::{CommitId, UploadId};
use domain::node::Epoch;
use domain::principal::TenantScope;
use domain::upload::Upload;

/// A commit, as it is known again by the record it has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitIdentity {
    upload: UploadId,
    commit: Option<CommitId>,
    version: u64,
    epoch: Epoch,
}

impl CommitIdentity {
    /// What committing this upload will have written.
    pub fn of(upload: &Upload) -> Self {
        let record = upload.record();
        Self { upload: record.id, commit: record.commit_id, version: record.version + 1, epoch: record.lease.epoch }
    }
}

/// Gives an outcome as it is, but for one that never came: then it is read from the record what it was. If
/// the commit was not done, that is the error, and nobody else has changed anything.
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
        // Another node has taken the upload over since. Done or not, the caller may not go on with it.
        return Err(Error::Conflict(commit.upload));
    }
    if record.version == commit.version && commit.commit.is_some() && record.commit_id == commit.commit {
        return Ok(found);
    }
    // A version before it: it was not done. The same or a later one: somebody else was first, or came after.
    if record.version < commit.version {
        Err(Error::Unanswered { operation })
    } else {
        Err(Error::Conflict(commit.upload))
    }
}
