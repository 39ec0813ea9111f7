//! One writer per upload, newest wins.
//!
//! Leases live in memory: in one process they decide who may write, and a commit's version check stands behind them.
//! Asking about an upload takes no lease.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::Parked;
use crate::command::{Append, EngineError, Unavailable};
use crate::feed::Feed;
use domain::id::UploadId;
use domain::rejection::Rejection;
use domain::size::Offset;
use domain::stage::Ended;

/// Who holds which upload.
#[derive(Debug, Default)]
pub(super) struct Leases {
    live: Arc<Mutex<HashMap<UploadId, Live>>>,
    /// How many of them are only kept for the next request.
    parked: Arc<AtomicUsize>,
}

/// How many uploads may be kept open between their requests. Each has an open file.
pub const MAX_PARKED: usize = 64;

/// A way to talk to the holder of a lease.
#[derive(Debug, Clone)]
pub(super) struct Live {
    orders: mpsc::Sender<Order>,
    progress: Arc<LiveProgress>,
    ended: CancellationToken,
}

/// What others may ask of a live writer.
#[derive(Debug)]
pub(super) enum Order {
    /// Commit what is there, then answer; go on.
    Checkpoint(oneshot::Sender<()>),
    /// Hand everything over to the next request. Only a writer that is parked does.
    Resume(oneshot::Sender<Parked>),
    /// Take the bytes of one more request. Only a writer that takes bytes in any order does.
    Join { command: Box<Append>, answer: oneshot::Sender<Result<Feed, NotJoined>> },
    /// End without committing more. With `at`, only if that is the committed offset; else the answer is that offset.
    Yield { at: Option<Offset>, fate: Option<Fate>, answer: oneshot::Sender<Result<(), Offset>> },
}

/// The outcome of ending an upload whose lease was taken from a writer. It is known once the end is committed.
#[derive(Debug, Clone)]
pub(super) struct Fate(watch::Receiver<Option<Ended>>);

impl Fate {
    /// Returns the error for the requests of the previous writer: gone if the upload has ended, else superseded.
    pub(super) async fn answer_to(fate: Option<Self>) -> EngineError {
        let taken_over = EngineError::Unavailable(Unavailable::Superseded);
        let Some(Self(mut ended)) = fate else { return taken_over };
        let Ok(ended) = ended.wait_for(Option::is_some).await else { return taken_over };
        ended.map_or(taken_over, |how| Rejection::Gone(how).into())
    }
}

impl Order {
    /// Whether whoever gave it waits no longer. Carrying it out would serve nobody, and could end a writer whose client is
    /// there.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Checkpoint(answer) => answer.is_closed(),
            Self::Resume(answer) => answer.is_closed(),
            Self::Join { answer, .. } => answer.is_closed(),
            Self::Yield { answer, .. } => answer.is_closed(),
        }
    }
}

/// Why a request did not join the writer of its upload.
#[derive(Debug)]
pub(super) enum NotJoined {
    /// The writer takes bytes in order, from one request.
    InOrder,
    Refused(EngineError),
}

/// The right to write an upload. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Held {
    id: UploadId,
    leases: Arc<Mutex<HashMap<UploadId, Live>>>,
    parked: Arc<AtomicUsize>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) progress: Arc<LiveProgress>,
    ended: CancellationToken,
}

impl Leases {
    pub(super) fn live(&self, id: UploadId) -> Option<Live> {
        lock(&self.live).get(&id).cloned()
    }

    pub(super) fn progress(&self, id: UploadId) -> Option<Arc<LiveProgress>> {
        lock(&self.live).get(&id).map(|live| Arc::clone(&live.progress))
    }

    /// How many uploads are being written.
    pub(super) fn count(&self) -> usize {
        lock(&self.live).len().saturating_sub(self.parked.load(Ordering::Relaxed))
    }

    /// How many leases are held, parked ones included.
    pub(super) fn held(&self) -> usize {
        lock(&self.live).len()
    }

    /// What the last request has left open for the next one, if it has.
    pub(super) async fn resume(&self, id: UploadId) -> Option<Parked> {
        let live = self.live(id).filter(|live| live.progress.is_parked())?;
        live.ask(Order::Resume).await
    }

    /// Takes the lease if it is free.
    pub(super) fn try_take(&self, id: UploadId) -> Option<Held> {
        let mut leases = lock(&self.live);
        if leases.contains_key(&id) {
            return None;
        }
        let (orders, received_orders) = mpsc::channel(16);
        let live = Live { orders, progress: Arc::default(), ended: CancellationToken::new() };
        leases.insert(id, live.clone());
        Some(Held {
            id,
            leases: Arc::clone(&self.live),
            parked: Arc::clone(&self.parked),
            orders: received_orders,
            progress: live.progress,
            ended: live.ended,
        })
    }

    /// Takes the lease, ending the writer that has it. With `at`, a writer is ended only if its committed offset is
    /// that one: a request that would be refused anyway disturbs nobody.
    pub(super) async fn take(&self, id: UploadId, at: Option<Offset>, patience: Duration) -> Result<Held, EngineError> {
        self.claim(id, at, None, patience).await
    }

    /// Takes the lease to end the upload. The requests of the previous writer are answered once the sender has reported how
    /// the upload ended, or was dropped.
    pub(super) async fn take_to_end(
        &self,
        id: UploadId,
        patience: Duration,
    ) -> Result<(Held, watch::Sender<Option<Ended>>), EngineError> {
        let (ended, fate) = watch::channel(None);
        let held = self.claim(id, None, Some(Fate(fate)), patience).await?;
        Ok((held, ended))
    }

    async fn claim(
        &self,
        id: UploadId,
        at: Option<Offset>,
        fate: Option<Fate>,
        patience: Duration,
    ) -> Result<Held, EngineError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(held) = self.try_take(id) {
                return Ok(held);
            }
            let Some(live) = self.live(id) else { continue };
            tokio::time::timeout_at(deadline, live.make_way(at, fate.clone()))
                .await
                .map_err(|_| EngineError::Unavailable(Unavailable::Held))??;
        }
    }
}

impl Live {
    /// Gives an order and waits for what comes of it. `None`: the writer has ended, or does not take it.
    ///
    /// An order may get into the channel just when the writer lets go of it. Nobody takes it out then, not even to drop
    /// it, so the end of the writer is waited for as well.
    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, mut answered) = oneshot::channel();
        self.orders.send(order(answer)).await.ok()?;
        tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            () = self.ended.cancelled() => answered.try_recv().ok(),
        }
    }

    /// Asks the writer to end, and waits until it has.
    async fn make_way(&self, at: Option<Offset>, fate: Option<Fate>) -> Result<(), Rejection> {
        // A writer that takes no orders any more is about to end by itself.
        let answer = self.ask(|answer| Order::Yield { at, fate, answer }).await;
        if let (Some(theirs), Some(Err(ours))) = (at, answer) {
            return Err(Rejection::WrongOffset { ours, theirs });
        }
        self.ended.cancelled().await;
        Ok(())
    }

    /// Hands a request to the writer. `None`: it has ended.
    pub(super) async fn join(&self, command: Append) -> Option<Result<Feed, NotJoined>> {
        let command = Box::new(command);
        let answer = self.ask(|answer| Order::Join { command, answer }).await;
        if answer.is_none() {
            self.ended.cancelled().await;
        }
        answer
    }

    /// Asks the writer to commit what it has; waits until it did, ended, or took too long.
    pub(super) async fn checkpoint(&self, patience: Duration) {
        let asked = async {
            if self.ask(Order::Checkpoint).await.is_none() {
                self.ended.cancelled().await;
            }
        };
        // Too slow: the committed row still tells the truth, only a little older.
        let _ = tokio::time::timeout(patience, asked).await;
    }

    pub(super) async fn ended(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.ended.cancelled()).await;
    }
}

impl Held {
    /// Keeps the lease for the next request, without counting as a writer. Says whether there is room for that.
    pub(super) fn park(&self) -> bool {
        let room = |parked: usize| (parked < MAX_PARKED).then_some(parked + 1);
        let parked = self.parked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        if parked {
            self.progress.is_parked.store(true, Ordering::Release);
        }
        parked
    }

    /// Writes again.
    pub(super) fn unpark(&self) {
        if self.progress.is_parked.swap(false, Ordering::AcqRel) {
            self.parked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.unpark();
        lock(&self.leases).remove(&self.id);
        self.ended.cancel();
    }
}

fn lock(leases: &Mutex<HashMap<UploadId, Live>>) -> std::sync::MutexGuard<'_, HashMap<UploadId, Live>> {
    leases.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a live upload is getting on, readable by anyone without a lock.
#[derive(Debug)]
pub(super) struct LiveProgress {
    began: Instant,
    accepted_bytes: AtomicU64,
    /// The offset as committed by the writer; zero before its first commit.
    committed_bytes: AtomicU64,
    /// When bytes last came, in milliseconds after `began`.
    accepted_at_ms: AtomicU64,
    bytes_per_second: AtomicU64,
    is_parked: AtomicBool,
}

impl Default for LiveProgress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            accepted_bytes: AtomicU64::default(),
            committed_bytes: AtomicU64::default(),
            accepted_at_ms: AtomicU64::default(),
            bytes_per_second: AtomicU64::default(),
            is_parked: AtomicBool::default(),
        }
    }
}

impl LiveProgress {
    /// A rate measured longer ago than this says nothing about now.
    const RATE_FADES_AFTER: Duration = Duration::from_secs(3);

    /// Bytes taken from the client so far, committed or not, counted from the start of the upload.
    pub(super) fn accepted_bytes(&self) -> u64 {
        self.accepted_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn committed_bytes(&self) -> u64 {
        self.committed_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn commit(&self, offset_bytes: u64) {
        self.committed_bytes.store(offset_bytes, Ordering::Relaxed);
    }

    fn is_parked(&self) -> bool {
        self.is_parked.load(Ordering::Acquire)
    }

    /// A smoothed rate; zero until there is one, and when bytes have ceased to come.
    pub(super) fn bytes_per_second(&self) -> u64 {
        let accepted_at = Duration::from_millis(self.accepted_at_ms.load(Ordering::Relaxed));
        if self.began.elapsed().saturating_sub(accepted_at) > Self::RATE_FADES_AFTER {
            return 0;
        }
        self.bytes_per_second.load(Ordering::Relaxed)
    }

    pub(super) fn accept(&self, total_bytes: u64) {
        self.accepted_bytes.store(total_bytes, Ordering::Relaxed);
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.accepted_at_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn set_rate(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }
}

/// Measures the rate of a live upload: half the weight on the last second, half on what was before.
#[derive(Debug)]
pub(super) struct RateMeter {
    since: Instant,
    bytes_before: u64,
    smoothed: Option<u64>,
}

impl RateMeter {
    const WINDOW: Duration = Duration::from_millis(500);

    pub(super) fn start(total_bytes: u64) -> Self {
        Self { since: Instant::now(), bytes_before: total_bytes, smoothed: None }
    }

    /// Takes the bytes so far; gives a new rate when a window has passed.
    pub(super) fn observe(&mut self, total_bytes: u64) -> Option<u64> {
        let elapsed = self.since.elapsed();
        if elapsed < Self::WINDOW {
            return None;
        }
        let bytes = u128::from(total_bytes.saturating_sub(self.bytes_before));
        let rate = u64::try_from(bytes * 1_000_000 / elapsed.as_micros().max(1)).unwrap_or(u64::MAX);
        let smoothed = self.smoothed.map_or(rate, |before| before / 2 + rate / 2);
        self.since = Instant::now();
        self.bytes_before = total_bytes;
        self.smoothed = Some(smoothed);
        Some(smoothed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::Timestamp;

    fn id() -> UploadId {
        UploadId::new(Timestamp::from_unix_ms(1), [3; 10])
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_request_ends_the_writer_before_it() {
        let leases = Leases::default();
        let mut first = leases.try_take(id()).unwrap();
        let taking = leases.take(id(), None, Duration::from_secs(5));
        let yielding = async {
            let Some(Order::Yield { answer, .. }) = first.orders.recv().await else { panic!("no order") };
            answer.send(Ok(())).unwrap();
            drop(first);
        };
        let (second, ()) = tokio::join!(taking, yielding);
        assert!(second.is_ok());
        assert_eq!(leases.count(), 1);
        drop(second);
        assert_eq!(leases.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_at_the_wrong_offset_disturbs_nobody() {
        let leases = Leases::default();
        let mut first = leases.try_take(id()).unwrap();
        let theirs = Offset::new(7).unwrap();
        let taking = leases.take(id(), Some(theirs), Duration::from_secs(5));
        let refusing = async {
            let Some(Order::Yield { answer, at, .. }) = first.orders.recv().await else { panic!("no order") };
            assert_eq!(at, Some(theirs));
            answer.send(Err(Offset::ZERO)).unwrap();
        };
        let (refused, ()) = tokio::join!(taking, refusing);
        let expected = Rejection::WrongOffset { ours: Offset::ZERO, theirs };
        assert!(matches!(refused, Err(EngineError::Rejected(rejection)) if rejection == expected));
        assert_eq!(leases.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_an_ended_writer_learn_what_became_of_the_upload() {
        for (how, expected) in [
            (Some(Ended::Terminated), EngineError::from(Rejection::Gone(Ended::Terminated))),
            (None, EngineError::Unavailable(Unavailable::Superseded)),
        ] {
            let leases = Leases::default();
            let mut first = leases.try_take(id()).unwrap();
            let ending = async {
                let (_held, ended) = leases.take_to_end(id(), Duration::from_secs(5)).await.unwrap();
                if how.is_some() {
                    ended.send_replace(how);
                }
            };
            let yielding = async {
                let Some(Order::Yield { answer, fate, .. }) = first.orders.recv().await else { panic!("no order") };
                answer.send(Ok(())).unwrap();
                drop(first);
                Fate::answer_to(fate).await
            };
            let ((), answer) = tokio::join!(ending, yielding);
            assert_eq!(answer.to_string(), expected.to_string(), "{how:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_hangs_is_not_waited_for_for_ever() {
        let leases = Leases::default();
        let _first = leases.try_take(id()).unwrap();
        let taken = leases.take(id(), None, Duration::from_secs(5)).await;
        assert!(matches!(taken, Err(EngineError::Unavailable(Unavailable::Held))));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_order_to_a_writer_that_is_just_leaving_is_not_waited_for_for_ever() {
        for _ in 0..50_000 {
            let leases = Arc::new(Leases::default());
            let held = leases.try_take(id()).unwrap();
            let live = leases.live(id()).expect("it is held");
            let asking = tokio::spawn(async move { live.ask(Order::Checkpoint).await });
            drop(held);
            let answer = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("an end to the waiting");
            assert_eq!(answer.unwrap(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_follows_the_last_second() {
        let mut meter = RateMeter::start(100);
        assert_eq!(meter.observe(200), None);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(meter.observe(1_100), Some(2_000));
        tokio::time::advance(Duration::from_millis(1_000)).await;
        assert_eq!(meter.observe(1_100), Some(1_000));
    }
}
