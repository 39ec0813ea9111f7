//! The part of a blob that is not full yet: its bytes in memory, and the tails that make them durable.
//!
//! Open parts of all blobs share a limit of memory. Beyond it the fullest are stored as tails, and their
//! memory is released (scale-out O6); such a part is read back once it is full.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::failure::{Failure, FailureKind};
use crate::lock::lock;
use crate::parts::{Extra, Tail};
use crate::store::Inner;
use crate::token::PartList;
use crate::turns::Turn;
use storage::BlobKey;

/// Tails of one blob. One more merges them (scale-out O5b).
const MOST_TAILS: usize = 16;

/// The outcome of a request that is under way, for everybody who waits for it.
pub(crate) type Requested<T> = Shared<BoxFuture<'static, Result<T, Failure>>>;

/// The open part of a writer, which others may store as a tail.
#[derive(Debug)]
pub(crate) struct OpenPart {
    pub(crate) key: BlobKey,
    pub(crate) turn: Turn,
    pub(crate) extras: Extras,
    gathered: Mutex<Gathered>,
    /// Set while its memory is being released.
    is_leaving: AtomicBool,
}

/// All places count from the beginning of the part.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// The place in the blob at which the part begins.
    pub(crate) open_at: u64,
    pub(crate) end: u64,
    pub(crate) tails: Vec<Requested<Tail>>,
    /// Where the last tail ends.
    saved: u64,
    /// The bytes in memory, from `held_from` to the end.
    pub(crate) held: Vec<Bytes>,
    pub(crate) held_from: u64,
}

/// The small objects of one opening of a blob.
#[derive(Debug)]
pub(crate) struct Extras {
    opening: u64,
    next: AtomicU32,
    list: Mutex<Option<PartList>>,
}

impl Extras {
    pub(crate) fn new(list: Option<PartList>) -> Self {
        Self { opening: rand::random(), next: AtomicU32::new(0), list: Mutex::new(list) }
    }

    pub(crate) fn name(&self) -> Extra {
        Extra { opening: self.opening, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Returns the longest list that has none but the first `parts`.
    pub(crate) fn list_within(&self, parts: usize) -> Option<PartList> {
        lock(&self.list).filter(|list| list.count <= parts)
    }

    pub(crate) fn keep_list(&self, new: PartList) {
        let mut list = lock(&self.list);
        if list.is_none_or(|list| list.count < new.count) {
            *list = Some(new);
        }
    }
}

impl Gathered {
    /// Continues behind parts that end at `open_at`, and tails.
    pub(crate) fn behind(open_at: u64, tails: Vec<Tail>) -> Self {
        let end = tails.iter().map(|tail| tail.length_bytes).sum();
        Self {
            open_at,
            end,
            tails: tails.into_iter().map(known).collect(),
            saved: end,
            held: Vec::new(),
            held_from: end,
        }
    }

    /// Reports whether it has bytes that are not stored, nor about to be.
    pub(crate) fn has_unsaved(&self) -> bool {
        self.end > self.saved
    }

    /// Returns the bytes in memory behind a place.
    fn held_after(&self, place: u64) -> Vec<Bytes> {
        let mut skip = place.saturating_sub(self.held_from);
        let mut after = Vec::new();
        for piece in &self.held {
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= skipped as u64;
            if skipped < piece.len() {
                after.push(piece.slice(skipped..));
            }
        }
        after
    }

    fn held_bytes(&self) -> u64 {
        self.end - self.held_from
    }
}

impl OpenPart {
    pub(crate) fn gathered(&self) -> MutexGuard<'_, Gathered> {
        lock(&self.gathered)
    }

    /// Adds bytes.
    pub(crate) fn push(&self, inner: &Inner, chunk: Bytes) {
        let mut gathered = self.gathered();
        let length = chunk.len() as u64;
        gathered.held.push(chunk);
        gathered.end += length;
        inner.open_parts.held_bytes.fetch_add(length, Ordering::Relaxed);
    }

    /// Takes the whole part, and begins the next.
    pub(crate) fn take(&self, inner: &Inner) -> Gathered {
        let mut gathered = self.gathered();
        let open_at = gathered.open_at + gathered.end;
        let taken = std::mem::replace(&mut *gathered, Gathered { open_at, ..Gathered::default() });
        inner.open_parts.count_released(taken.held_bytes());
        taken
    }

    /// Requests that the bytes behind the last tail are stored as another one.
    pub(crate) fn save_tail(self: &Arc<Self>, inner: &Arc<Inner>, gathered: &mut Gathered) {
        let (earlier, from) = match gathered.tails.len() {
            MOST_TAILS.. => (std::mem::take(&mut gathered.tails), 0),
            _ => (Vec::new(), gathered.saved),
        };
        let (read_to, held) = (gathered.held_from.saturating_sub(from), gathered.held_after(from));
        let (name, length_bytes) = (self.extras.name(), gathered.end - from);
        let (inner, part) = (Arc::clone(inner), Arc::clone(self));
        gathered.tails.push(request(&self.turn, async move {
            let patience = inner.patience(&part.turn.ended);
            let (_room, mut pieces) = inner.read_back(&part.key, earlier, read_to, &patience).await?;
            pieces.extend(held);
            inner.put_extra(&part.key, name, &pieces, &patience).await?;
            Ok(Tail { name, length_bytes })
        }));
        gathered.saved = gathered.end;
    }

    /// Stores what is not stored yet, and releases its memory afterwards.
    fn leave_memory(self: Arc<Self>, inner: &Arc<Inner>, leaving_bytes: u64) {
        let (open_at, end, tails) = {
            let mut gathered = self.gathered();
            if gathered.has_unsaved() {
                self.save_tail(inner, &mut gathered);
            }
            (gathered.open_at, gathered.end, gathered.tails.clone())
        };
        let inner = Arc::clone(inner);
        let turn = self.turn.clone();
        turn.tasks.spawn(async move {
            let stored = futures::future::try_join_all(tails).await;
            {
                let mut gathered = self.gathered();
                // After a failure the writer learns of it with its next checkpoint; a part that was sent
                // meanwhile has taken its memory along.
                if stored.is_ok() && gathered.open_at == open_at && gathered.held_from < end {
                    let released = end - gathered.held_from;
                    gathered.held = gathered.held_after(end);
                    gathered.held_from = end;
                    inner.open_parts.count_released(released);
                }
            }
            self.is_leaving.store(false, Ordering::Relaxed);
            inner.open_parts.leaving_bytes.fetch_sub(leaving_bytes, Ordering::Relaxed);
        });
    }
}

/// The open parts of all writers of a store.
#[derive(Debug)]
pub(crate) struct OpenParts {
    most_bytes: u64,
    held_bytes: AtomicU64,
    /// Bytes among them whose memory is about to be released.
    leaving_bytes: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    parts: HashMap<u64, Weak<OpenPart>>,
    last_number: u64,
}

/// An open part among those of the store, until it is dropped with its writer.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) part: Arc<OpenPart>,
    number: u64,
    inner: Arc<Inner>,
}

impl OpenParts {
    pub(crate) fn new(most_bytes: u64) -> Self {
        Self { most_bytes, held_bytes: AtomicU64::new(0), leaving_bytes: AtomicU64::new(0), known: Mutex::default() }
    }

    fn count_released(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Stores the fullest parts as tails when they hold too much memory in total.
    pub(crate) fn relieve(&self, inner: &Arc<Inner>) {
        let staying = || {
            let held = self.held_bytes.load(Ordering::Relaxed);
            held.saturating_sub(self.leaving_bytes.load(Ordering::Relaxed))
        };
        if staying() <= self.most_bytes {
            return;
        }
        let known = lock(&self.known);
        let mut parts: Vec<Arc<OpenPart>> = known.parts.values().filter_map(Weak::upgrade).collect();
        drop(known);
        parts.sort_by_cached_key(|part| std::cmp::Reverse(part.gathered().held_bytes()));
        for part in parts {
            let bytes = part.gathered().held_bytes();
            if bytes == 0 || staying() <= self.most_bytes / 4 * 3 {
                return;
            }
            if part.is_leaving.swap(true, Ordering::Relaxed) {
                continue;
            }
            self.leaving_bytes.fetch_add(bytes, Ordering::Relaxed);
            part.leave_memory(inner, bytes);
        }
    }
}

impl Registered {
    pub(crate) fn new(inner: Arc<Inner>, key: BlobKey, turn: Turn, extras: Extras, gathered: Gathered) -> Self {
        let part = Arc::new(OpenPart {
            key,
            turn,
            extras,
            gathered: Mutex::new(gathered),
            is_leaving: AtomicBool::new(false),
        });
        let mut known = lock(&inner.open_parts.known);
        known.last_number += 1;
        let number = known.last_number;
        known.parts.insert(number, Arc::downgrade(&part));
        drop(known);
        Self { part, number, inner }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.inner.open_parts.known).parts.remove(&self.number);
        let mut gathered = self.part.gathered();
        let released = gathered.held_bytes();
        gathered.held.clear();
        gathered.held_from = gathered.end;
        self.inner.open_parts.count_released(released);
    }
}

/// Begins a request of a writer.
pub(crate) fn request<T: Clone + Send + Sync + 'static>(
    turn: &Turn,
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Requested<T> {
    let task = turn.tasks.spawn(work);
    async move { task.await.unwrap_or_else(|error| Err(Failure::new(FailureKind::Ended, error.to_string()))) }
        .boxed()
        .shared()
}

/// Returns something that is known already.
pub(crate) fn known<T: Clone + Send + Sync + 'static>(value: T) -> Requested<T> {
    futures::future::ready(Ok(value)).boxed().shared()
}
