//! The bytes of an upload fetched so far, in blocks, and the number that may still be fetched.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

/// Bytes are fetched in blocks of this size. Most headers of media files fit into one.
pub const BLOCK_BYTES: u64 = BLOCK as u64;
const BLOCK: usize = 64 << 10;

/// The reason why a reader stopped before the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseStop {
    /// These bytes must be fetched first.
    Needs(Range<u64>),
    /// The file is not of the type that it seemed to be.
    Unreadable,
    /// Going further needs more bytes or steps than are allowed for one upload.
    Exhausted,
}

/// Number of bytes fetched at once of a file that is read sequentially.
const STRIDE_BYTES: u64 = 1 << 20;

/// The fetched bytes of an upload.
#[derive(Debug)]
pub struct Window {
    size_bytes: u64,
    limit_bytes: u64,
    /// Number of bytes that may still be fetched.
    left_bytes: u64,
    blocks: BTreeMap<u64, Bytes>,
}

impl Window {
    /// Creates an empty window of an upload of this size, which will fetch at most `limit_bytes` of it.
    pub fn new(size_bytes: u64, limit_bytes: u64) -> Self {
        Self { size_bytes, limit_bytes, left_bytes: limit_bytes, blocks: BTreeMap::new() }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the maximum number of bytes that may be fetched in total.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Returns the beginning of the upload, by which its type is recognized.
    pub fn head(&self) -> Result<Cow<'_, [u8]>, ParseStop> {
        self.get(0, self.size_bytes.min(BLOCK_BYTES))
    }

    /// Returns `count` bytes from `start` on.
    pub(super) fn get(&self, start: u64, count: u64) -> Result<Cow<'_, [u8]>, ParseStop> {
        self.fetched(start, count, 0)
    }

    /// Returns the same as [`get`](Self::get), and reads ahead if anything has to be fetched.
    pub(super) fn next(&self, start: u64, count: u64) -> Result<Cow<'_, [u8]>, ParseStop> {
        self.fetched(start, count, STRIDE_BYTES)
    }

    /// Requests all of `count` bytes from `start` on at once, unless they were fetched.
    pub(super) fn want(&self, start: u64, count: u64) -> Result<(), ParseStop> {
        self.blocks_with(start, count, 0).map(drop)
    }

    fn fetched(&self, start: u64, count: u64, ahead_bytes: u64) -> Result<Cow<'_, [u8]>, ParseStop> {
        let Some((first, last, end)) = self.blocks_with(start, count, ahead_bytes)? else {
            return Ok(Cow::Borrowed(&[]));
        };
        let part = |index: u64| {
            let (block, at) = (self.blocks.get(&index), index * BLOCK_BYTES);
            let (from, to) = (start.max(at) - at, end.min(at + BLOCK_BYTES) - at);
            let within = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            within.and_then(|(from, to)| block?.get(from..to)).ok_or(ParseStop::Unreadable)
        };
        if first == last {
            return part(first).map(Cow::Borrowed);
        }
        let parts = (first..=last).map(part).collect::<Result<Vec<_>, _>>()?;
        Ok(Cow::Owned(parts.concat()))
    }

    /// Returns the first and the last block of these bytes, and the end of the bytes, once all blocks are
    /// fetched.
    fn blocks_with(&self, start: u64, count: u64, ahead_bytes: u64) -> Result<Option<(u64, u64, u64)>, ParseStop> {
        let end = start.checked_add(count).filter(|end| *end <= self.size_bytes).ok_or(ParseStop::Unreadable)?;
        if count == 0 {
            return Ok(None);
        }
        let (first, last) = (start / BLOCK_BYTES, (end - 1) / BLOCK_BYTES);
        let Some(missing) = self.missing(first, last) else { return Ok(Some((first, last, end))) };
        let ahead = self.missing(missing.start / BLOCK_BYTES, self.last_of(missing.start, ahead_bytes).max(last));
        let affordable = |range: &Range<u64>| range.end - range.start <= self.left_bytes;
        let range = ahead.filter(affordable).unwrap_or(missing);
        Err(if affordable(&range) { ParseStop::Needs(range) } else { ParseStop::Exhausted })
    }

    /// Returns the block with the last of `count` bytes from `start` on, or the last block of the upload.
    fn last_of(&self, start: u64, count: u64) -> u64 {
        start.saturating_add(count).min(self.size_bytes).saturating_sub(1) / BLOCK_BYTES
    }

    /// Returns the first run of blocks from `first` to `last` that were not fetched.
    fn missing(&self, first: u64, last: u64) -> Option<Range<u64>> {
        let is_missing = |index: &u64| !self.blocks.contains_key(index);
        let from = (first..=last).find(is_missing)?;
        let to = (from..=last).take_while(is_missing).last()?;
        Some(from * BLOCK_BYTES..((to + 1) * BLOCK_BYTES).min(self.size_bytes))
    }

    /// Adds bytes that were fetched because a reader [needs](ParseStop::Needs) them.
    pub fn insert(&mut self, at: u64, mut bytes: Bytes) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes.len() as u64);
        let mut index = at / BLOCK_BYTES;
        while !bytes.is_empty() {
            let block = bytes.split_to(bytes.len().min(BLOCK));
            self.blocks.insert(index, block);
            index += 1;
        }
    }
}

/// Turns an unreadable or too expensive part into `None`, for facts that a reader can do without.
pub(super) fn unless_stopped<T>(found: Result<T, ParseStop>) -> Result<Option<T>, ParseStop> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(needs @ ParseStop::Needs(_)) => Err(needs),
        Err(ParseStop::Unreadable | ParseStop::Exhausted) => Ok(None),
    }
}
