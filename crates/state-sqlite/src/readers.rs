//! The readers: a few threads, each with a read-only connection.
//!
//! There are two queues. Lookups of a single row by its key never wait behind a list: they have dedicated
//! threads, where no query takes long. All other queries walk a bounded number of rows, and are interrupted
//! and restarted when the log of the database must be reset (see [`read_gate`](super::read_gate)).
//!
//! A read occupies a connection only while it runs, never while its caller waits for something else. Reads
//! run in the order of their arrival; a read whose caller has gone is skipped.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::{fmt, thread};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Semaphore, oneshot};

use crate::file_watch::FileWatch;
use crate::lock::{lock, wait};
use crate::read_gate::ReadGate;
use crate::{closed, failed, failed_to_start};
use state::Result;

/// The number of reads that may be queued before further callers wait.
const QUEUE: usize = 1024;

/// The number of times that an interrupted long read is tried.
const TRIES: u32 = 10;

type ReadJob = Box<dyn FnOnce(&mut Connection) + Send>;

/// The handle to the readers' threads.
#[derive(Debug)]
pub(super) struct Readers {
    lookups: ReaderPool,
    scans: ReaderPool,
    gate: Arc<ReadGate>,
}

impl Readers {
    /// Starts one thread for each connection.
    pub(super) fn start(
        lookups: Vec<Connection>,
        scans: Vec<Connection>,
        gate: Arc<ReadGate>,
        file_watch: &Arc<FileWatch>,
    ) -> Result<Self> {
        let pool = |connections| ReaderPool::start(connections, Arc::clone(file_watch));
        Ok(Self { lookups: pool(lookups)?, scans: pool(scans)?, gate })
    }

    /// Runs a lookup by a key, or of a few rows after one, on a reader.
    pub(super) async fn look_up<T: Send + 'static>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.lookups.read(operation, job).await
    }

    /// Runs a query that may take a while on a reader. An interrupted query is restarted.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        job: impl Fn(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let gate = Arc::clone(&self.gate);
        let persist = move |connection: &mut Connection| {
            for _ in 1..TRIES {
                gate.pass();
                match job(connection) {
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
                    answer => return answer,
                }
            }
            gate.pass();
            job(connection)
        };
        self.scans.read(operation, persist).await
    }

    /// Rejects new queries, and closes the connections after the queued ones have completed.
    pub(super) async fn finish(&self) {
        self.lookups.finish().await;
        self.scans.finish().await;
    }
}

/// Threads that serve one queue.
#[derive(Debug)]
struct ReaderPool {
    queue: Arc<ReadQueue>,
    capacity: Semaphore,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    file_watch: Arc<FileWatch>,
}

/// The queue of reads.
#[derive(Default)]
struct ReadQueue {
    waiting: Mutex<QueueState>,
    arrived: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<ReadJob>,
    closed: bool,
}

impl fmt::Debug for ReadQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadQueue").field("waiting", &self.lock().jobs.len()).finish_non_exhaustive()
    }
}

impl ReaderPool {
    fn start(connections: Vec<Connection>, file_watch: Arc<FileWatch>) -> Result<Self> {
        let readers =
            Self { queue: Arc::default(), capacity: Semaphore::new(QUEUE), threads: Mutex::default(), file_watch };
        for mut connection in connections {
            let queue = Arc::clone(&readers.queue);
            let serve = move || {
                while let Some(job) = queue.next() {
                    job(&mut connection);
                }
            };
            let thread = thread::Builder::new().name("state-reader".to_owned()).spawn(serve);
            lock(&readers.threads).push(thread.map_err(failed_to_start)?);
        }
        Ok(readers)
    }

    /// Runs `job` on a reader. It is skipped if the caller leaves before it starts.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.file_watch.check_cached(operation)?;
        let _permit = self.capacity.acquire().await.map_err(|_| closed(operation))?;
        let (answer, answered) = oneshot::channel();
        self.queue.join(Box::new(move |connection| {
            if !answer.is_closed() {
                // The caller may leave while the job runs.
                let _ = answer.send(job(connection));
            }
        }));
        answered.await.map_err(|_| closed(operation))?.map_err(failed(operation))
    }

    async fn finish(&self) {
        self.capacity.close();
        self.queue.close();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(thread::JoinHandle::join));
        if !matches!(ended.await, Ok(Ok(()))) {
            tracing::warn!("a database reader thread panicked");
        }
    }
}

/// The threads end even if the store is dropped without being closed.
impl Drop for ReaderPool {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl ReadQueue {
    fn join(&self, job: ReadJob) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.jobs.push_back(job);
            drop(waiting);
            self.arrived.notify_one();
        }
    }

    /// Waits for the next job; returns `None` once the queue is closed and empty.
    fn next(&self) -> Option<ReadJob> {
        let mut waiting = self.lock();
        loop {
            match waiting.jobs.pop_front() {
                Some(job) => return Some(job),
                None if waiting.closed => return None,
                None => waiting = wait(&self.arrived, waiting),
            }
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        lock(&self.waiting)
    }
}
