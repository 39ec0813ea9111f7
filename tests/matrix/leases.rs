//! The nodes and leases of the state, with faults. Each change of a lease is checked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::id::{InstanceId, UploadId};
use domain::node::{Lease, Node};
use domain::principal::TenantScope;
use state::memory::MemoryState;
use state::{Leases, Membership, Uploads};

use crate::court::Court;
use crate::faults::Call;
use crate::model::Promised;
use crate::records::Records;
use crate::script::Wire;

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Leases for Records {
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> state::Result<()> {
        self.call(Wire::Heartbeat, self.inner.join(node, membership, lasts)).await
    }

    async fn renew(&self, node: InstanceId, lasts: Duration) -> state::Result<bool> {
        let inner = Arc::clone(&self.inner);
        self.change(Call::Renew, async move { inner.renew(node, lasts).await }).await
    }

    async fn nodes(&self) -> state::Result<Vec<Node>> {
        self.call(Wire::Heartbeat, self.inner.nodes()).await
    }

    async fn drain(&self, node: InstanceId) -> state::Result<bool> {
        self.call(Wire::Heartbeat, self.inner.drain(node)).await
    }

    async fn leave(&self, node: InstanceId) -> state::Result<()> {
        self.call(Wire::Heartbeat, self.inner.leave(node)).await
    }

    async fn acquire(&self, upload: UploadId, by: InstanceId) -> state::Result<Option<Lease>> {
        let (inner, court) = (Arc::clone(&self.inner), self.court.clone());
        let work = async move {
            let before = held_by_another(&inner, upload, by).await?;
            let lease = inner.acquire(upload, by).await?;
            check_kept(&court, upload, before, lease);
            Ok(lease)
        };
        self.change(Call::Acquire, work).await
    }

    async fn seize(&self, upload: UploadId, seen: Lease, by: InstanceId) -> state::Result<Option<Lease>> {
        let (inner, court) = (Arc::clone(&self.inner), self.court.clone());
        let has_not_answered = seen.holder.is_some_and(|holder| self.unanswered.contains(upload, holder));
        let work = async move {
            let before = held_by_another(&inner, upload, by).await?;
            let lease = inner.seize(upload, seen, by).await?;
            check_kept(&court, upload, before.filter(|before| *before != seen || !has_not_answered), lease);
            Ok(lease)
        };
        self.change(Call::Seize, work).await
    }

    async fn release(&self, upload: UploadId, held: Lease) -> state::Result<()> {
        if self.faults.process().writes(upload) {
            let how = format!("{upload} was released while its blob was open");
            self.court.bench().model.breaks(Promised::ReleasedUploadsAreClosed, how);
        }
        let inner = Arc::clone(&self.inner);
        self.change(Call::Release, async move { inner.release(upload, held).await }).await
    }
}

/// Returns the lease of an upload that a live node other than `by` holds.
async fn held_by_another(state: &MemoryState, upload: UploadId, by: InstanceId) -> state::Result<Option<Lease>> {
    let nodes = state.nodes().await?;
    let found = state.find(TenantScope::All, upload).await?.map(|upload| upload.record().lease);
    let is_live = |holder| holder != by && nodes.iter().any(|node| node.instance == holder);
    Ok(found.filter(|lease| lease.holder.is_some_and(is_live)))
}

/// Checks that the lease of a live node has stayed as it was.
fn check_kept(court: &Court, upload: UploadId, before: Option<Lease>, after: Option<Lease>) {
    if let Some(before) = before.filter(|before| after != Some(*before)) {
        let how = format!("{upload} was taken from a live node that was not asked in vain: {before:?}, then {after:?}");
        court.bench().model.breaks(Promised::LiveHoldersAreAsked, how);
    }
}
