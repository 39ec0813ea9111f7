//! The bytes of an upload as far as they were fetched, block by block, and how many more may be.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

/// Bytes are fetched in blocks of this size. Most headers of media files lie within one.
pub const BLOCK_BYTES: u64 = BLOCK as u64;
const BLOCK: usize = 64 << 10;

/// Why a reader did not get to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// These bytes are to be fetched first.
    Needs(Range<u64>),
    /// It is not what it seemed to be, or asks for too much.
    Unreadable,
}

/// What was fetched of an upload.
#[derive(Debug)]
pub struct Window {
    size_bytes: u64,
    /// How much may still be fetched.
    left_bytes: u64,
    blocks: BTreeMap<u64, Bytes>,
}

impl Window {
    /// Nothing yet of an upload of this size, and at most `limit_bytes` of it ever.
    pub fn new(size_bytes: u64, limit_bytes: u64) -> Self {
        Self { size_bytes, left_bytes: limit_bytes, blocks: BTreeMap::new() }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Where an upload begins: what its type is told by.
    pub fn head(&self) -> Result<Cow<'_, [u8]>, Stop> {
        self.get(0, self.size_bytes.min(BLOCK_BYTES))
    }

    /// `count` bytes from `start` on.
    pub(super) fn get(&self, start: u64, count: u64) -> Result<Cow<'_, [u8]>, Stop> {
        let end = start.checked_add(count).filter(|end| *end <= self.size_bytes).ok_or(Stop::Unreadable)?;
        if count == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let (first, last) = (start / BLOCK_BYTES, (end - 1) / BLOCK_BYTES);
        if let Some(missing) = self.missing(first, last) {
            let affordable = missing.end - missing.start <= self.left_bytes;
            return Err(if affordable { Stop::Needs(missing) } else { Stop::Unreadable });
        }
        let part = |index: u64| {
            let (block, at) = (self.blocks.get(&index), index * BLOCK_BYTES);
            let (from, to) = (start.max(at) - at, end.min(at + BLOCK_BYTES) - at);
            let within = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            within.and_then(|(from, to)| block?.get(from..to)).ok_or(Stop::Unreadable)
        };
        if first == last {
            return part(first).map(Cow::Borrowed);
        }
        let parts = (first..=last).map(part).collect::<Result<Vec<_>, _>>()?;
        Ok(Cow::Owned(parts.concat()))
    }

    /// The first blocks in a row that were not fetched, from `first` to `last`.
    fn missing(&self, first: u64, last: u64) -> Option<Range<u64>> {
        let is_missing = |index: &u64| !self.blocks.contains_key(index);
        let from = (first..=last).find(is_missing)?;
        let to = (from..=last).take_while(is_missing).last()?;
        Some(from * BLOCK_BYTES..((to + 1) * BLOCK_BYTES).min(self.size_bytes))
    }

    /// Takes the bytes that were fetched because a reader [needs](Stop::Needs) them.
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
