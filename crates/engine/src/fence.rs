//! The self-fencing of a node that has lost contact with the state.
//!
//! Other nodes take over the uploads of a node that they count as dead. Its commits then fail, but it must
//! also stop reporting offsets, because another node may have advanced them. Therefore a node that has not
//! confirmed its heartbeat for a while, by a monotonic clock, stops before others may count it as dead. A
//! writer that began before such a loss ends, even if the contact is restored before it notices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
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
    contact: Mutex<Contact>,
    /// Wakes those that wait when the fence is closed before its time, or opened again.
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Contact {
    open_until: Instant,
    /// Number of times that the fence was opened after it had been closed. A process that was stopped may
    /// find an open fence when it continues, and must not miss that it was closed meanwhile.
    reopened: u64,
}

/// Notices that a fence was closed after this value was created, even if it is open again.
#[derive(Debug, Clone)]
pub(super) struct FenceWatch(Option<(Fence, u64)>);

impl Fence {
    /// Creates a fence that is open. It closes `lasts` after the last contact.
    pub fn new(lasts: Duration) -> Self {
        let contact = Contact { open_until: Instant::now() + lasts, reopened: 0 };
        Self(Arc::new(FenceState { lasts, contact: Mutex::new(contact), changed: Notify::new() }))
    }

    /// Records a contact that began at `at`: the state has answered a call that was made then.
    pub fn renew(&self, at: Instant) {
        let mut contact = lock(&self.0.contact);
        let open_until = contact.open_until.max(at + self.0.lasts);
        if contact.open_until <= Instant::now() && open_until > contact.open_until {
            contact.reopened += 1;
            self.0.changed.notify_waiters();
        }
        contact.open_until = open_until;
    }

    /// Closes the fence until the next contact: the state no longer counts this node as alive.
    pub fn close(&self) {
        let mut contact = lock(&self.0.contact);
        contact.open_until = contact.open_until.min(Instant::now());
        self.0.changed.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        self.contact().open_until <= Instant::now()
    }

    /// Waits until the fence is closed.
    pub async fn closed(&self) {
        self.until(|contact| contact.open_until <= Instant::now()).await;
    }

    async fn until(&self, is_over: impl Fn(Contact) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            let contact = self.contact();
            if is_over(contact) {
                return;
            }
            let _ = tokio::time::timeout_at(contact.open_until, changed).await;
        }
    }

    fn contact(&self) -> Contact {
        *lock(&self.0.contact)
    }
}

impl FenceWatch {
    /// Waits until the fence was closed.
    pub(super) async fn closed(&self) {
        let Some((fence, reopened)) = &self.0 else { return std::future::pending().await };
        fence.until(|contact| contact.reopened != *reopened || contact.open_until <= Instant::now()).await;
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

    /// Watches for a loss of contact from now on.
    pub(super) fn watch_contact(&self) -> FenceWatch {
        FenceWatch(self.fence.as_ref().map(|fence| (fence.clone(), fence.contact().reopened)))
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
    /// The node was stopped for longer than others count it as alive, and its heartbeat continues first.
    #[tokio::test(start_paused = true)]
    async fn a_loss_of_contact_is_noticed_after_the_next_contact() {
        let fence = Fence::new(Duration::from_secs(3));
        let watch = FenceWatch(Some((fence.clone(), 0)));
        let waiting = tokio::spawn(async move { watch.closed().await });
        tokio::task::yield_now().await;
        fence.renew(Instant::now());
        assert!(!waiting.is_finished(), "it was open all the time");
        fence.close();
        fence.renew(Instant::now());
        assert!(!fence.is_closed());
        let began = Instant::now();
        waiting.await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        let next = FenceWatch(Some((fence.clone(), 1)));
        next.closed().await;
        assert_eq!(began.elapsed().as_secs(), 3, "a writer that began afterwards continues");
    }
}
