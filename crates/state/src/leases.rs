//! Nodes of a state, and their leases on uploads.
//!
//! A lease has no expiry: it lasts as long as its node counts as alive. A node that holds ten thousand
//! uploads therefore renews a single row, and acquiring an upload that it already holds writes nothing. A
//! takeover raises the epoch of the upload, and the commits of the previous holder fail from then on. The
//! clock of the state, which is the same for all nodes, determines which nodes count as alive.
//!
//! A takeover is clean if the previous holder has closed the blob of the upload: it has released the lease,
//! or its node has left. After any other takeover it may still be writing, and the lease gets a new
//! generation.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::Result;
use domain::id::{InstanceId, UploadId};
use domain::node::{Lease, Node};

/// The time for which a node that has left is remembered. A takeover from it is clean until then.
pub const LEFT_NODES_KEPT: Duration = Duration::from_hours(30 * 24);

/// The knowledge of a joining node about other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// No other node works on this state: all recorded nodes are dead.
    Alone,
    /// Other nodes may be at work.
    Others,
}

/// Nodes, and their leases on uploads.
#[async_trait]
pub trait Leases: fmt::Debug + Send + Sync + 'static {
    /// Records that a node is at work. It counts as alive until it leaves or a node joins with
    /// [`Membership::Alone`]. With `lasts` it counts as alive at most that long after it joined or was last
    /// renewed.
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> Result<()>;

    /// Extends the time for which a node counts as alive to `lasts` from now. Returns true if it counted as
    /// alive until now. A node that did not stays dead, because others may have taken over its uploads.
    async fn renew(&self, node: InstanceId, lasts: Duration) -> Result<bool>;

    /// Returns the nodes that count as alive, in the order of their instance ids.
    async fn nodes(&self) -> Result<Vec<Node>>;

    /// Records that a node is to hand over its work. Returns true if it counts as alive.
    async fn drain(&self, node: InstanceId) -> Result<bool>;

    /// Records that a live node has closed the blobs of all its uploads and writes no more. Other nodes may
    /// then take over everything it holds, and for [`LEFT_NODES_KEPT`] such a takeover is clean. A node that
    /// counts as dead stays dead: others may have taken over its uploads, and nothing says when it stopped.
    async fn leave(&self, node: InstanceId) -> Result<()>;

    /// Acquires an upload for a live node, unless another live node holds it. Returns the resulting lease, or
    /// `None` if there is no such upload. A node that already holds the upload keeps it in the same epoch.
    /// The takeover is clean if the last holder has released the lease or its node has left.
    async fn acquire(&self, upload: UploadId, by: InstanceId) -> Result<Option<Lease>>;

    /// Takes over an upload for a live node from a holder that counts as alive but does not respond.
    /// Changes nothing unless `seen` is still the current lease, so only one node takes over if several
    /// abandon the same holder. The takeover is unclean. Returns the resulting lease, or `None` if there is
    /// no such upload.
    async fn seize(&self, upload: UploadId, seen: Lease, by: InstanceId) -> Result<Option<Lease>>;

    /// Ends a lease whose holder has closed the blob of the upload, so that any node may acquire it and
    /// continue in that blob. Changes nothing unless `held` is still the current lease.
    async fn release(&self, upload: UploadId, held: Lease) -> Result<()>;
}
