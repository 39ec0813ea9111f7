//! The one writer: a thread of its own, where work queues up, and
//! whatever has queued up is committed together.
//!
//! A commit costs a sync of the disk, whatever it holds. So the writer never waits for
//! company: it takes what is there, and while that is being synced the next batch gathers by
//! itself. Nobody is answered before the commit.
//!
//! Nearly all work succeeds, so a batch is first written in one go. If any of it fails, the whole
//! batch is undone and written again with each piece in a savepoint of its own: then what fails leaves
//! no trace and harms nobody else. (Savepoints from the start would copy every page once more;
//! *measured*, a quarter of the time of a commit.)

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

/// How many pieces of work may queue up before callers wait to be let in.
const QUEUE: usize = 1024;

const COMMIT: &str = "commit";

/// Something to write, whole or not at all.
pub(super) trait Work: Send + 'static {
    /// What it does, as a verb phrase for the error.
    const OPERATION: &'static str;
    type Output: Send + 'static;

    /// Whether disk space can be freed once it is written. On a full disk it may use what is kept for that.
    fn frees_space(&self) -> bool {
        false
    }

    /// Writes within the open transaction. On an error everything it wrote
    /// is undone; then it may be run once more.
    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Self::Output>;
}

/// The open transaction, and what is known beside it. Work writes with nothing else.
#[derive(Debug)]
pub(super) struct WriteTransaction {
    pub(super) connection: Connection,
    /// How the bodies of events are written that come of the work itself.
    pub(super) bodies: EventBodies,
    /// Who gets deliveries of new events, as far as it has been read. Forgotten by whoever
    /// changes it, and when anything is undone.
    pub(super) subscribers: Option<Arc<[Subscriber]>>,
    /// Whether a delivery became ready; the bell rings once that is committed.
    pub(super) made_ready: bool,
    /// How many deliveries of progress the open transaction drops; counted once it is committed.
    pub(super) superseded: u64,
    /// Changes when another connection has written.
    others: Option<i64>,
}

impl WriteTransaction {
    /// Forgets what is known if another node has written since.
    fn invalidate_if_others_wrote(&mut self) -> SharedResult<()> {
        let look =
            |connection: &Connection| connection.prepare_cached("PRAGMA data_version")?.query_one([], |row| row.get(0));
        let others = Some(look(&self.connection).map_err(Arc::new)?);
        if self.others != others {
            (self.others, self.subscribers) = (others, None);
        }
        Ok(())
    }

    /// Runs a statement that gives no rows; says how many rows it changed.
    pub(super) fn execute(&self, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(values)
    }

    /// Does work whose deletions are to leave nothing behind in the file: freed pages are overwritten, too.
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

/// The way to the writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<WriterMessage>,
    thread: Mutex<Option<thread::JoinHandle<Connection>>>,
    counts: Arc<Counts>,
}

/// What has been written since the start.
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

    /// Has work written and answers once it is committed. The work goes on if the caller leaves.
    pub(super) async fn write<W: Work>(&self, work: W) -> Result<W::Output> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(PendingWork { work, outcome: None, answer });
        self.queue.send(WriterMessage::Work(job)).await.map_err(|_| closed(W::OPERATION))?;
        // The writer took it, and ended before it said what came of it.
        answered.await.map_err(|_| Error::Unanswered { operation: W::OPERATION })?
    }

    /// Takes no more work, and gives the connection back when what is queued
    /// has been written. Nothing the second time.
    pub(super) async fn finish(&self) -> Option<Connection> {
        let thread = self.thread.lock().await.take()?;
        // It only fails when the thread is gone, and then there is nothing to close.
        let _ = self.queue.send(WriterMessage::Close).await;
        tokio::task::spawn_blocking(move || thread.join().ok()).await.ok()?
    }

    pub(super) fn transactions(&self) -> u64 {
        self.counts.transactions.load(Ordering::Relaxed)
    }

    /// How many pieces of work were committed.
    pub(super) fn works(&self) -> u64 {
        self.counts.works.load(Ordering::Relaxed)
    }

    pub(super) fn superseded(&self) -> u64 {
        self.counts.superseded.load(Ordering::Relaxed)
    }
}

/// The writer's thread.
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

    /// Says why nothing of the batch was committed, if nothing was.
    fn write(&mut self, batch: &mut Batch) -> Option<Arc<rusqlite::Error>> {
        match self.transact(batch, Self::in_one_go) {
            Ok(()) => None,
            // Alone it has nobody to spare.
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
            // Should this fail, the next transaction cannot begin, and its callers are told.
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
                // A full disk can end the whole transaction: no
                // savepoint is left then, and the batch is lost.
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

/// Takes the work that frees no disk space out of a batch: it fails for this reason.
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

/// Why a whole batch does not count.
enum BatchFailure {
    Failed(Arc<rusqlite::Error>),
    /// It was committed to files that nobody will find.
    Gone,
}

/// With an error that several callers may be told of.
type SharedResult<T> = std::result::Result<T, Arc<rusqlite::Error>>;

/// Work of any kind, with its caller waiting.
trait QueuedWork: fmt::Debug + Send {
    fn run(&mut self, tx: &mut WriteTransaction) -> SharedResult<()>;

    fn frees_space(&self) -> bool;

    /// Tells the caller what came of it; `lost` is why the commit does not count, if it does not.
    fn answer(self: Box<Self>, lost: Option<&BatchFailure>);
}

struct PendingWork<W: Work> {
    work: W,
    /// What came of it when it last ran.
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
        // The caller may have left; what was written stays written.
        let _ = self.answer.send(result);
    }
}
