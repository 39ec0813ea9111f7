//! The self-fencing of a node that has lost contact with the state.
//!
//! Other nodes take over the uploads of a node that they count as dead. Its commits then fail, but it must
//! also stop reporting offsets, because another node may have advanced them. Therefore a node that has not
//! confirmed its heartbeat for a while, by a monotonic clock, stops before others may count it as dead.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::command::{EngineError, Unavailable};
use crate::lock::lock;
use crate::{Engine, Inner};

/// Closed while a node has no confirmed contact with the state. Clones are the same fence.
#[derive(Debug, Clone)]
pub struct Fence(Arc<FenceState>);

#[derive(Debug)]
struct FenceState {
    lasts: Duration,
    open_until: Mutex<Instant>,
}

impl Fence {
    /// Creates a fence that is open. It closes `lasts` after the last contact.
    pub fn new(lasts: Duration) -> Self {
        Self(Arc::new(FenceState { lasts, open_until: Mutex::new(Instant::now() + lasts) }))
    }

    /// Records a contact that began at `at`: the state has answered a call that was made then.
    pub fn renew(&self, at: Instant) {
        let mut until = lock(&self.0.open_until);
        *until = (*until).max(at + self.0.lasts);
    }

    pub fn is_closed(&self) -> bool {
        self.open_until() <= Instant::now()
    }

    /// Waits until the fence is closed.
    pub async fn closed(&self) {
        while !self.is_closed() {
            tokio::time::sleep_until(self.open_until()).await;
        }
    }

    fn open_until(&self) -> Instant {
        *lock(&self.0.open_until)
    }
}

impl Engine {
    /// Stops receiving and reporting bytes while `fence` is closed.
    #[must_use]
    pub fn fenced_by(mut self, fence: Fence) -> Self {
        Arc::get_mut(&mut self.0).expect("an engine is given its fence before it is shared").fence = Some(fence);
        self
    }
}

impl Inner {
    pub(super) fn check_contact(&self) -> Result<(), EngineError> {
        let is_closed = self.fence.as_ref().is_some_and(Fence::is_closed);
        if is_closed { Err(EngineError::Unavailable(Unavailable::Fenced)) } else { Ok(()) }
    }

    /// Waits until this node has lost contact with the state.
    pub(super) async fn lost_contact(&self) {
        match &self.fence {
            Some(fence) => fence.closed().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fence_closes_when_contact_is_lost_and_opens_with_the_next() {
        let fence = Fence::new(Duration::from_secs(3));
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        fence.renew(began + Duration::from_secs(1));
        fence.renew(began);
        fence.closed().await;
        assert_eq!(began.elapsed().as_secs(), 4, "an older contact shortens nothing");
        assert!(fence.is_closed());
        fence.renew(Instant::now());
        assert!(!fence.is_closed());
    }
}
