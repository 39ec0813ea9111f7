//! The nodes at work on a state, and which of them writes which upload.
//!
//! A lease has no end of its own: it lasts as long as its node counts as alive. So a node that holds ten
//! thousand uploads has one thing to say, that it lives, and taking an upload up again that it holds already
//! writes nothing. Whoever takes an upload over raises its epoch, and the commits of the one before fail from
//! then on. Whether a node counts as alive is judged by the clock of the state, which is the same for all.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::Result;
use domain::id::{InstanceId, UploadId};
use domain::node::{Lease, Node};

/// What a node knows of others when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// No other node works on this state: those that are recorded are dead.
    Alone,
    /// Others may be at work.
    Others,
}

/// Nodes, and the uploads they hold.
#[async_trait]
pub trait Leases: fmt::Debug + Send + Sync + 'static {
    /// Records that a node is at work. It counts as alive until it leaves or one joins that is alone; with
    /// `lasts`, no longer than that after it joined or was last renewed.
    async fn join(&self, node: &Node, membership: Membership, lasts: Option<Duration>) -> Result<()>;

    /// Has a node count as alive for another `lasts`. Says whether it did until now; one that did not stays
    /// dead, for others may have taken what it held.
    async fn renew(&self, node: InstanceId, lasts: Duration) -> Result<bool>;

    /// Takes a node out. Everything it holds may be taken by others.
    async fn leave(&self, node: InstanceId) -> Result<()>;

    /// Takes an upload for a node that counts as alive, unless the upload is with another that does. Gives
    /// the lease as it is then; `None` when there is no such upload. A node that holds the upload keeps it in
    /// the same epoch.
    async fn acquire(&self, upload: UploadId, by: InstanceId) -> Result<Option<Lease>>;
}
