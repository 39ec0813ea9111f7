//! Uploads: one record each, protected by its version and its epoch.
//!
//! A commit writes an upload, its events and their deliveries atomically. A commit that read an older
//! version, or works in an older epoch, fails and changes nothing.

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
    /// Writes a new upload, its events and their deliveries. Returns the upload as committed.
    async fn insert(&self, new: Change) -> Result<Upload>;

    /// Writes the current upload, its new events and their deliveries, if no commit was made since it was
    /// read and it is still in the epoch it was read in. Returns the upload as committed. After
    /// [`Error::Conflict`](crate::Error::Conflict) nothing has changed.
    async fn commit(&self, change: Change) -> Result<Upload>;

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>>;

    /// Returns a page of matching uploads, newest first. A record that cannot be read is logged and skipped,
    /// here and by [`Self::due`].
    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage>;

    /// Returns uploads that need work by the sweeper of a node, oldest first, without the first `skip` of
    /// them. Uploads held by another live node are excluded.
    async fn due(&self, selection: SweepSelection, share: SweepShare, skip: u32, limit: u32) -> Result<Vec<Upload>>;

    /// Returns the number of uploads whose bytes are known to be missing. Cheap, however many they are.
    async fn count_missing(&self) -> Result<u64>;
}

/// The uploads that the sweeper of a node takes care of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepShare {
    /// Those that the node holds.
    Own(InstanceId),
    /// Those that the node holds, and those that no live node holds.
    OwnAndFree(InstanceId),
}

/// The conditions that the sweeper selects uploads by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepSelection {
    /// Interrupted between two stages: received (and not partial), verified or stored; or a final upload that
    /// is still created.
    Unsettled,
    /// Open although every byte is present and no further request is needed: the commit that should have
    /// sealed it was not made.
    Unsealed,
    /// Open, or a partial upload with all its bytes, and past its expiry at this instant.
    Expired { now: Timestamp },
    /// Receiving, and last changed before this instant.
    Silent { since: Timestamp },
    /// Open, or a partial upload with all its bytes, last changed after `now` and with an expiry after
    /// `latest`.
    Overlong { now: Timestamp, latest: Timestamp },
    /// Receiving, and last changed after this instant.
    ChangedAfter { now: Timestamp },
    /// Ended, or completed with its file marked for removal, and its bytes not deleted yet.
    Removable,
    /// Completed before this instant, with its file still kept.
    Outdated { completed_before: Timestamp },
}
