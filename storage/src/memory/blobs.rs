//! The durable bytes of each blob, and the rules for changing them.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::stretches::Stretches;
use crate::error::Unsealed;
use crate::{Abilities, BlobKey, BlobPart, Epoch, durable_end};

#[derive(Debug, Default)]
pub(super) struct Blobs {
    pub(super) open: HashMap<BlobKey, Open>,
    pub(super) finished: HashMap<BlobKey, Bytes>,
    /// The number of the last opening. Each opening of a blob has its own.
    last_turn: u64,
}

/// A blob that is not finished: only its durable bytes.
#[derive(Debug)]
pub(super) struct Open {
    bytes: Vec<u8>,
    /// The ranges of them that a checkpoint has covered.
    covered: Stretches,
    /// The opening that may write to it; 0 if none may.
    turn: u64,
    /// The epoch it was opened under.
    epoch: Epoch,
    /// True if that opening was closed: its writer can change nothing any more.
    is_closed: bool,
    is_sealed: bool,
    /// Number of checkpoints that have cost an additional small object.
    small_pieces: u64,
}

impl Open {
    fn new(epoch: Epoch) -> Self {
        Self {
            bytes: Vec::new(),
            covered: Stretches::default(),
            turn: 0,
            epoch,
            is_closed: false,
            is_sealed: false,
            small_pieces: 0,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn small_pieces(&self) -> u64 {
        self.small_pieces
    }

    pub(super) fn covered(&self) -> &Stretches {
        &self.covered
    }

    /// Copies a chunk to its offset.
    pub(super) fn put(&mut self, offset: u64, chunk: &[u8]) -> io::Result<()> {
        let start = index(offset)?;
        let end = start.checked_add(chunk.len()).ok_or(io::ErrorKind::InvalidInput)?;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(chunk);
        self.covered.insert(offset..offset + chunk.len() as u64);
        Ok(())
    }

    /// Records that a checkpoint was kept.
    pub(super) fn cover(&mut self, end: u64, abilities: &Abilities) {
        if !end.is_multiple_of(abilities.checkpoint_bytes) {
            self.small_pieces += 1;
        }
    }

    pub(super) fn end_writer(&mut self) {
        self.turn = 0;
    }
}

impl Blobs {
    /// Returns the durable bytes of a blob, open or finished.
    pub(super) fn bytes(&self, key: &BlobKey) -> Option<&[u8]> {
        self.finished.get(key).map(AsRef::as_ref).or_else(|| self.open.get(key).map(|blob| blob.bytes.as_slice()))
    }

    /// Returns the blob that this opening may write to.
    pub(super) fn of_turn(&mut self, key: &BlobKey, turn: u64) -> io::Result<&mut Open> {
        let blob = self.open.get_mut(key).filter(|blob| blob.turn == turn);
        blob.ok_or_else(|| io::Error::other("the blob was reopened, sealed, finished or removed concurrently"))
    }

    /// Records that the writer of this opening has ended properly.
    pub(super) fn close(&mut self, key: &BlobKey, turn: u64) {
        if let Ok(blob) = self.of_turn(key, turn) {
            blob.is_closed = true;
        }
    }

    pub(super) fn open(&mut self, key: &BlobKey, epoch: Epoch, end: u64, takes_over: bool) -> io::Result<u64> {
        if self.finished.contains_key(key) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is already finished"));
        }
        let known = self.open.get(key);
        if known.is_some_and(|blob| blob.is_sealed) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is already sealed"));
        }
        let is_foreign = |blob: &&Open| !takes_over && blob.epoch != epoch && !blob.is_closed;
        if let Some(theirs) = known.filter(is_foreign).map(|blob| blob.epoch) {
            let foreign = format!("epoch {theirs} has not closed it, so it cannot be resumed in epoch {epoch}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, foreign));
        }
        let end = index(end)?;
        let length = known.map(|blob| blob.bytes.len());
        if length.unwrap_or(0) < end {
            let kind = if length.is_none() { io::ErrorKind::NotFound } else { io::ErrorKind::UnexpectedEof };
            let short = format!("it has {} bytes, but {end} were durable", length.unwrap_or(0));
            return Err(io::Error::new(kind, short));
        }
        self.last_turn += 1;
        let blob = self.open.entry(key.clone()).or_insert_with(|| Open::new(epoch));
        blob.bytes.truncate(end);
        blob.covered.cut(end as u64);
        blob.turn = self.last_turn;
        blob.epoch = epoch;
        blob.is_closed = false;
        Ok(self.last_turn)
    }

    pub(super) fn concatenate(
        &mut self,
        parts: &[BlobPart],
        into: &BlobKey,
        epoch: Epoch,
        reads_open: bool,
    ) -> io::Result<u64> {
        if parts.iter().any(|part| part.key == *into) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a blob cannot be a part of itself"));
        }
        self.open(into, epoch, 0, true)?;
        let joined = self.join(parts, reads_open).inspect_err(|_| {
            self.open.remove(into);
        })?;
        let end = joined.len() as u64;
        let blob = self.open.entry(into.clone()).or_insert_with(|| Open::new(epoch));
        blob.covered.insert(0..end);
        blob.bytes = joined;
        blob.is_closed = true;
        Ok(end)
    }

    fn join(&self, parts: &[BlobPart], reads_open: bool) -> io::Result<Vec<u8>> {
        let mut joined = Vec::new();
        for part in parts.iter().filter(|part| part.size_bytes > 0) {
            let Some(bytes) = self.bytes(&part.key) else {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("part {} does not exist", part.key)));
            };
            self.check_readable(&part.key, reads_open)?;
            let Some(whole) = bytes.get(..index(part.size_bytes)?) else {
                let short = format!("part {} has {} bytes, not {}", part.key, bytes.len(), part.size_bytes);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
            };
            joined.extend_from_slice(whole);
        }
        Ok(joined)
    }

    pub(super) fn seal(&mut self, key: &BlobKey, end: u64, size_bytes: u64) -> io::Result<()> {
        if self.is_finished(key, size_bytes)? {
            return Ok(());
        }
        durable_end::check_size(end, size_bytes)?;
        let size = index(size_bytes)?;
        match self.open.get_mut(key) {
            None if size > 0 => Err(io::ErrorKind::NotFound.into()),
            None => Ok(()),
            Some(blob) if blob.bytes.len() < size => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(blob) if blob.is_sealed && blob.bytes.len() > size => Err(other_size(blob.bytes.len(), size_bytes)),
            Some(blob) => {
                blob.bytes.truncate(size);
                blob.is_sealed = true;
                blob.end_writer();
                Ok(())
            }
        }
    }

    pub(super) fn finish(&mut self, key: &BlobKey, end: u64, size_bytes: u64) -> io::Result<()> {
        self.seal(key, end, size_bytes)?;
        if !self.finished.contains_key(key) {
            let bytes = self.open.remove(key).map(|blob| blob.bytes).unwrap_or_default();
            self.finished.insert(key.clone(), bytes.into());
        }
        Ok(())
    }

    fn is_finished(&self, key: &BlobKey, size_bytes: u64) -> io::Result<bool> {
        match self.finished.get(key) {
            None => Ok(false),
            Some(bytes) if bytes.len() as u64 == size_bytes => Ok(true),
            Some(bytes) => Err(other_size(bytes.len(), size_bytes)),
        }
    }

    pub(super) fn read(&self, key: &BlobKey, range: Range<u64>, reads_open: bool) -> io::Result<Option<Bytes>> {
        let blob = self.finished.get(key).cloned();
        let Some(bytes) = self.bytes(key) else { return Err(io::ErrorKind::NotFound.into()) };
        self.check_readable(key, reads_open)?;
        let range = index(range.start)?..index(range.end)?;
        if range.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let found = bytes.get(range.clone());
        Ok(found.map(|found| blob.map_or_else(|| Bytes::copy_from_slice(found), |blob| blob.slice(range))))
    }

    fn check_readable(&self, key: &BlobKey, reads_open: bool) -> io::Result<()> {
        let is_open = self.open.get(key).is_some_and(|blob| !blob.is_sealed);
        if is_open && !reads_open { Err(io::Error::other(Unsealed)) } else { Ok(()) }
    }
}

fn other_size(length: usize, size_bytes: u64) -> io::Error {
    io::Error::other(format!("it is sealed with {length} bytes, not with {size_bytes}"))
}

pub(super) fn index(place: u64) -> io::Result<usize> {
    usize::try_from(place).map_err(|_| io::ErrorKind::InvalidInput.into())
}
