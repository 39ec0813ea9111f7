//! The readers: a few threads, each with a connection that cannot write.
//!
//! There are two lines. What looks up one thing by its key never stands behind a list: it has threads of its
//! own, where nothing takes long. Everything else walks a bounded number of rows, and is interrupted and
//! begun again when the log of the database must be reset (see [`gate`](super::gate)).
//!
//! A read holds a connection only while it runs, never while its caller waits for something else. Reads take
//! turns in the order they came; one whose caller has left is skipped.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::{fmt, thread};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Semaphore, oneshot};

use crate::gate::Gate;
use crate::lock::{lock, wait};
use crate::presence::Presence;
use crate::{closed, failed, failed_to_start};
use state::Result;

/// How many reads may queue up before callers wait to be let in.
const QUEUE: usize = 1024;

/// How often a long read is begun again after it was interrupted.
const TRIES: u32 = 10;

type Question = Box<dyn FnOnce(&mut Connection) + Send>;

/// The way to the readers' threads.
#[derive(Debug)]
pub(super) struct Readers {
    lookups: Pool,
    walks: Pool,
    gate: Arc<Gate>,
}

impl Readers {
    /// One thread for each connection.
    pub(super) fn start(
        lookups: Vec<Connection>,
        walks: Vec<Connection>,
        gate: Arc<Gate>,
        presence: &Arc<Presence>,
    ) -> Result<Self> {
        let pool = |connections| Pool::start(connections, Arc::clone(presence));
        Ok(Self { lookups: pool(lookups)?, walks: pool(walks)?, gate })
    }

    /// Has a reader look up what is found by a key, or a few rows behind one.
    pub(super) async fn look_up<T: Send + 'static>(
        &self,
        operation: &'static str,
        question: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.lookups.read(operation, question).await
    }

    /// Has a reader run a question that may take a while. It is begun again when it was interrupted.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        question: impl Fn(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let gate = Arc::clone(&self.gate);
        let persist = move |connection: &mut Connection| {
            for _ in 1..TRIES {
                gate.pass();
                match question(connection) {
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
                    answer => return answer,
                }
            }
            gate.pass();
            question(connection)
        };
        self.walks.read(operation, persist).await
    }

    /// Takes no more questions, and closes the connections when those in line have been answered.
    pub(super) async fn finish(&self) {
        self.lookups.finish().await;
        self.walks.finish().await;
    }
}

/// Threads that serve one line.
#[derive(Debug)]
struct Pool {
    line: Arc<Line>,
    room: Semaphore,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    presence: Arc<Presence>,
}

/// Where questions stand in line.
#[derive(Default)]
struct Line {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    questions: VecDeque<Question>,
    closed: bool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("waiting", &self.lock().questions.len()).finish_non_exhaustive()
    }
}

impl Pool {
    fn start(connections: Vec<Connection>, presence: Arc<Presence>) -> Result<Self> {
        let readers = Self { line: Arc::default(), room: Semaphore::new(QUEUE), threads: Mutex::default(), presence };
        for mut connection in connections {
            let line = Arc::clone(&readers.line);
            let serve = move || {
                while let Some(question) = line.next() {
                    question(&mut connection);
                }
            };
            let thread = thread::Builder::new().name("state-reader".to_owned()).spawn(serve);
            lock(&readers.threads).push(thread.map_err(failed_to_start)?);
        }
        Ok(readers)
    }

    /// Has a reader run `question`. It is not begun when the caller leaves before its turn.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        question: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.presence.check_lately(operation)?;
        let _room = self.room.acquire().await.map_err(|_| closed(operation))?;
        let (answer, answered) = oneshot::channel();
        self.line.join(Box::new(move |connection| {
            if !answer.is_closed() {
                // The caller may leave while it runs.
                let _ = answer.send(question(connection));
            }
        }));
        answered.await.map_err(|_| closed(operation))?.map_err(failed(operation))
    }

    async fn finish(&self) {
        self.room.close();
        self.line.close();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(thread::JoinHandle::join));
        if !matches!(ended.await, Ok(Ok(()))) {
            tracing::warn!("a thread that reads the database ended with a panic");
        }
    }
}

/// Threads of a store that nobody closed end with it.
impl Drop for Pool {
    fn drop(&mut self) {
        self.line.close();
    }
}

impl Line {
    fn join(&self, question: Question) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.questions.push_back(question);
            drop(waiting);
            self.came.notify_one();
        }
    }

    /// The next question, when there is one; nothing once the line is closed and empty.
    fn next(&self) -> Option<Question> {
        let mut waiting = self.lock();
        loop {
            match waiting.questions.pop_front() {
                Some(question) => return Some(question),
                None if waiting.closed => return None,
                None => waiting = wait(&self.came, waiting),
            }
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.came.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}
