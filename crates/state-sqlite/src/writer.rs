//! The single writer: a dedicated thread with a queue. Everything queued is committed in one transaction.
//!
//! A commit costs a sync of the disk, whatever its size. The writer therefore never waits for more work: it
//! takes the queued work, and during the sync the next batch accumulates. No caller gets a reply before the
//! commit.
//!
//! Nearly all work succeeds, so a batch is first written as a whole. If any of it fails, the whole batch is
//! undone and written again with each item in a separate savepoint; a failing item then leaves no trace and
//! affects no other. (Savepoints from the start would copy every page once more, which was *measured* as a
//! quarter of the time of a commit.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, thread};

use rusqlite::{Connection, Params};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use crate::connection::Overwrite;
use crate::endpoints::Subscriber;
use crate::file_watch::FileWatch;
use crate::log_bound::LogBound;
use crate::reserve::DiskReserve;
use crate::{closed, connection, failed_to_start, is_full, shared_failure};
use state::{Error, EventBodies, Result};

/// The number of items of work that may be queued before further callers wait.
const QUEUE: usize = 1024;

const COMMIT: &str = "commit";

/// A change that is written atomically.
pub(super) trait Work: Send + 'static {
    /// The operation as a verb phrase, for errors.
    const OPERATION: &'static str;
    type Output: Send + 'static;

    /// Reports whether disk space can be freed once the work is committed. On a full disk such work may use
    /// the reserve.
    fn frees_space(&self) -> bool {
        false
    }

    /// Writes within the open transaction. After an error everything it wrote is undone; it may then be run
    /// once more.
    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Self::Output>;
}

/// The open transaction, with cached data. Work writes only through this.
#[derive(Debug)]
pub(super) struct WriteTransaction {
    pub(super) connection: Connection,
    /// The functions for the bodies of events that the work itself causes.
    pub(super) bodies: EventBodies,
    /// The endpoints that may get deliveries of new events, if they have been read. Cleared by work that
    /// changes them, and when anything is undone.
    pub(super) subscribers: Option<Arc<[Subscriber]>>,
    /// True if a delivery became ready; the bell rings once that is committed.
    pub(super) made_ready: bool,
    /// The number of progress deliveries dropped in the open transaction; counted once it is committed.
    pub(super) superseded: u64,
    /// A value that changes when another connection has written.
    others: Option<i64>,
}

impl WriteTransaction {
    /// Clears cached data if another node has written since.
    fn invalidate_if_others_wrote(&mut self) -> SharedResult<()> {
        let look =
            |connection: &Connection| connection.prepare_cached("PRAGMA data_version")?.query_one([], |row| row.get(0));
        let others = Some(look(&self.connection).map_err(Arc::new)?);
        if self.others != others {
            (self.others, self.subscribers) = (others, None);
        }
        Ok(())
    }

    /// Runs a statement that returns no rows, and returns the number of rows changed.
    pub(super) fn execute(&self, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(values)
    }

    /// Runs work whose deletions must leave nothing in the file: freed pages are overwritten as well.
    pub(super) fn overwriting<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        connection::overwrite_deleted(&self.connection, Overwrite::Everything)?;
        let done = work(self);
        connection::overwrite_deleted(&self.connection, Overwrite::WithinPages)?;
        done
    }
}

/// The handle to the writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<WriterMessage>,
    thread: Mutex<Option<thread::JoinHandle<Connection>>>,
    counts: Arc<Counts>,
}

/// Counts of committed work since the start.
#[derive(Debug, Default)]
struct Counts {
    transactions: AtomicU64,
    works: AtomicU64,
    superseded: AtomicU64,
}

#[derive(Debug)]
enum WriterMessage {
    Work(Box<dyn QueuedWork>),
    Close,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        bodies: EventBodies,
        log: LogBound,
        reserve: DiskReserve,
        batch_max: usize,
        bell: Arc<Notify>,
        file_watch: Arc<FileWatch>,
    ) -> Result<Self> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let tx =
            WriteTransaction { connection, bodies, subscribers: None, made_ready: false, superseded: 0, others: None };
        let writer = WriterThread {
            tx,
            messages,
            log,
            reserve,
            batch_max: batch_max.max(1),
            bell,
            file_watch,
            counts: Arc::clone(&counts),
        };
        let thread = thread::Builder::new().name("state-writer".to_owned()).spawn(move || writer.serve());
        Ok(Self { queue, thread: Mutex::new(Some(thread.map_err(failed_to_start)?)), counts })
    }

    /// Queues work and returns its result once it is committed. The work is done even if the caller leaves.
    pub(super) async fn write<W: Work>(&self, work: W) -> Result<W::Output> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(PendingWork { work, outcome: None, answer });
        self.queue.send(WriterMessage::Work(job)).await.map_err(|_| closed(W::OPERATION))?;
        // The writer accepted the work and ended before it reported the result.
        answered.await.map_err(|_| Error::Unanswered { operation: W::OPERATION })?
    }

    /// Rejects further work, and returns the connection after the queued work has been written. A second call
    /// returns `None`.
    pub(super) async fn finish(&self) -> Option<Connection> {
        let thread = self.thread.lock().await.take()?;
        // Sending fails only if the thread has ended, and then there is nothing to close.
        let _ = self.queue.send(WriterMessage::Close).await;
        tokio::task::spawn_blocking(move || thread.join().ok()).await.ok()?
    }

    pub(super) fn transactions(&self) -> u64 {
        self.counts.transactions.load(Ordering::Relaxed)
    }

    /// Returns the number of items of work committed.
    pub(super) fn works(&self) -> u64 {
        self.counts.works.load(Ordering::Relaxed)
    }

    pub(super) fn superseded(&self) -> u64 {
        self.counts.superseded.load(Ordering::Relaxed)
    }
}

/// The state of the writer's thread.
struct WriterThread {
    tx: WriteTransaction,
    messages: mpsc::Receiver<WriterMessage>,
    log: LogBound,
    reserve: DiskReserve,
    batch_max: usize,
    bell: Arc<Notify>,
    file_watch: Arc<FileWatch>,
    counts: Arc<Counts>,
}

impl WriterThread {
    fn serve(mut self) -> Connection {
        let mut messages = Vec::with_capacity(self.batch_max);
        let mut batch = Vec::with_capacity(self.batch_max);
        while self.messages.blocking_recv_many(&mut messages, self.batch_max) > 0 {
            for message in messages.drain(..) {
                match message {
                    WriterMessage::Work(job) => batch.push(job),
                    WriterMessage::Close => self.messages.close(),
                }
            }
            if !batch.is_empty() {
                self.commit(&mut batch);
                self.log.keep(&self.tx.connection);
            }
        }
        self.tx.connection
    }

    fn commit(&mut self, batch: &mut Vec<Box<dyn QueuedWork>>) {
        if self.reserve.is_spent() {
            answer_others(batch, &Arc::new(disk_full()));
        }
        let mut failed = self.write(batch);
        if let Some(full) = failed.as_ref().filter(|error| is_full(error))
            && batch.iter().any(|job| job.frees_space())
            && self.reserve.release()
        {
            answer_others(batch, full);
            failed = self.write(batch);
        }
        let lost = match failed {
            Some(error) => Some(BatchFailure::Failed(error)),
            None => self.file_watch.check(COMMIT).err().map(|_| BatchFailure::Gone),
        };
        if lost.is_none() {
            self.counts.superseded.fetch_add(self.tx.superseded, Ordering::Relaxed);
            self.counts.works.fetch_add(u64::try_from(batch.len()).unwrap_or_default(), Ordering::Relaxed);
        }
        if lost.is_none() && self.tx.made_ready {
            self.bell.notify_one();
        }
        for job in batch.drain(..) {
            job.answer(lost.as_ref());
        }
    }

    /// Writes a batch. Returns the error if nothing of it was committed.
    fn write(&mut self, batch: &mut Batch) -> Option<Arc<rusqlite::Error>> {
        match self.transact(batch, Self::in_one_go) {
            Ok(()) => None,
            // With a single item there are no others to preserve.
            Err(error) if batch.len() == 1 => Some(error),
            Err(_) => self.transact(batch, Self::one_by_one).err(),
        }
    }

    fn transact(
        &mut self,
        batch: &mut Batch,
        write: fn(&mut Self, &mut Batch) -> SharedResult<()>,
    ) -> SharedResult<()> {
        self.counts.transactions.fetch_add(1, Ordering::Relaxed);
        self.tx.made_ready = false;
        self.tx.superseded = 0;
        let written = self
            .execute("BEGIN IMMEDIATE")
            .and_then(|()| self.tx.invalidate_if_others_wrote())
            .and_then(|()| write(self, batch))
            .and_then(|()| self.execute("COMMIT"));
        if written.is_err() {
            self.tx.subscribers = None;
        }
        if written.is_err() && !self.tx.connection.is_autocommit() {
            // If this fails, the next transaction cannot begin, and its callers get an error.
            let _ = self.execute("ROLLBACK");
        }
        written
    }

    fn in_one_go(&mut self, batch: &mut Batch) -> SharedResult<()> {
        batch.iter_mut().try_for_each(|job| job.run(&mut self.tx))
    }

    fn one_by_one(&mut self, batch: &mut Batch) -> SharedResult<()> {
        for job in batch {
            self.execute("SAVEPOINT job")?;
            let superseded = self.tx.superseded;
            if let Err(cause) = job.run(&mut self.tx) {
                self.tx.subscribers = None;
                self.tx.superseded = superseded;
                // A full disk can end the whole transaction: no savepoint is left then, and the batch is
                // lost.
                self.execute("ROLLBACK TO job").map_err(|_| cause)?;
            }
            self.execute("RELEASE job")?;
        }
        Ok(())
    }

    fn execute(&self, sql: &'static str) -> SharedResult<()> {
        self.tx.execute(sql, []).map(drop).map_err(Arc::new)
    }
}

type Batch = [Box<dyn QueuedWork>];

/// Removes the work that frees no disk space from a batch and fails it with this error.
fn answer_others(batch: &mut Vec<Box<dyn QueuedWork>>, why: &Arc<rusqlite::Error>) {
    let (freeing, others) = batch.drain(..).partition::<Vec<_>, _>(|job| job.frees_space());
    batch.extend(freeing);
    for job in others {
        job.answer(Some(&BatchFailure::Failed(Arc::clone(why))));
    }
}

fn disk_full() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)
}

/// The reason why a whole batch does not count.
enum BatchFailure {
    Failed(Arc<rusqlite::Error>),
    /// The batch was committed to files that have been removed or replaced.
    Gone,
}

/// A result whose error may be returned to several callers.
type SharedResult<T> = std::result::Result<T, Arc<rusqlite::Error>>;

/// Work of any type, with its waiting caller.
trait QueuedWork: fmt::Debug + Send {
    fn run(&mut self, tx: &mut WriteTransaction) -> SharedResult<()>;

    fn frees_space(&self) -> bool;

    /// Returns the result to the caller. `lost` is the reason if the commit does not count.
    fn answer(self: Box<Self>, lost: Option<&BatchFailure>);
}

struct PendingWork<W: Work> {
    work: W,
    /// The result of the latest run.
    outcome: Option<SharedResult<W::Output>>,
    answer: oneshot::Sender<Result<W::Output>>,
}

impl<W: Work> fmt::Debug for PendingWork<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(W::OPERATION)
    }
}

impl<W: Work> QueuedWork for PendingWork<W> {
    fn run(&mut self, tx: &mut WriteTransaction) -> SharedResult<()> {
        let outcome = self.work.run(tx).map_err(Arc::new);
        let ran = outcome.as_ref().map(drop).map_err(Arc::clone);
        self.outcome = Some(outcome);
        ran
    }

    fn frees_space(&self) -> bool {
        self.work.frees_space()
    }

    fn answer(self: Box<Self>, lost: Option<&BatchFailure>) {
        let result = match (lost, self.outcome) {
            (Some(BatchFailure::Failed(error)), _) => Err(shared_failure(W::OPERATION, Arc::clone(error))),
            (Some(BatchFailure::Gone), _) => Err(Error::Gone { operation: W::OPERATION }),
            (None, Some(outcome)) => outcome.map_err(|error| shared_failure(W::OPERATION, error)),
            (None, None) => Err(closed(W::OPERATION)),
        };
        // The caller may have left; the written work is kept.
        let _ = self.answer.send(result);
    }
}
