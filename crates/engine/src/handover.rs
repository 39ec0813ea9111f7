//! The handover of this node's uploads to other nodes, while it continues to serve everything else.
//!
//! A node hands over while it drains, and while its clock is wrong. First it accepts no request that needs a
//! new writer; then the live writers commit what they have and end. The lease of an upload is released with
//! the writer that ends, so that any node can acquire the upload at once.

use std::error::Error;
use std::time::Duration;

use tokio::sync::watch;

use crate::command::{EngineError, Unavailable};
use crate::{Engine, Inner};
use domain::upload::Upload;

/// The time between two looks for live writers.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The progress of a handover, and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Handover {
    #[default]
    None,
    /// Live writers continue.
    Announced(Unavailable),
    /// Live writers end.
    UnderWay(Unavailable),
}

impl Handover {
    fn reason(self) -> Option<Unavailable> {
        match self {
            Self::None => None,
            Self::Announced(reason) | Self::UnderWay(reason) => Some(reason),
        }
    }

    /// Reports whether `reason` may take the place of this handover. A drain is never undone.
    fn gives_way_to(self, reason: Unavailable) -> bool {
        self.reason() != Some(Unavailable::Draining) || reason == Unavailable::Draining
    }
}

impl Engine {
    /// Rejects requests that need a new writer from now on, for `reason`.
    pub fn announce_handover(&self, reason: Unavailable) {
        self.0.handover.send_modify(|handover| {
            if handover.gives_way_to(reason) {
                *handover = Handover::Announced(reason);
            }
        });
    }

    /// Ends the live writers: they commit the bytes they have, and their leases are released. Waits at most
    /// `patience` for them. Reports whether all of them ended.
    pub async fn hand_over(&self, reason: Unavailable, patience: Duration) -> bool {
        self.0.handover.send_modify(|handover| {
            let reason = if handover.gives_way_to(reason) { reason } else { Unavailable::Draining };
            *handover = Handover::UnderWay(reason);
        });
        tokio::time::timeout(patience, self.without_writers()).await.is_ok()
    }

    /// Accepts requests again that a handover for `reason` has rejected.
    pub fn end_handover(&self, reason: Unavailable) {
        self.0.handover.send_if_modified(|handover| {
            let is_over = handover.reason() == Some(reason);
            if is_over {
                *handover = Handover::None;
            }
            is_over
        });
    }

    /// Waits until no upload is being written.
    pub async fn without_writers(&self) {
        while self.0.leases.count() > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Reports whether the shutdown has begun.
    pub fn is_shutting_down(&self) -> bool {
        self.0.stop.is_cancelled()
    }
}

impl Inner {
    /// Rejects a request that needs a new writer while this node hands over.
    pub(super) fn check_keeps_uploads(&self) -> Result<(), EngineError> {
        match self.handover.borrow().reason() {
            None => Ok(()),
            Some(reason) => Err(EngineError::Unavailable(reason)),
        }
    }

    /// Releases the lease of an upload whose writer has ended, if this node hands over. The caller still
    /// holds the local lease, so no request of this node relies on the released one.
    pub(super) async fn give_back(&self, ended: Option<&Upload>) {
        let Some(upload) = ended.filter(|upload| self.hands_over() && upload.stage().takes_bytes()) else { return };
        if let Err(error) = self.nodes.release(upload.id(), upload.record().lease).await {
            let error = &error as &dyn Error;
            tracing::warn!(upload = %upload.id(), error, "could not release the lease of an upload");
        }
    }

    /// Reports whether this node hands over its uploads, or is about to.
    pub(super) fn hands_over(&self) -> bool {
        self.handover.borrow().reason().is_some()
    }
}

/// Waits until live writers are to end, and returns the reason.
pub(super) async fn under_way(handover: &mut watch::Receiver<Handover>) -> Unavailable {
    let found = handover.wait_for(|handover| matches!(handover, Handover::UnderWay(_))).await;
    match found.ok().and_then(|handover| handover.reason()) {
        Some(reason) => reason,
        // The engine is gone, and its writers with it.
        None => std::future::pending().await,
    }
}
