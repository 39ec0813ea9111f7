//! Group commit of uploads: all queued changes are committed in one transaction.
//!
//! A commit costs a sync of the server's disk, whatever its size. A writer therefore never waits for more
//! work: it takes the queued changes, and during the sync the next batch accumulates. The changes of an
//! upload always go to the same writer, chosen by the identifier, so they keep their order. A batch contains
//! at most one change of each upload. No caller gets a reply before the commit.
//!
//! A conflict is a row that a statement does not return; it affects no other change of the batch. If a
//! statement fails, the batch is rolled back and each of its changes is written separately, so that a failing
//! change affects no other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::events::UploadEvents;
use crate::fault::{Fault, Remedy};
use crate::lock::lock;
use crate::records::PreparedRecord;
use crate::session::{Connector, Purpose};
use crate::sessions::Sessions;
use crate::transaction::{Shared, TRIES, Transaction, end_failed};
use domain::id::UploadId;
use state::{Change, Error, Result};

/// The number of changes that may be queued for one writer before further callers wait.
const QUEUE: usize = 1024;

/// The delay before a writer reconnects.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// A change of an upload, ready to be written.
#[derive(Debug)]
pub(crate) struct UploadChange {
    what: What,
    record: PreparedRecord,
    events: UploadEvents,
}

#[derive(Debug)]
enum What {
    /// A new upload, and the metadata it can be found by.
    Insert(Vec<(String, Vec<u8>)>),
    Commit,
}

impl UploadChange {
    pub(crate) fn insert(change: &Change) -> Self {
        let upload = change.upload();
        let metadata = upload.record().metadata.pairs().to_vec();
        let events = UploadEvents::of(change, false);
        Self { what: What::Insert(metadata), record: PreparedRecord::of(upload), events }
    }

    pub(crate) fn commit(change: &Change) -> Self {
        let events = UploadEvents::of(change, true);
        Self { what: What::Commit, record: PreparedRecord::of(change.upload()), events }
    }

    /// Reports whether an upload without work for the sweeper may have some after this change. A checkpoint
    /// changes an upload that has work already.
    fn may_add_work(&self) -> bool {
        let is_checkpoint = matches!(self.what, What::Commit) && self.events.is_empty() && !self.record.is_settled;
        self.record.has_work && !is_checkpoint
    }

    const fn operation(&self) -> &'static str {
        match self.what {
            What::Insert(_) => "record a new upload",
            What::Commit => "commit an upload",
        }
    }
}

/// The handle to the writers.
#[derive(Debug)]
pub(crate) struct Writers {
    /// Empty once the writers are closed.
    queues: Mutex<Vec<mpsc::Sender<Pending>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    written: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Pending {
    change: UploadChange,
    /// True if the change was written; false on a conflict.
    answer: oneshot::Sender<Result<bool>>,
}

impl Writers {
    pub(crate) fn start(connector: &Connector, shared: &Arc<Shared>, count: u32, batch_max: usize) -> Self {
        let written = Arc::new(AtomicU64::new(0));
        let (mut queues, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..count.max(1) {
            let (queue, waiting) = mpsc::channel(QUEUE);
            let writer = Writer {
                waiting,
                carried: VecDeque::new(),
                session: Sessions::new(connector.clone(), Purpose::Write, 1, shared.patience),
                shared: Arc::clone(shared),
                batch_max: batch_max.max(1),
                written: Arc::clone(&written),
            };
            queues.push(queue);
            tasks.push(tokio::spawn(writer.serve()));
        }
        Self { queues: Mutex::new(queues), tasks: Mutex::new(tasks), written }
    }

    /// Queues a change, and returns true once it is committed, or false on a conflict. The change is written
    /// even if the caller leaves.
    pub(crate) async fn write(&self, change: UploadChange) -> Result<bool> {
        let operation = change.operation();
        let (answer, answered) = oneshot::channel();
        let queue = {
            let queues = lock(&self.queues);
            let place = usize::from(change.record.id.as_bytes()[15]).checked_rem(queues.len());
            place.map(|place| queues[place].clone())
        };
        let closed = || Fault::Closed.into_error(operation);
        let queue = queue.ok_or_else(closed)?;
        queue.send(Pending { change, answer }).await.map_err(|_| closed())?;
        // The writer accepted the change and ended before it reported the result.
        answered.await.map_err(|_| Error::Unanswered { operation })?
    }

    /// Returns the number of changes committed.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Rejects further changes, and returns when the queued ones have been written.
    pub(crate) async fn finish(&self) {
        lock(&self.queues).clear();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            if task.await.is_err() {
                tracing::error!("a database writer panicked");
            }
        }
    }
}

struct Writer {
    waiting: mpsc::Receiver<Pending>,
    /// Changes of uploads that the current batch changes too; they wait for the next one.
    carried: VecDeque<Pending>,
    session: Sessions,
    shared: Arc<Shared>,
    batch_max: usize,
    written: Arc<AtomicU64>,
}

impl Writer {
    async fn serve(mut self) {
        let mut came = Vec::with_capacity(self.batch_max);
        loop {
            if self.carried.is_empty() && self.waiting.recv_many(&mut came, self.batch_max).await == 0 {
                break;
            }
            while self.carried.len() + came.len() < self.batch_max
                && let Ok(pending) = self.waiting.try_recv()
            {
                came.push(pending);
            }
            self.carried.extend(came.drain(..));
            let batch = self.next_batch();
            self.commit(batch).await;
        }
        self.session.close().await;
    }

    /// Returns the first change of each upload; the others remain queued.
    fn next_batch(&mut self) -> Vec<Pending> {
        let mut uploads = BTreeSet::new();
        let (mut batch, mut left) = (Vec::new(), VecDeque::new());
        for pending in self.carried.drain(..) {
            if batch.len() < self.batch_max && uploads.insert(pending.change.record.id) {
                batch.push(pending);
            } else {
                left.push_back(pending);
            }
        }
        self.carried = left;
        // All writers of all nodes lock rows in this order.
        batch.sort_by_key(|pending| pending.change.record.id);
        batch
    }

    async fn commit(&self, batch: Vec<Pending>) {
        let changes: Vec<&UploadChange> = batch.iter().map(|pending| &pending.change).collect();
        match self.persist(&changes).await {
            Err(fault) if batch.len() > 1 && fault.remedy() == Remedy::None => {
                for pending in batch {
                    let outcome = self.persist(&[&pending.change]).await;
                    self.answer(pending, &outcome);
                }
            }
            outcome => batch.into_iter().for_each(|pending| self.answer(pending, &outcome)),
        }
    }

    fn answer(&self, pending: Pending, outcome: &std::result::Result<BTreeSet<UploadId>, Fault>) {
        let result = match outcome {
            Ok(written) => {
                let is_written = written.contains(&pending.change.record.id);
                self.written.fetch_add(u64::from(is_written), Ordering::Relaxed);
                Ok(is_written)
            }
            Err(fault) => Err(fault.to_errors(pending.change.operation())),
        };
        // The caller may have left; the written change is kept.
        let _ = pending.answer.send(result);
    }

    /// Writes a batch and returns the uploads that were written. It is repeated after the server has rolled
    /// it back.
    async fn persist(&self, changes: &[&UploadChange]) -> std::result::Result<BTreeSet<UploadId>, Fault> {
        for _ in 1..TRIES {
            match self.attempt(changes).await {
                Err(Fault::Unconfirmed) => return Err(Fault::Unconfirmed),
                Err(fault) if fault.remedy() == Remedy::Reconnect => tokio::time::sleep(RECONNECT_AFTER).await,
                Err(fault) if fault.remedy() == Remedy::Repeat => {}
                settled => return settled,
            }
        }
        self.attempt(changes).await
    }

    async fn attempt(&self, changes: &[&UploadChange]) -> std::result::Result<BTreeSet<UploadId>, Fault> {
        let session = self.session.get().await?;
        let mut tx = Transaction::begin(&session, &self.shared).await?;
        match write(&mut tx, changes).await {
            Ok(written) => {
                tx.commit().await?;
                self.shared.measures.batch(changes.len());
                Ok(written)
            }
            Err(fault) => {
                end_failed(&session, &self.shared, &fault).await;
                Err(fault)
            }
        }
    }
}

/// Writes changes. All statements up to the records are sent together; the server executes them in order.
async fn write(tx: &mut Transaction<'_>, changes: &[&UploadChange]) -> std::result::Result<BTreeSet<UploadId>, Fault> {
    let with_events = || changes.iter().filter(|change| !change.events.is_empty());
    let adding = || changes.iter().filter(|change| change.may_add_work());
    let needs_subscribers = with_events().next().is_some() || adding().next().is_some();
    // A new upload is unknown to other transactions.
    let known = with_events().filter(|change| matches!(change.what, What::Commit));
    let lanes: Vec<UploadId> = known.map(|change| change.record.id).collect();
    let inserts: Vec<_> = changes
        .iter()
        .filter_map(|change| match &change.what {
            What::Insert(metadata) => Some((&change.record, metadata.as_slice())),
            What::Commit => None,
        })
        .collect();
    let commits = changes.iter().filter(|change| matches!(change.what, What::Commit));
    let commits: Vec<&PreparedRecord> = commits.map(|change| &change.record).collect();
    let subscribed = async {
        match needs_subscribers {
            true => tx.read_subscribers().await.map(Some),
            false => Ok(None),
        }
    };
    let (subscribed, (), mut written, mut committed) =
        futures::try_join!(subscribed, tx.lock_lanes(lanes), tx.insert_records(&inserts), tx.commit_records(&commits))?;
    if let Some(subscribed) = subscribed {
        tx.note_subscribers(subscribed);
        adding().for_each(|change| tx.adds_upload(*change.record.id.as_bytes()));
    }
    written.append(&mut committed);
    let events = with_events().map(|change| &change.events).filter(|events| written.contains(&events.upload));
    tx.log_events(&events.collect::<Vec<_>>()).await?;
    Ok(written)
}
