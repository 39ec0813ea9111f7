//! RIFF: the chunks of WAV and WebP files, each with its length.

use crate::fields::le;
use crate::window::{ParseStop, Window};

/// The position of the first chunk.
pub(super) const FIRST: u64 = 12;

/// A chunk: its kind, and the position of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) kind: [u8; 4],
    pub(super) start: u64,
    pub(super) size: u64,
}

impl Chunk {
    /// Returns the position of the next chunk, which is even.
    pub(super) fn next(&self) -> u64 {
        self.start.saturating_add(self.size).saturating_add(self.size % 2)
    }
}

/// Reads the header of the chunk at `at`, if the file has one there. Its size may exceed the file.
pub(super) fn chunk(window: &Window, at: u64) -> Result<Option<Chunk>, ParseStop> {
    if window.size_bytes().saturating_sub(at) < 8 {
        return Ok(None);
    }
    let head = window.get(at, 8)?;
    let kind = [head[0], head[1], head[2], head[3]];
    Ok(Some(Chunk { kind, start: at + 8, size: le::<4>(&head, 4)? }))
}
