//! Memory for bytes on their way to the store, with a ceiling.
//!
//! Whoever takes bytes in fills a [`Buffer`] and hands it on as [`Bytes`]; the memory comes back when the last of those
//! is dropped. All buffers together never hold more than the ceiling: who asks for one more waits, first come, first
//! served. Bytes that are kept for longer than it takes to store them come out of the same ceiling, at most half of it,
//! and are refused where that is used up: whoever waited for them might be what they wait for. So that many who want little are not held up by a few who want much, buffers become smaller as the pool
//! runs low.
//!
//! Buffers of [`DIRECT_MIN_BYTES`] and more are laid out for direct writes: the byte for the offset `at` lies as far
//! from a multiple of [`BLOCK_BYTES`] in memory as it will in the file.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

/// What direct writes are aligned to, in the file and in memory: a multiple of every usual sector size.
pub const BLOCK_BYTES: usize = 4096;

/// The smallest piece worth writing directly.
pub const DIRECT_MIN_BYTES: usize = 64 << 10;

/// The sizes of buffers.
const SIZES_BYTES: [usize; 5] = [MIN_BUFFER_BYTES, 16 << 10, DIRECT_MIN_BYTES, 256 << 10, MAX_BUFFER_BYTES];
pub const MIN_BUFFER_BYTES: usize = 4 << 10;
pub const MAX_BUFFER_BYTES: usize = 1 << 20;

/// A buffer takes at most this part of what is free.
const SHARE: usize = 64;

/// So much freed memory is kept for the next upload, which then need not fault it in page by page.
const MAX_SPARE_BYTES: usize = 16 << 20;

/// A pool. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    /// One permit for each of the smallest buffers that would fit.
    free: Arc<Semaphore>,
    /// Those of them that may be kept: half of all.
    keepable: Arc<Semaphore>,
    most_kept_bytes: usize,
    spare: Mutex<Spare>,
}

/// Memory of freed buffers.
#[derive(Default)]
struct Spare {
    pieces: Vec<Vec<u8>>,
    size_bytes: usize,
}

/// Memory being filled.
pub struct Buffer {
    memory: Vec<u8>,
    /// Where the first byte is, the next will be, and no more fits.
    start: usize,
    next: usize,
    end: usize,
    pool: Arc<Shared>,
    _room: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool of at most `ceiling_bytes`, but of some of the largest buffers at least.
    pub fn new(ceiling_bytes: u64) -> Self {
        let most = u32::MAX as usize;
        let buffers = usize::try_from(ceiling_bytes).unwrap_or(usize::MAX) / MIN_BUFFER_BYTES;
        let least = 4 * MAX_BUFFER_BYTES / MIN_BUFFER_BYTES;
        let buffers = buffers.clamp(least, most.min(Semaphore::MAX_PERMITS));
        let (free, keepable) = (Arc::new(Semaphore::new(buffers)), Arc::new(Semaphore::new(buffers / 2)));
        let most_kept_bytes = buffers / 2 * MIN_BUFFER_BYTES;
        Self(Arc::new(Shared { free, keepable, most_kept_bytes, spare: Mutex::default() }))
    }

    /// Bytes that nobody holds.
    pub fn free_bytes(&self) -> usize {
        self.0.free.available_permits().saturating_mul(MIN_BUFFER_BYTES)
    }

    /// Copies bytes to keep them for an unknown time. `None` while there is no memory for that; it never waits.
    pub fn try_keep(&self, bytes: &[u8]) -> Option<Bytes> {
        let permits = u32::try_from(bytes.len().div_ceil(MIN_BUFFER_BYTES)).ok()?;
        let share = Arc::clone(&self.0.keepable).try_acquire_many_owned(permits).ok()?;
        let room = Arc::clone(&self.0.free).try_acquire_many_owned(permits).ok()?;
        Some(Bytes::from_owner(Kept { bytes: bytes.into(), _room: room, _share: share }))
    }

    /// The most that is ever kept at once. What is kept counts in whole buffers of [`MIN_BUFFER_BYTES`].
    pub fn most_kept_bytes(&self) -> usize {
        self.0.most_kept_bytes
    }

    /// A buffer of about `wanted_bytes` for what goes to the offset `at`; waits while there is none.
    ///
    /// It is smaller than wanted where the pool runs low, and never larger than [`MAX_BUFFER_BYTES`].
    pub async fn take(&self, at: u64, wanted_bytes: usize) -> Buffer {
        let size_bytes = size_for(wanted_bytes, self.free_bytes());
        let permits = u32::try_from(size_bytes / MIN_BUFFER_BYTES).expect("a buffer has few blocks");
        let room = Arc::clone(&self.0.free).acquire_many_owned(permits).await;
        let room = room.expect("the pool is never closed");
        let memory = self.0.memory(size_bytes);
        let lead = if size_bytes < DIRECT_MIN_BYTES { 0 } else { lead_of(at) };
        let aligned = if size_bytes < DIRECT_MIN_BYTES { 0 } else { memory.as_ptr().align_offset(BLOCK_BYTES) };
        let start = aligned + lead;
        Buffer { start, next: start, end: aligned + size_bytes, memory, pool: Arc::clone(&self.0), _room: room }
    }
}

/// Bytes that are kept, and the memory that was set aside for them.
struct Kept {
    bytes: Box<[u8]>,
    _room: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How far the offset `at` is behind the last multiple of a block.
fn lead_of(at: u64) -> usize {
    usize::try_from(at % BLOCK_BYTES as u64).expect("less than a block")
}

/// The size of a buffer for somebody who wants so much, while so much is free.
fn size_for(wanted_bytes: usize, free_bytes: usize) -> usize {
    let most = free_bytes / SHARE;
    let fits = |size: &usize| *size <= most;
    let enough = SIZES_BYTES.into_iter().find(|size| *size >= wanted_bytes).unwrap_or(MAX_BUFFER_BYTES);
    let allowed = SIZES_BYTES.into_iter().rev().find(fits).unwrap_or(MIN_BUFFER_BYTES);
    enough.min(allowed)
}

impl Shared {
    fn memory(&self, size_bytes: usize) -> Vec<u8> {
        let whole = whole_bytes(size_bytes);
        self.spare().take(whole).unwrap_or_else(|| vec![0; whole])
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is allocated for a buffer: with room to begin at the border of a block.
fn whole_bytes(size_bytes: usize) -> usize {
    if size_bytes < DIRECT_MIN_BYTES { size_bytes } else { size_bytes + BLOCK_BYTES }
}

impl Spare {
    fn take(&mut self, whole_bytes: usize) -> Option<Vec<u8>> {
        let found = self.pieces.iter().rposition(|piece| piece.len() == whole_bytes)?;
        self.size_bytes -= whole_bytes;
        Some(self.pieces.swap_remove(found))
    }

    /// Small pieces are left to the allocator, which keeps them at hand anyway.
    fn keep(&mut self, piece: Vec<u8>) {
        if piece.len() > DIRECT_MIN_BYTES && self.size_bytes + piece.len() <= MAX_SPARE_BYTES {
            self.size_bytes += piece.len();
            self.pieces.push(piece);
        }
    }
}

impl Buffer {
    /// Copies in as much of `bytes` as there is room for; says how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.end - self.next);
        self.memory[self.next..self.next + count].copy_from_slice(&bytes[..count]);
        self.next += count;
        count
    }

    pub fn len(&self) -> usize {
        self.next - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.next == self.start
    }

    pub fn is_full(&self) -> bool {
        self.next == self.end
    }

    /// How much it can hold.
    pub fn size_bytes(&self) -> usize {
        self.end - self.start
    }

    /// What was filled in, to hand on.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.next]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.spare().keep(memory);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("free_bytes", &self.free_bytes()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("size_bytes", &self.size_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn address(bytes: &Bytes) -> usize {
        bytes.as_ptr().addr()
    }

    #[tokio::test]
    async fn what_is_filled_in_comes_out() {
        let pool = Pool::new(64 * MIB);
        let mut buffer = pool.take(0, 10_000).await;
        assert_eq!((buffer.size_bytes(), buffer.is_empty()), (16 << 10, true));
        assert_eq!(buffer.fill(b"some"), 4);
        assert_eq!(buffer.fill(&[7; 20_000]), (16 << 10) - 4);
        assert!(buffer.is_full());
        assert_eq!(buffer.fill(b"more"), 0);
        let bytes = buffer.freeze();
        assert!(bytes.starts_with(b"some\x07") && bytes.len() == 16 << 10);
    }

    #[tokio::test]
    async fn memory_used_again_shows_nothing_of_its_past() {
        let pool = Pool::new(64 * MIB);
        let mut buffer = pool.take(0, MAX_BUFFER_BYTES).await;
        buffer.fill(&[7; MAX_BUFFER_BYTES]);
        let first = buffer.freeze();
        let place = address(&first);
        drop(first);
        let mut buffer = pool.take(0, MAX_BUFFER_BYTES).await;
        buffer.fill(b"new");
        let second = buffer.freeze();
        assert_eq!((address(&second), &second[..]), (place, &b"new"[..]));
    }

    #[tokio::test]
    async fn a_byte_lies_in_memory_as_it_will_in_the_file() {
        let pool = Pool::new(256 * MIB);
        for at in [0_u64, 1, 4095, 4096, 123_456_789] {
            let mut buffer = pool.take(at, MAX_BUFFER_BYTES).await;
            buffer.fill(b"x");
            let lead = usize::try_from(at).unwrap() % BLOCK_BYTES;
            assert_eq!(buffer.size_bytes(), MAX_BUFFER_BYTES - lead);
            assert_eq!(address(&buffer.freeze()) % BLOCK_BYTES, lead, "{at}");
        }
    }

    #[tokio::test]
    async fn the_ceiling_holds_and_who_waits_gets_what_is_given_back() {
        let pool = Pool::new(4 * MIB);
        let total = pool.free_bytes();
        let mut taken = Vec::new();
        while let Some(buffer) = tokio::task::unconstrained(pool.take(0, MAX_BUFFER_BYTES)).now_or_never() {
            taken.push(buffer);
            assert!(taken.len() <= 1024, "there is no end to it");
        }
        let held: usize = taken.iter().map(Buffer::size_bytes).sum();
        assert_eq!((held, pool.free_bytes()), (total, 0));
        let mut waiting = Box::pin(pool.take(0, MAX_BUFFER_BYTES));
        assert!((&mut waiting).now_or_never().is_none());
        taken.pop();
        assert_eq!(waiting.now_or_never().map(|buffer| buffer.size_bytes()), Some(MIN_BUFFER_BYTES));
        taken.clear();
        assert_eq!(pool.free_bytes(), total);
    }

    #[tokio::test]
    async fn what_is_kept_leaves_half_to_what_goes_round() {
        let pool = Pool::new(8 * MIB);
        let total = pool.free_bytes();
        let most = pool.most_kept_bytes();
        assert_eq!(most, total / 2);
        let mut kept = Vec::new();
        while let Some(bytes) = pool.try_keep(&[7; 100_000]) {
            assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == 7));
            kept.push(bytes);
            assert!(kept.len() < 1024, "there is no end to it");
        }
        let each = 25 * MIN_BUFFER_BYTES;
        assert_eq!((kept.len(), pool.free_bytes()), (most / each, total - most / each * each));
        assert!(pool.try_keep(&[1]).is_some(), "one of the smallest fits still");
        assert!(pool.take(0, MAX_BUFFER_BYTES).now_or_never().is_some(), "buffers go round");
        assert!(Pool::new(8 * MIB).try_keep(&vec![0; most + 1]).is_none());
        kept.pop();
        assert!(pool.try_keep(&[7; 100_000]).is_some());
        kept.clear();
        assert_eq!(pool.free_bytes(), total);
        // Nothing is kept of what others need just now, and a try that fails takes nothing.
        let mut taken = Vec::new();
        while let Some(buffer) = tokio::task::unconstrained(pool.take(0, MAX_BUFFER_BYTES)).now_or_never() {
            taken.push(buffer);
        }
        assert!(pool.try_keep(&[7; 100_000]).is_none());
        taken.clear();
        assert!(pool.try_keep(&vec![0; most]).is_some());
    }

    #[test]
    fn buffers_become_smaller_as_the_pool_runs_low() {
        let mib = 1 << 20;
        for (wanted, free, expected) in [
            (1, 256 * mib, 4 << 10),
            (5_000, 256 * mib, 16 << 10),
            (mib, 256 * mib, mib),
            (usize::MAX, 256 * mib, mib),
            (mib, 64 * mib, mib),
            (mib, 64 * mib - 1, 256 << 10),
            (mib, 4 * mib, 64 << 10),
            (mib, 0, 4 << 10),
        ] {
            assert_eq!(size_for(wanted, free), expected, "{wanted} of {free}");
        }
    }
}
