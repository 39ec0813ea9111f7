//! The right to write an upload within this process: at most one writer each.
//!
//! These leases are kept in memory. In one process they decide who may write, and the version check of a
//! commit backs them up. Looking up a holder takes no lease. A lease offers a channel to its holder for
//! requests of some type `O`; this module knows neither their content nor how a holder handles them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::lock::lock;
use crate::progress::WriterProgress;
use domain::id::UploadId;
use state::{LiveProgress, WriterCounters};

/// Maximum number of uploads that are kept open between their requests. Each has an open file.
pub const MAX_PARKED: usize = 64;

/// Maximum number of requests that wait for a holder.
const MAX_QUEUED_REQUESTS: usize = 16;

/// The holders of the local leases, by upload.
#[derive(Debug)]
pub(super) struct LocalLeases<O> {
    holders: LeaseMap<O>,
    /// Number of leases that are parked: kept only for the next request.
    parked: Arc<AtomicUsize>,
    /// Publishes the progress of the holders to readers.
    published: Arc<dyn LiveProgress>,
}

type LeaseMap<O> = Arc<Mutex<HashMap<UploadId, LeaseHolder<O>>>>;

/// A handle for sending requests to the holder of a lease.
#[derive(Debug)]
pub(super) struct LeaseHolder<O> {
    requests: mpsc::Sender<O>,
    progress: Arc<WriterProgress>,
    ended: CancellationToken,
}

/// The right to write an upload. Dropping it releases the lease.
pub(super) struct LeaseGuard<O> {
    id: UploadId,
    leases: LeaseMap<O>,
    parked: Arc<AtomicUsize>,
    published: Arc<dyn LiveProgress>,
    pub(super) requests: mpsc::Receiver<O>,
    pub(super) progress: Arc<WriterProgress>,
    ended: CancellationToken,
}

impl<O> Clone for LeaseHolder<O> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), progress: Arc::clone(&self.progress), ended: self.ended.clone() }
    }
}

impl<O> fmt::Debug for LeaseGuard<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseGuard").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<O> LocalLeases<O> {
    /// Creates the registry without leases. The progress of future holders is published through `published`.
    pub(super) fn new(published: Arc<dyn LiveProgress>) -> Self {
        Self { holders: Arc::default(), parked: Arc::default(), published }
    }

    pub(super) fn holder(&self, id: UploadId) -> Option<LeaseHolder<O>> {
        lock(&self.holders).get(&id).cloned()
    }

    /// Returns the number of uploads that are being written. Parked leases are not counted.
    pub(super) fn count(&self) -> usize {
        lock(&self.holders).len().saturating_sub(self.parked.load(Ordering::Relaxed))
    }

    /// Returns the number of leases that are held, parked ones included.
    pub(super) fn held(&self) -> usize {
        lock(&self.holders).len()
    }

    /// Takes the lease if it is free.
    pub(super) fn try_take(&self, id: UploadId) -> Option<LeaseGuard<O>> {
        let mut leases = lock(&self.holders);
        if leases.contains_key(&id) {
            return None;
        }
        let (requests, received_requests) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let holder = LeaseHolder { requests, progress: Arc::default(), ended: CancellationToken::new() };
        leases.insert(id, holder.clone());
        Some(LeaseGuard {
            id,
            leases: Arc::clone(&self.holders),
            parked: Arc::clone(&self.parked),
            published: Arc::clone(&self.published),
            requests: received_requests,
            progress: holder.progress,
            ended: holder.ended,
        })
    }
}

impl<O> LeaseHolder<O> {
    /// Sends a request and waits for its answer. Returns `None` if the holder has ended or does not handle
    /// the request.
    ///
    /// A request may enter the channel at the moment the holder drops its end. No task receives it then, not
    /// even to drop it, so this also waits for the end of the holder.
    pub(super) async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> O) -> Option<T> {
        let (answer, mut answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            () = self.ended.cancelled() => answered.try_recv().ok(),
        }
    }

    /// Reports whether the lease is parked: kept only for the next request.
    pub(super) fn is_parked(&self) -> bool {
        self.progress.is_parked()
    }

    /// Waits until the lease is released.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Waits until the lease is released, at most `patience`.
    pub(super) async fn ended_within(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.ended()).await;
    }
}

impl<O> LeaseGuard<O> {
    /// Publishes the progress of a writer until the lease is released. Other holders of a lease, such as the
    /// sweeper, have no progress.
    pub(super) fn publish_progress(&self) {
        self.published.publish(self.id, counters(&self.progress));
    }

    /// Keeps the lease for the next request, without counting as a writer. Returns false if [`MAX_PARKED`]
    /// leases are parked.
    pub(super) fn park(&self) -> bool {
        let room = |parked: usize| (parked < MAX_PARKED).then_some(parked + 1);
        let parked = self.parked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        if parked {
            self.progress.set_parked(true);
        }
        parked
    }

    /// Counts as a writer again.
    pub(super) fn unpark(&self) {
        if self.progress.set_parked(false) {
            self.parked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<O> Drop for LeaseGuard<O> {
    fn drop(&mut self) {
        self.unpark();
        lock(&self.leases).remove(&self.id);
        self.published.withdraw(self.id, &counters(&self.progress));
        self.ended.cancel();
    }
}

fn counters(progress: &Arc<WriterProgress>) -> Arc<dyn WriterCounters> {
    Arc::<WriterProgress>::clone(progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::Timestamp;
    use state::LocalProgress;

    #[tokio::test]
    async fn only_a_writer_has_progress() {
        let id = UploadId::new(Timestamp::from_unix_ms(1), [3; 10]);
        let published = Arc::new(LocalProgress::default());
        let leases = LocalLeases::<()>::new(Arc::<LocalProgress>::clone(&published));
        let held = leases.try_take(id).unwrap();
        assert_eq!(published.of(&[id]).await, [None]);
        held.progress.accept(7);
        held.publish_progress();
        assert_eq!(published.of(&[id]).await[0].map(|reading| reading.received_bytes), Some(7));
        drop(held);
        assert_eq!(published.of(&[id]).await, [None]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_order_to_a_writer_that_is_just_leaving_is_not_waited_for_for_ever() {
        let id = UploadId::new(Timestamp::from_unix_ms(1), [3; 10]);
        for _ in 0..50_000 {
            let leases = Arc::new(LocalLeases::<oneshot::Sender<()>>::new(Arc::new(LocalProgress::default())));
            let held = leases.try_take(id).unwrap();
            let holder = leases.holder(id).expect("it is held");
            let asking = tokio::spawn(async move { holder.request(|answer| answer).await });
            drop(held);
            let answer = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("an end to the waiting");
            assert_eq!(answer.unwrap(), None);
        }
    }
}
