//! One operation at a time for each blob, and one writer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lock::lock;
use storage::BlobKey;

/// Entries of ended operations are removed when so many have gathered.
const SWEEP_AT: usize = 1024;

/// The operations and writers of one store.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    locks: Mutex<Locks>,
    writers: Mutex<Writers>,
}

#[derive(Debug, Default)]
struct Writers {
    of: HashMap<BlobKey, Turn>,
    last_number: u64,
}

#[derive(Debug, Default)]
struct Locks {
    of: HashMap<BlobKey, Weak<tokio::sync::Mutex<()>>>,
    sweep_at: usize,
}

/// The turn of one writer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn {
    number: u64,
    /// Set when the turn is over: nothing may be requested for it any more.
    pub(crate) ended: CancellationToken,
    /// Its requests that are not answered yet.
    pub(crate) tasks: TaskTracker,
}

impl Turns {
    /// Waits until no other operation of this store works on the blob.
    pub(crate) async fn lock(&self, key: &BlobKey) -> OwnedMutexGuard<()> {
        let lock = self.lock_of(key);
        lock.lock_owned().await
    }

    fn lock_of(&self, key: &BlobKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.locks);
        if let Some(known) = locks.of.get(key).and_then(Weak::upgrade) {
            return known;
        }
        if locks.of.len() >= locks.sweep_at.max(SWEEP_AT) {
            locks.of.retain(|_, known| known.strong_count() > 0);
            locks.sweep_at = 2 * locks.of.len();
        }
        let new = Arc::default();
        locks.of.insert(key.clone(), Arc::downgrade(&new));
        new
    }

    /// Begins the turn of a writer.
    pub(crate) fn begin(&self, key: &BlobKey) -> Turn {
        let mut writers = lock(&self.writers);
        writers.last_number += 1;
        let turn = Turn { number: writers.last_number, ..Turn::default() };
        writers.of.insert(key.clone(), turn.clone());
        turn
    }

    /// Ends the writer of a blob, and waits until its last request is answered. Nothing is interrupted.
    pub(crate) async fn end(&self, key: &BlobKey) {
        let turn = lock(&self.writers).of.remove(key);
        if let Some(turn) = turn {
            turn.ended.cancel();
            turn.tasks.close();
            turn.tasks.wait().await;
        }
    }

    pub(crate) fn has_writer(&self, key: &BlobKey) -> bool {
        lock(&self.writers).of.contains_key(key)
    }

    /// Forgets a writer that has been closed, unless another one has come after it.
    pub(crate) fn forget(&self, key: &BlobKey, turn: &Turn) {
        let mut writers = lock(&self.writers);
        if writers.of.get(key).is_some_and(|known| known.number == turn.number) {
            writers.of.remove(key);
        }
    }
}
