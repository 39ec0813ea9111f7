//! Reads that may go to a replica: see `replicas` for the choice of the server.
//!
//! The record of an upload that can still change in the course of its transfer is read from a replica only if
//! the client names a version or a position that the replica has reached. Whether there is such an upload is
//! decided by the primary.

use async_trait::async_trait;

use crate::PostgresStore;
use crate::replicas::ReplicaRead;
use crate::{deliveries, hook_calls, uploads};
use domain::delivery::DeliveryRecord;
use domain::hook::HookCall;
use domain::id::{DeliveryId, UploadId};
use domain::position::CommitPosition;
use domain::principal::TenantScope;
use domain::query::{DeliveryPage, DeliveryQuery, HookCallQuery, UploadPage, UploadQuery};
use domain::stage::Stage;
use domain::upload::Upload;
use state::{KnownState, Reads, Result};

#[async_trait]
impl Reads for PostgresStore {
    async fn recent_upload(&self, scope: TenantScope, id: UploadId, known: KnownState) -> Result<Option<Upload>> {
        // Without such knowledge the record may have to come from the primary anyway.
        let may_wait = known.position.is_some() || known.version.is_some();
        if let Some(replica) = self.replicas.lend(&self.readers, known.position, may_wait).await
            && let Some(Some(upload)) = usable(uploads::find(replica.source(), &self.shared.days, scope, id).await)
            && is_recent(&upload, known)
        {
            replica.answers().await;
            return Ok(Some(upload));
        }
        self.answered_by_primary(uploads::find(self.primary(), &self.shared.days, scope, id).await)
    }

    async fn recent_uploads(&self, scope: TenantScope, query: &UploadQuery, known: KnownState) -> Result<UploadPage> {
        if let Some(replica) = self.replica(known.position).await
            && let Some(page) = usable(self.read_list(replica.source(), scope, query).await)
        {
            replica.answers().await;
            return Ok(page);
        }
        self.answered_by_primary(self.read_list(self.primary(), scope, query).await)
    }

    async fn recent_deliveries(
        &self,
        scope: TenantScope,
        query: &DeliveryQuery,
        known: KnownState,
    ) -> Result<DeliveryPage> {
        if let Some(replica) = self.replica(known.position).await
            && let Some(page) = usable(deliveries::list(replica.source(), &self.shared.days, scope, query).await)
        {
            replica.answers().await;
            return Ok(page);
        }
        self.answered_by_primary(deliveries::list(self.primary(), &self.shared.days, scope, query).await)
    }

    async fn recent_delivery(
        &self,
        scope: TenantScope,
        id: DeliveryId,
        known: KnownState,
    ) -> Result<Option<DeliveryRecord>> {
        if let Some(replica) = self.replica(known.position).await
            && let Some(Some(delivery)) = usable(deliveries::find(replica.source(), &self.shared.days, scope, id).await)
        {
            replica.answers().await;
            return Ok(Some(delivery));
        }
        self.answered_by_primary(deliveries::find(self.primary(), &self.shared.days, scope, id).await)
    }

    async fn recent_hook_calls(
        &self,
        scope: TenantScope,
        query: &HookCallQuery,
        known: KnownState,
    ) -> Result<Vec<HookCall>> {
        if let Some(replica) = self.replica(known.position).await
            && let Some(calls) = usable(hook_calls::list(replica.source(), scope, query).await)
        {
            replica.answers().await;
            return Ok(calls);
        }
        self.answered_by_primary(hook_calls::list(self.primary(), scope, query).await)
    }

    async fn current_position(&self) -> Option<CommitPosition> {
        self.replicas.current_position(&self.readers).await
    }
}

impl PostgresStore {
    async fn replica(&self, known: Option<CommitPosition>) -> Option<ReplicaRead<'_>> {
        self.replicas.lend(&self.readers, known, true).await
    }

    /// Notes that a read has gone to the primary, whatever its outcome.
    fn answered_by_primary<T>(&self, outcome: Result<T>) -> Result<T> {
        self.replicas.note_primary();
        outcome
    }
}

/// Returns what was read from a replica. A replica cancels reads that delay it for too long, and it may go
/// away; the read is then repeated on the primary.
fn usable<T>(outcome: Result<T>) -> Option<T> {
    outcome
        .inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            tracing::debug!(error, "a read from a replica failed; it is repeated on the primary");
        })
        .ok()
}

/// Reports whether the record that a replica has is at least as new as anything that its reader knows.
fn is_recent(upload: &Upload, known: KnownState) -> bool {
    let record = upload.record();
    match known.version {
        Some(version) => record.version >= version,
        None => known.position.is_some() || matches!(record.stage, Stage::Completed | Stage::Ended(_)),
    }
}
