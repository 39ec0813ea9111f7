//! Reads that a copy of the state may answer, if the copy is new enough.
//!
//! Every other port reads what was committed before the call. These reads may miss the latest commits of
//! other processes, but nothing that the caller names as known, and nothing that this process has returned
//! before.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Deliveries, Result, UploadStore};
use domain::delivery::DeliveryRecord;
use domain::hook::HookCall;
use domain::id::{DeliveryId, UploadId};
use domain::position::CommitPosition;
use domain::principal::TenantScope;
use domain::query::{DeliveryPage, DeliveryQuery, HookCallQuery, UploadPage, UploadQuery};
use domain::upload::Upload;

/// The knowledge of the caller of a read, which the answer must include.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownState {
    /// The position after a commit whose effects are known.
    pub position: Option<CommitPosition>,
    /// The version of the upload, for a read of a single one.
    pub version: Option<u64>,
}

/// Reads for programs and people outside. None of them is the basis of a write.
#[async_trait]
pub trait Reads: fmt::Debug + Send + Sync + 'static {
    /// Finds an upload. One that can still receive bytes is read from a copy only if the caller's knowledge
    /// shows that the copy is new enough; and only the state itself decides that there is no such upload.
    async fn recent_upload(&self, scope: TenantScope, id: UploadId, known: KnownState) -> Result<Option<Upload>>;

    /// Returns a page of uploads like [`Uploads::list`](crate::Uploads::list).
    async fn recent_uploads(&self, scope: TenantScope, query: &UploadQuery, known: KnownState) -> Result<UploadPage>;

    /// Returns a page of deliveries like [`Deliveries::deliveries`].
    async fn recent_deliveries(
        &self,
        scope: TenantScope,
        query: &DeliveryQuery,
        known: KnownState,
    ) -> Result<DeliveryPage>;

    async fn recent_delivery(
        &self,
        scope: TenantScope,
        id: DeliveryId,
        known: KnownState,
    ) -> Result<Option<DeliveryRecord>>;

    /// Returns hook calls like [`HookCalls::hook_calls`](crate::HookCalls::hook_calls).
    async fn recent_hook_calls(
        &self,
        scope: TenantScope,
        query: &HookCallQuery,
        known: KnownState,
    ) -> Result<Vec<HookCall>>;

    /// Returns a position after everything that was committed before the call. Later reads through this port
    /// find all of it. `None` if there are no copies, or the position cannot be determined now.
    async fn current_position(&self) -> Option<CommitPosition>;
}

/// Reads from a state without copies.
#[derive(Debug, Clone)]
pub struct DirectReads {
    pub uploads: Arc<dyn UploadStore>,
    pub deliveries: Arc<dyn Deliveries>,
}

#[async_trait]
impl Reads for DirectReads {
    async fn recent_upload(&self, scope: TenantScope, id: UploadId, _: KnownState) -> Result<Option<Upload>> {
        self.uploads.find(scope, id).await
    }

    async fn recent_uploads(&self, scope: TenantScope, query: &UploadQuery, _: KnownState) -> Result<UploadPage> {
        self.uploads.list(scope, query).await
    }

    async fn recent_deliveries(
        &self,
        scope: TenantScope,
        query: &DeliveryQuery,
        _: KnownState,
    ) -> Result<DeliveryPage> {
        self.deliveries.deliveries(scope, query).await
    }

    async fn recent_delivery(
        &self,
        scope: TenantScope,
        id: DeliveryId,
        _: KnownState,
    ) -> Result<Option<DeliveryRecord>> {
        self.deliveries.delivery(scope, id).await
    }

    async fn recent_hook_calls(
        &self,
        scope: TenantScope,
        query: &HookCallQuery,
        _: KnownState,
    ) -> Result<Vec<HookCall>> {
        self.uploads.hook_calls(scope, query).await
    }

    async fn current_position(&self) -> Option<CommitPosition> {
        None
    }
}
