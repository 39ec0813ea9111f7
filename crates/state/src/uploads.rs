//! Uploads: one record each, with the version and the epoch as the law.
//!
//! A commit writes an upload, its events and their deliveries together or not at all. A commit that read an
//! older version, or works in an older epoch, fails and changes nothing.

use std::fmt;

use async_trait::async_trait;

use crate::{Change, Result};
use domain::id::{InstanceId, UploadId};
use domain::principal::TenantScope;
use domain::query::{UploadPage, UploadQuery};
use domain::time::Timestamp;
use domain::upload::Upload;

/// Uploads, written with the events they cause.
#[async_trait]
pub trait Uploads: fmt::Debug + Send + Sync + 'static {
    /// Writes a new upload, its events and their deliveries. Gives it back as committed.
    async fn insert(&self, new: Change) -> Result<Upload>;

    /// Writes the upload as it is now, its new events and their deliveries, if nobody has committed since it
    /// was read and it is still in the epoch it was read in. Gives it back as committed; on
    /// [`Error::Conflict`](crate::Error::Conflict) nothing has changed.
    async fn commit(&self, change: Change) -> Result<Upload>;

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>>;

    /// Uploads that match, newest first, a page at a time. A record that cannot be read is logged and passed
    /// over, here and among those that are [due](Self::due).
    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage>;

    /// Uploads that want something done by the sweeper of a node, oldest first, after passing over the first
    /// `skip` of them. What another node holds that counts as alive is left to that one.
    async fn due(&self, selection: SweepSelection, node: InstanceId, skip: u32, limit: u32) -> Result<Vec<Upload>>;
}

/// What the sweeper may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepSelection {
    /// Stopped between two stages: received (and not partial), verified or
    /// stored; or a final upload still created.
    Unsettled,
    /// Open although every byte is there and nobody is to say another
    /// word: a commit was to seal it and did not.
    Unsealed,
    /// Open, or a partial at rest, and past its time at this instant.
    Expired { now: Timestamp },
    /// Receiving, and last changed before this instant.
    Silent { since: Timestamp },
    /// Open, or a partial at rest, last changed after `now` and to expire after `latest`.
    Overlong { now: Timestamp, latest: Timestamp },
    /// Receiving, and last changed after this instant.
    ChangedAfter { now: Timestamp },
    /// Ended, or completed and its file given up, with bytes not yet removed.
    Removable,
    /// Completed before this instant, and its file is kept.
    Outdated { completed_before: Timestamp },
    /// Its bytes are known to be missing.
    Missing,
}
