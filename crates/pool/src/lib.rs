//! A pool of memory for bytes on their way to or from the store, with a ceiling.
//!
//! A producer fills a [`Buffer`] and passes it on as [`Bytes`]; the memory is returned when the last of those
//! is dropped. All buffers together never hold more than the ceiling: further requests wait, in the order of
//! arrival. Bytes that are kept for longer than it takes to store them come out of the same ceiling, at most
//! half of it. Requests to keep bytes never wait and fail when that half is used up: waiting requests might
//! wait for each other. As the pool runs low, buffers become smaller, so that a few large consumers do not
//! block many small ones. A [`Reservation`] counts memory that is allocated elsewhere.
//!
//! Large buffers are mapped and not allocated. An allocator keeps freed memory of this size: with 400 fast
//! uploads under a ceiling of 256 MiB, glibc made it 430 MiB resident, and kept 380 when they were over.
//! Unmapped memory is returned at once, so the ceiling is what the system measures.
//!
//! Buffers of [`DIRECT_MIN_BYTES`] and more are aligned for direct writes: the byte for the offset `at` has
//! the same distance from a multiple of [`BLOCK_BYTES`] in memory as in the file.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The alignment of direct writes, in the file and in memory: a multiple of every usual sector size.
pub const BLOCK_BYTES: usize = 4096;

/// The smallest piece worth writing directly.
pub const DIRECT_MIN_BYTES: usize = 64 << 10;

/// The sizes of buffers.
const SIZES_BYTES: [usize; 5] = [MIN_BUFFER_BYTES, 16 << 10, DIRECT_MIN_BYTES, 256 << 10, MAX_BUFFER_BYTES];
pub const MIN_BUFFER_BYTES: usize = 4 << 10;
pub const MAX_BUFFER_BYTES: usize = 1 << 20;

/// A buffer takes at most the free bytes divided by this.
const SHARE: usize = 64;

/// Amount of freed memory that is kept for the next upload, which then need not fault it in page by page. It
/// counts toward the ceiling.
const MAX_SPARE_BYTES: usize = 16 << 20;

/// A pool of memory. Clones share one pool, and cloning is cheap.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    /// One permit for each of the smallest buffers that would fit.
    free: Arc<Semaphore>,
    most_permits: u32,
    /// The permits among them that may be used for kept bytes: half of all.
    keepable: Arc<Semaphore>,
    most_kept_bytes: usize,
    spare: Mutex<Spare>,
}

/// Memory of freed buffers.
#[derive(Default)]
struct Spare {
    pieces: Vec<Backing>,
    size_bytes: usize,
}

/// The memory of a buffer.
enum Backing {
    Small(Vec<u8>),
    /// Begins at the border of a page.
    Mapped(MmapMut),
    /// A replacement for a mapping that the system refused; large enough to begin at the border of a block.
    Aligned(Vec<u8>),
}

/// A part of the pool for memory that is allocated elsewhere; returned when dropped.
pub struct Reservation(OwnedSemaphorePermit);

/// Memory that is being filled.
pub struct Buffer {
    memory: Backing,
    /// The positions of the first byte, of the next byte, and of the end.
    start: usize,
    next: usize,
    end: usize,
    pool: Arc<Inner>,
    _room: OwnedSemaphorePermit,
}

impl Pool {
    /// Creates a pool of at most `ceiling_bytes`, but at least a few of the largest buffers.
    pub fn new(ceiling_bytes: u64) -> Self {
        let most = u32::MAX as usize;
        let buffers = usize::try_from(ceiling_bytes).unwrap_or(usize::MAX) / MIN_BUFFER_BYTES;
        let least = 4 * MAX_BUFFER_BYTES / MIN_BUFFER_BYTES;
        let buffers = buffers.clamp(least, most.min(Semaphore::MAX_PERMITS));
        let (free, keepable) = (Arc::new(Semaphore::new(buffers)), Arc::new(Semaphore::new(buffers / 2)));
        let most_permits = u32::try_from(buffers).expect("it is not above the most");
        let most_kept_bytes = buffers / 2 * MIN_BUFFER_BYTES;
        Self(Arc::new(Inner { free, most_permits, keepable, most_kept_bytes, spare: Mutex::default() }))
    }

    /// Returns the ceiling in bytes, free and held.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.0.most_permits) * MIN_BUFFER_BYTES as u64
    }

    /// Returns the bytes that are free.
    pub fn free_bytes(&self) -> usize {
        self.0.free_bytes()
    }

    /// Copies bytes to keep them for an unknown time. Returns `None` if there is no memory for that; it never
    /// waits.
    pub fn try_keep(&self, bytes: &[u8]) -> Option<Bytes> {
        let permits = u32::try_from(bytes.len().div_ceil(MIN_BUFFER_BYTES)).ok()?;
        let share = Arc::clone(&self.0.keepable).try_acquire_many_owned(permits).ok()?;
        let room = Arc::clone(&self.0.free).try_acquire_many_owned(permits).ok()?;
        Some(Bytes::from_owner(KeptBytes { bytes: bytes.into(), _room: room, _share: share }))
    }

    /// Returns the maximum that is ever kept at once. Kept bytes count in whole buffers of
    /// [`MIN_BUFFER_BYTES`].
    pub fn most_kept_bytes(&self) -> usize {
        self.0.most_kept_bytes
    }

    /// Takes a buffer of about `wanted_bytes` for bytes at the offset `at`; waits until one is free.
    ///
    /// It is smaller than wanted when the pool runs low, and never larger than [`MAX_BUFFER_BYTES`].
    pub async fn take(&self, at: u64, wanted_bytes: usize) -> Buffer {
        let size_bytes = size_for(wanted_bytes, self.free_bytes());
        let room = Arc::clone(&self.0.free).acquire_many_owned(permits_for(size_bytes)).await;
        self.buffer(at, size_bytes, room.expect("the pool is never closed"))
    }

    /// Takes a buffer of exactly `size_bytes`, unless that is more than a fair part of the free bytes.
    pub fn try_take(&self, at: u64, size_bytes: usize) -> Option<Buffer> {
        if size_for(size_bytes, self.free_bytes()) < size_bytes {
            return None;
        }
        let room = Arc::clone(&self.0.free).try_acquire_many_owned(permits_for(size_bytes)).ok()?;
        Some(self.buffer(at, size_bytes, room))
    }

    /// Reserves `bytes` that are allocated elsewhere, or as many as the whole pool has; waits until they are
    /// free.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let permits = permits_for(bytes).min(self.0.most_permits);
        let room = Arc::clone(&self.0.free).acquire_many_owned(permits).await;
        Reservation(room.expect("the pool is never closed"))
    }

    /// Reserves `bytes` that are allocated elsewhere, if they are free now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        Arc::clone(&self.0.free).try_acquire_many_owned(permits_for(bytes)).ok().map(Reservation)
    }

    fn buffer(&self, at: u64, size_bytes: usize, room: OwnedSemaphorePermit) -> Buffer {
        let memory = self.0.memory(size_bytes);
        let is_large = size_bytes >= DIRECT_MIN_BYTES;
        let (aligned, lead) = if is_large { (memory.aligned(), lead_of(at)) } else { (0, 0) };
        let start = aligned + lead;
        Buffer { start, next: start, end: aligned + size_bytes, memory, pool: Arc::clone(&self.0), _room: room }
    }
}

/// Kept bytes, and the memory that was reserved for them.
struct KeptBytes {
    bytes: Box<[u8]>,
    _room: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for KeptBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the number of permits that cover this many bytes.
fn permits_for(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(MIN_BUFFER_BYTES)).unwrap_or(u32::MAX)
}

impl Reservation {
    /// Releases the part above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let permits = usize::try_from(permits_for(bytes)).unwrap_or(usize::MAX);
        drop(self.0.split(self.0.num_permits().saturating_sub(permits)));
    }

    pub fn size_bytes(&self) -> usize {
        self.0.num_permits() * MIN_BUFFER_BYTES
    }
}

/// Returns the distance of the offset `at` from the multiple of a block before it.
fn lead_of(at: u64) -> usize {
    usize::try_from(at % BLOCK_BYTES as u64).expect("less than a block")
}

/// Returns the size of a buffer when `wanted_bytes` are wanted and `free_bytes` are free.
fn size_for(wanted_bytes: usize, free_bytes: usize) -> usize {
    let most = free_bytes / SHARE;
    let fits = |size: &usize| *size <= most;
    let enough = SIZES_BYTES.into_iter().find(|size| *size >= wanted_bytes).unwrap_or(MAX_BUFFER_BYTES);
    let allowed = SIZES_BYTES.into_iter().rev().find(fits).unwrap_or(MIN_BUFFER_BYTES);
    enough.min(allowed)
}

impl Inner {
    fn free_bytes(&self) -> usize {
        self.free.available_permits().saturating_mul(MIN_BUFFER_BYTES)
    }

    /// Returns memory for a buffer that already has its permits.
    fn memory(&self, size_bytes: usize) -> Backing {
        if size_bytes < DIRECT_MIN_BYTES {
            return Backing::Small(vec![0; size_bytes]);
        }
        let mut spare = self.spare();
        let found = spare.take(size_bytes);
        // Spare memory must not exceed the free bytes that remain, or both together would exceed the ceiling.
        let surplus = if found.is_none() { spare.evict(self.free_bytes()) } else { Vec::new() };
        drop(spare);
        drop(surplus);
        found.unwrap_or_else(|| Backing::map(size_bytes))
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backing {
    fn map(size_bytes: usize) -> Self {
        match MmapMut::map_anon(size_bytes) {
            Ok(mapped) => Self::Mapped(mapped),
            Err(_) => Self::Aligned(vec![0; size_bytes + BLOCK_BYTES]),
        }
    }

    /// Returns the position of the first block in it.
    fn aligned(&self) -> usize {
        self.bytes().as_ptr().align_offset(BLOCK_BYTES)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(bytes) | Self::Aligned(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) | Self::Aligned(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

impl Spare {
    fn take(&mut self, size_bytes: usize) -> Option<Backing> {
        let found = self.pieces.iter().rposition(|piece| piece.bytes().len() == size_bytes)?;
        self.size_bytes -= size_bytes;
        Some(self.pieces.swap_remove(found))
    }

    /// Removes the spare memory that exceeds `free_bytes`.
    fn evict(&mut self, free_bytes: usize) -> Vec<Backing> {
        let mut surplus = Vec::new();
        while self.size_bytes > free_bytes
            && let Some(piece) = self.pieces.pop()
        {
            self.size_bytes -= piece.bytes().len();
            surplus.push(piece);
        }
        surplus
    }

    /// Keeps memory whose permits are about to be released, within the free bytes. Small pieces are left to
    /// the allocator, which keeps them ready anyway.
    fn keep(&mut self, piece: Backing, free_bytes: usize) -> Option<Backing> {
        let size_bytes = piece.bytes().len();
        let most = MAX_SPARE_BYTES.min(free_bytes + size_bytes);
        if !matches!(piece, Backing::Mapped(_)) || self.size_bytes + size_bytes > most {
            return Some(piece);
        }
        self.size_bytes += size_bytes;
        self.pieces.push(piece);
        None
    }
}

impl Buffer {
    /// Copies as much of `bytes` as fits; returns how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.end - self.next);
        self.memory.bytes_mut()[self.next..self.next + count].copy_from_slice(&bytes[..count]);
        self.next += count;
        count
    }

    /// Returns the unfilled part, for a caller that fills it in place and then calls [`Buffer::advance`].
    pub fn unfilled_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[self.next..self.end]
    }

    /// Counts this many bytes of the unfilled part as filled, at most all of it.
    pub fn advance(&mut self, bytes: usize) {
        self.next = self.end.min(self.next.saturating_add(bytes));
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

    /// Returns the capacity in bytes.
    pub fn size_bytes(&self) -> usize {
        self.end - self.start
    }

    /// Returns the filled bytes, to be passed on.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory.bytes()[self.start..self.next]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Backing::Small(Vec::new()));
        let free_bytes = self.pool.free_bytes();
        let kept = self.pool.spare().keep(memory, free_bytes);
        // Unmapped here, after the lock is released and before the permits are.
        drop(kept);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("free_bytes", &self.free_bytes()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("size_bytes", &self.size_bytes()).finish()
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
        // Nothing is kept from the last free bytes, and a failed attempt takes nothing.
        let mut taken = Vec::new();
        while let Some(buffer) = tokio::task::unconstrained(pool.take(0, MAX_BUFFER_BYTES)).now_or_never() {
            taken.push(buffer);
        }
        assert!(pool.try_keep(&[7; 100_000]).is_none());
        taken.clear();
        assert!(pool.try_keep(&vec![0; most]).is_some());
    }

    #[tokio::test]
    async fn spare_memory_is_part_of_the_ceiling() {
        let pool = Pool::new(8 * MIB);
        let take = |size_bytes: usize| pool.take(0, size_bytes).now_or_never().unwrap();
        let large: Vec<_> = (0..8).map(|_| take(128 << 10)).collect();
        assert!(large.iter().all(|buffer| buffer.size_bytes() == 64 << 10));
        drop(large);
        let spare_bytes = || pool.0.spare().size_bytes;
        assert_eq!(spare_bytes(), 8 * (64 << 10));
        // All memory but the spare is taken, and then a little more.
        let _elsewhere = pool.try_reserve(pool.free_bytes() - spare_bytes()).unwrap();
        let _used_again = pool.buffer(0, 64 << 10, pool.try_reserve(64 << 10).unwrap().0);
        assert_eq!(spare_bytes(), 7 * (64 << 10));
        let _another_size = pool.buffer(0, 256 << 10, pool.try_reserve(256 << 10).unwrap().0);
        assert!(spare_bytes() <= pool.free_bytes(), "{} of {}", spare_bytes(), pool.free_bytes());
    }

    #[tokio::test]
    async fn what_is_reserved_is_not_there_for_others_until_it_is_given_back() {
        let pool = Pool::new(4 * MIB);
        let total = pool.free_bytes();
        let mut reserved = pool.reserve(usize::MAX).now_or_never().expect("all there is, not more");
        assert_eq!((reserved.size_bytes(), pool.free_bytes()), (total, 0));
        assert!(pool.try_reserve(1).is_none() && pool.try_take(0, MIN_BUFFER_BYTES).is_none());
        reserved.shrink_to(5_000);
        assert_eq!(total - pool.free_bytes(), 2 * MIN_BUFFER_BYTES);
        reserved.shrink_to(1 << 20);
        assert_eq!(reserved.size_bytes(), 2 * MIN_BUFFER_BYTES, "it does not grow");
        drop(reserved);
        assert_eq!(pool.free_bytes(), total);
        assert!(pool.try_take(0, 64 << 10).is_some() && pool.try_take(0, 256 << 10).is_none(), "only a fair part");
    }

    #[tokio::test]
    async fn a_buffer_can_be_filled_in_place() {
        let pool = Pool::new(64 * MIB);
        let mut buffer = pool.try_take(0, 64 << 10).unwrap();
        buffer.unfilled_mut()[..4].copy_from_slice(b"some");
        buffer.advance(4);
        assert_eq!(buffer.unfilled_mut().len(), (64 << 10) - 4);
        assert_eq!(&buffer.freeze()[..], b"some");
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
