//! The process of a node, as its calls notice it: it runs, is frozen, or was killed, and its lines to the
//! state work or do not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::id::UploadId;
use storage::BlobKey;
use tokio::sync::Notify;

use crate::peers::Line;
use crate::script::Wire;

/// The process of one node. Clones are the same one.
///
/// Nothing reaches or leaves a process that does not run. Calls that it has made take effect nevertheless.
#[derive(Debug, Clone)]
pub struct Process(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    condition: Mutex<Condition>,
    /// Wakes those who wait in the order in which they came; a `watch` channel would not.
    turned: Notify,
    lines: Mutex<Lines>,
    /// The blobs that writers are open for, one entry each.
    open_writers: Mutex<Vec<BlobKey>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Running,
    Frozen,
    Killed,
}

/// The lines of a process to the state.
#[derive(Debug)]
struct Lines {
    state: Line,
    /// The line of heartbeats, as long as the one of the state is open.
    heartbeat: Line,
}

impl Process {
    pub fn start() -> Self {
        Self(Arc::new(Shared {
            condition: Mutex::new(Condition::Running),
            turned: Notify::new(),
            lines: Mutex::new(Lines { state: Line::Open, heartbeat: Line::Open }),
            open_writers: Mutex::default(),
        }))
    }

    pub fn freeze(&self) {
        if self.is_running() {
            self.turn(Condition::Frozen);
        }
    }

    pub fn thaw(&self) {
        if self.condition() == Condition::Frozen {
            self.turn(Condition::Running);
        }
    }

    pub fn kill(&self) {
        self.turn(Condition::Killed);
    }

    fn turn(&self, to: Condition) {
        *lock(&self.0.condition) = to;
        self.0.turned.notify_waiters();
    }

    fn condition(&self) -> Condition {
        *lock(&self.0.condition)
    }

    pub fn is_running(&self) -> bool {
        self.condition() == Condition::Running
    }

    pub fn was_killed(&self) -> bool {
        self.condition() == Condition::Killed
    }

    /// Waits until the process runs: forever if it was killed.
    pub async fn runs(&self) {
        self.turns(Condition::Running).await;
    }

    /// Waits for the death of the process.
    pub async fn killed(&self) {
        self.turns(Condition::Killed).await;
    }

    async fn turns(&self, to: Condition) {
        while self.condition() != to {
            // Nothing happens between the look and the wait: all tasks of a run share one thread.
            self.0.turned.notified().await;
        }
    }

    /// Changes a line to the state.
    pub fn set(&self, wire: Wire, line: Line) {
        match wire {
            Wire::State => self.lines().state = line,
            Wire::Heartbeat => self.lines().heartbeat = line,
            Wire::Peers => {}
        }
    }

    /// Returns the line that a call of the state takes.
    pub fn line(&self, wire: Wire) -> Line {
        let lines = self.lines();
        if wire == Wire::Heartbeat && lines.state == Line::Open { lines.heartbeat } else { lines.state }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        lock(&self.0.lines)
    }

    pub fn open_writers(&self) -> usize {
        lock(&self.0.open_writers).len()
    }

    /// Reports whether a writer is open for a blob of this upload.
    pub fn writes(&self, upload: UploadId) -> bool {
        let id = upload.to_string();
        let is_of = |key: &BlobKey| key.as_str().rsplit('/').next().is_some_and(|name| name.starts_with(&id));
        lock(&self.0.open_writers).iter().any(is_of)
    }

    /// Counts a writer until the returned value is dropped.
    pub fn count_writer(&self, key: &BlobKey) -> OpenWriter {
        lock(&self.0.open_writers).push(key.clone());
        OpenWriter { process: self.clone(), key: key.clone() }
    }
}

/// A writer that is open.
#[derive(Debug)]
pub struct OpenWriter {
    process: Process,
    key: BlobKey,
}

impl Drop for OpenWriter {
    fn drop(&mut self) {
        let mut open = lock(&self.process.0.open_writers);
        if let Some(place) = open.iter().position(|key| *key == self.key) {
            open.swap_remove(place);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
