//! Who may write which upload: at most one writer each.
//!
//! Leases live in memory: in one process they decide who may write, and a commit's version check stands
//! behind them. Asking about an upload takes no lease. A lease knows how to reach its holder, by orders of
//! some kind `O`; what they say, and what a holder does with them, is not its business.

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

/// How many uploads may be kept open between their requests. Each has an open file.
pub const MAX_PARKED: usize = 64;

/// How many orders may wait for a holder.
const ORDERS: usize = 16;

/// Who holds which upload.
#[derive(Debug)]
pub(super) struct Leases<O> {
    live: Shared<O>,
    /// How many of them are only kept for the next request.
    parked: Arc<AtomicUsize>,
    /// Where others read how far the holders are.
    published: Arc<dyn LiveProgress>,
}

type Shared<O> = Arc<Mutex<HashMap<UploadId, Live<O>>>>;

/// A way to reach the holder of a lease.
#[derive(Debug)]
pub(super) struct Live<O> {
    orders: mpsc::Sender<O>,
    progress: Arc<WriterProgress>,
    ended: CancellationToken,
}

/// The right to write an upload. Dropping it gives it back.
pub(super) struct HeldLease<O> {
    id: UploadId,
    leases: Shared<O>,
    parked: Arc<AtomicUsize>,
    published: Arc<dyn LiveProgress>,
    pub(super) orders: mpsc::Receiver<O>,
    pub(super) progress: Arc<WriterProgress>,
    ended: CancellationToken,
}

impl<O> Clone for Live<O> {
    fn clone(&self) -> Self {
        Self { orders: self.orders.clone(), progress: Arc::clone(&self.progress), ended: self.ended.clone() }
    }
}

impl<O> fmt::Debug for HeldLease<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLease").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<O> Leases<O> {
    /// No lease is held. The progress of those who will hold one is published there.
    pub(super) fn new(published: Arc<dyn LiveProgress>) -> Self {
        Self { live: Arc::default(), parked: Arc::default(), published }
    }

    pub(super) fn live(&self, id: UploadId) -> Option<Live<O>> {
        lock(&self.live).get(&id).cloned()
    }

    /// How many uploads are being written.
    pub(super) fn count(&self) -> usize {
        lock(&self.live).len().saturating_sub(self.parked.load(Ordering::Relaxed))
    }

    /// How many leases are held, parked ones included.
    pub(super) fn held(&self) -> usize {
        lock(&self.live).len()
    }

    /// Takes the lease if it is free.
    pub(super) fn try_take(&self, id: UploadId) -> Option<HeldLease<O>> {
        let mut leases = lock(&self.live);
        if leases.contains_key(&id) {
            return None;
        }
        let (orders, received_orders) = mpsc::channel(ORDERS);
        let live = Live { orders, progress: Arc::default(), ended: CancellationToken::new() };
        leases.insert(id, live.clone());
        self.published.publish(id, counters(&live.progress));
        Some(HeldLease {
            id,
            leases: Arc::clone(&self.live),
            parked: Arc::clone(&self.parked),
            published: Arc::clone(&self.published),
            orders: received_orders,
            progress: live.progress,
            ended: live.ended,
        })
    }
}

impl<O> Live<O> {
    /// Gives an order and waits for what comes of it. `None`: the holder has ended, or does not take it.
    ///
    /// An order may get into the channel just when the holder lets go of it. Nobody takes it out then, not
    /// even to drop it, so the end of the holder is waited for as well.
    pub(super) async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> O) -> Option<T> {
        let (answer, mut answered) = oneshot::channel();
        self.orders.send(order(answer)).await.ok()?;
        tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            () = self.ended.cancelled() => answered.try_recv().ok(),
        }
    }

    /// Whether the lease is only kept for the next request.
    pub(super) fn is_parked(&self) -> bool {
        self.progress.is_parked()
    }

    /// Waits until the lease is given back.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// The same, but not for longer than `patience`.
    pub(super) async fn ended_within(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.ended()).await;
    }
}

impl<O> HeldLease<O> {
    /// Keeps the lease for the next request, without counting as a writer. Says whether there is room for
    /// that.
    pub(super) fn park(&self) -> bool {
        let room = |parked: usize| (parked < MAX_PARKED).then_some(parked + 1);
        let parked = self.parked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        if parked {
            self.progress.set_parked(true);
        }
        parked
    }

    /// Writes again.
    pub(super) fn unpark(&self) {
        if self.progress.set_parked(false) {
            self.parked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<O> Drop for HeldLease<O> {
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_order_to_a_writer_that_is_just_leaving_is_not_waited_for_for_ever() {
        let id = UploadId::new(Timestamp::from_unix_ms(1), [3; 10]);
        for _ in 0..50_000 {
            let leases = Arc::new(Leases::<oneshot::Sender<()>>::new(Arc::new(LocalProgress::default())));
            let held = leases.try_take(id).unwrap();
            let live = leases.live(id).expect("it is held");
            let asking = tokio::spawn(async move { live.ask(|answer| answer).await });
            drop(held);
            let answer = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("an end to the waiting");
            assert_eq!(answer.unwrap(), None);
        }
    }
}
