//! The one writer: work queues up, and whatever has queued up is committed together.
//!
//! A commit costs a sync of the disk, whatever it holds. So the writer never waits for company: it takes what is
//! there, and while that is being synced the next batch gathers by itself. Each piece of work stands in a savepoint
//! of its own: one that fails leaves no trace and does not harm the others. Nobody is answered before the commit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::domain::delivery::Subscription;
use crate::state::Result;
use crate::state::sqlite::closed;
use crate::state::sqlite::shared_failure;

/// How many pieces of work may queue up before callers wait to be let in.
const QUEUE: usize = 1024;

/// Something to write, whole or not at all.
#[async_trait]
pub(super) trait Work: Send + 'static {
    /// What it does, as a verb phrase for the error.
    const OPERATION: &'static str;
    type Output: Send + 'static;

    /// Writes within the open transaction. On an error everything it wrote is undone.
    async fn run(self, desk: &mut Desk) -> sqlx::Result<Self::Output>;
}

/// What work writes with.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) connection: SqliteConnection,
    /// Who gets deliveries of new events. Empty until the outbox is opened.
    pub(super) subscriptions: Vec<Subscription>,
    /// Whether a delivery became ready; the bell rings once that is committed.
    pub(super) made_ready: bool,
}

impl Desk {
    pub(super) async fn execute(&mut self, sql: &'static str) -> sqlx::Result<()> {
        sqlx::query(sql).execute(&mut self.connection).await.map(drop)
    }
}

/// The way to the writer task.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<SqliteConnection>>>,
    transactions: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection, batch_max: usize, bell: Arc<Notify>) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let closing = CancellationToken::new();
        let transactions = Arc::new(AtomicU64::new(0));
        let desk = Desk { connection, subscriptions: Vec::new(), made_ready: false };
        let clerk = Clerk { desk, jobs, batch_max: batch_max.max(1), bell, transactions: Arc::clone(&transactions) };
        let task = tokio::spawn(clerk.serve(closing.clone()));
        Self { queue, closing, task: Mutex::new(Some(task)), transactions }
    }

    /// Has work written and answers once it is committed. The work goes on if the caller leaves.
    pub(super) async fn write<W: Work>(&self, work: W) -> Result<W::Output> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Pending { step: Step::Queued(work), answer });
        self.queue.send(job).await.map_err(|_| closed(W::OPERATION))?;
        answered.await.map_err(|_| closed(W::OPERATION))?
    }

    /// Takes no more work, and gives the connection back when what is queued has been written. Nothing the second
    /// time.
    pub(super) async fn finish(&self) -> Option<SqliteConnection> {
        self.closing.cancel();
        let task = self.task.lock().await.take()?;
        task.await.ok()
    }

    pub(super) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }
}

/// The writer task.
struct Clerk {
    desk: Desk,
    jobs: mpsc::Receiver<Box<dyn Job>>,
    batch_max: usize,
    bell: Arc<Notify>,
    transactions: Arc<AtomicU64>,
}

impl Clerk {
    async fn serve(mut self, closing: CancellationToken) -> SqliteConnection {
        let mut batch = Vec::with_capacity(self.batch_max);
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled(), if !self.jobs.is_closed() => self.jobs.close(),
                count = self.jobs.recv_many(&mut batch, self.batch_max) => match count {
                    0 => return self.desk.connection,
                    _ => self.commit(&mut batch).await,
                },
            }
        }
    }

    async fn commit(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.desk.made_ready = false;
        let lost = self.transact(batch).await.err();
        if lost.is_some() {
            // SQLite may have rolled back by itself, and then this fails: either way no transaction is left open.
            let _ = self.desk.execute("ROLLBACK").await;
        }
        for job in batch.drain(..) {
            job.answer(lost.as_ref());
        }
        if lost.is_none() && self.desk.made_ready {
            self.bell.notify_one();
        }
    }

    async fn transact(&mut self, batch: &mut [Box<dyn Job>]) -> Shared<()> {
        self.execute("BEGIN IMMEDIATE; SAVEPOINT job").await?;
        for job in batch {
            match job.run(&mut self.desk).await {
                // In one go: each statement sent to the connection costs two thread switches.
                Ok(()) => self.execute("RELEASE job; SAVEPOINT job").await?,
                // A full disk can end the whole transaction: no savepoint is left then, and the batch is lost.
                Err(cause) => self.execute("ROLLBACK TO job").await.map_err(|_| cause)?,
            }
        }
        self.execute("COMMIT").await
    }

    async fn execute(&mut self, sql: &'static str) -> Shared<()> {
        self.desk.execute(sql).await.map_err(Arc::new)
    }
}

/// With an error that several callers may be told of.
type Shared<T> = std::result::Result<T, Arc<sqlx::Error>>;

/// Work of any kind, with its caller waiting.
#[async_trait]
trait Job: fmt::Debug + Send {
    async fn run(&mut self, desk: &mut Desk) -> Shared<()>;

    /// Tells the caller what came of it; `lost` is why the commit failed, if it did.
    fn answer(self: Box<Self>, lost: Option<&Arc<sqlx::Error>>);
}

struct Pending<W: Work> {
    step: Step<W>,
    answer: oneshot::Sender<Result<W::Output>>,
}

enum Step<W: Work> {
    Queued(W),
    Running,
    Ran(Shared<W::Output>),
}

impl<W: Work> fmt::Debug for Pending<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(W::OPERATION)
    }
}

#[async_trait]
impl<W: Work> Job for Pending<W> {
    async fn run(&mut self, desk: &mut Desk) -> Shared<()> {
        let Step::Queued(work) = std::mem::replace(&mut self.step, Step::Running) else { return Ok(()) };
        let outcome = work.run(desk).await.map_err(Arc::new);
        let ran = outcome.as_ref().map(drop).map_err(Arc::clone);
        self.step = Step::Ran(outcome);
        ran
    }

    fn answer(self: Box<Self>, lost: Option<&Arc<sqlx::Error>>) {
        let result = match (lost, self.step) {
            (Some(error), _) => Err(shared_failure(W::OPERATION, Arc::clone(error))),
            (None, Step::Ran(outcome)) => outcome.map_err(|error| shared_failure(W::OPERATION, error)),
            (None, Step::Queued(_) | Step::Running) => Err(closed(W::OPERATION)),
        };
        // The caller may have left; what was written stays written.
        let _ = self.answer.send(result);
    }
}
