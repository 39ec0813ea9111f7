//! Bytes in any order, from several requests at once, into one blob.
//!
//! - Stored bytes are not written again. Bytes sent for the same range must be equal; the first that differs
//!   ends its request, and the stored bytes are kept.
//! - The bytes of a request with a checksum count all at once or not at all. Until the checksum has matched,
//!   its bytes for empty ranges are written but not counted, and bytes that differ from stored ones are kept
//!   in memory, of which all uploads share a part of the pool. Once it has matched, its bytes replace them.
//! - Of two requests for the same range, the newer ends the older.
//! - A rejected request does not affect the others.
//!
//! After a crash during a replacement, the range may contain old or new bytes. The record already says that
//! their digest is unknown: this is committed before the first byte is replaced. The digest is therefore
//! computed from the stored bytes in the end.

use bytes::Bytes;

use crate::Inner;
use crate::command::{EngineError, Unavailable};
use crate::commit::WriterBroken;
use crate::joined_request::JoinedRequest;
use crate::ledger::Ledger;
use crate::pieces::{Piece, Pieces};
use crate::writer::RequestFailure;
use domain::ranges::ReceivedRanges;
use domain::rejection::Rejection;

/// Limits for uploads whose bytes arrive in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeSettings {
    /// Ranges begin and end at multiples of this, at bytes that are stored, or at the end of the upload. At
    /// least 1; the engine rounds it up to a multiple of the part size of its storage.
    pub alignment_bytes: u64,
    /// Maximum number of separate ranges of an upload, at least 1.
    pub max_ranges: u32,
    /// Maximum number of ranges received in parallel for one upload, at least 1.
    pub max_parallel: usize,
    /// Maximum number of differing bytes, received earlier without a checksum, that one range with a checksum
    /// may replace.
    pub max_replaced_bytes: u64,
}

/// The state of an upload whose bytes arrive in any order.
#[derive(Default)]
pub(super) struct ScatteredState {
    /// The digests of the bytes that count.
    pub(super) pieces: Pieces,
    /// Ranges that were written and cannot be read back yet, counted or not: those written since the last
    /// checkpoint began, and those before.
    unlanded: [ReceivedRanges; 2],
}

impl ScatteredState {
    pub(super) fn new(pieces: Pieces) -> Self {
        Self { pieces, unlanded: Default::default() }
    }

    /// Records that a checkpoint has begun.
    pub(super) fn on_begun(&mut self) {
        self.unlanded.swap(0, 1);
    }

    /// Records that the checkpoint under way is done.
    pub(super) fn on_committed(&mut self) {
        self.unlanded[1].clear();
    }

    /// Writes the bytes of a request to empty ranges, and compares them where bytes are stored.
    pub(super) async fn place(
        &mut self,
        ledger: &mut Ledger,
        request: &mut JoinedRequest,
        start: u64,
        piece: Bytes,
    ) -> Result<(), RequestFailure> {
        let end = start + piece.len() as u64;
        for stretch in ledger.there.spans(start, end) {
            let part = part_of(&piece, stretch.start - start, stretch.end - start);
            if stretch.there {
                // Boxed: it reads stored bytes, and is rarely needed.
                Box::pin(self.compare(ledger, request, stretch.start, part)).await?;
                continue;
            }
            let summed = Piece::of(stretch.start, &part);
            self.write(ledger, stretch.start, part).await?;
            match &mut request.checked {
                Some(checked) => checked.staged.add(summed),
                None => self.count(ledger, summed),
            }
        }
        Ok(())
    }

    async fn write(&mut self, ledger: &mut Ledger, at: u64, bytes: Bytes) -> Result<(), WriterBroken> {
        let end = at + bytes.len() as u64;
        ledger.write(at, bytes).await?;
        self.unlanded[0].insert(at, end);
        Ok(())
    }

    fn count(&mut self, ledger: &mut Ledger, piece: Piece) {
        self.pieces.add(piece);
        ledger.count(piece.start, piece.end);
    }

    /// Compares bytes with the stored ones. Bytes that differ are rejected, or kept until their checksum has
    /// matched.
    async fn compare(
        &mut self,
        ledger: &mut Ledger,
        request: &mut JoinedRequest,
        start: u64,
        part: Bytes,
    ) -> Result<(), RequestFailure> {
        let Some(differs_at) = self.find_difference(ledger, start, &part).await? else { return Ok(()) };
        let Some(checked) = &mut request.checked else {
            return Err(Rejection::DifferentBytes { at: differs_at }.into());
        };
        let Inner { pool, settings, abilities, .. } = &*ledger.committer.inner;
        let limit = settings.ranges.max_replaced_bytes.min(pool.most_kept_bytes() as u64);
        // Where an earlier holder can still write to a blob, it must not be on its way to bytes that count.
        let limit = if abilities.takes_over { limit } else { 0 };
        let kept: u64 = checked.replacing.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        if kept + part.len() as u64 > limit {
            return Err(Rejection::TooMuchToReplace(limit).into());
        }
        // Kept until the client has sent the rest. This does not wait for the pool, because all such requests
        // might wait for each other.
        let memory =
            pool.try_keep(&part).ok_or(RequestFailure::Rejected(EngineError::Unavailable(Unavailable::Full)))?;
        checked.replacing.push((start, memory));
        Ok(())
    }

    /// Returns the first offset, from `start` on, where the stored bytes differ from `bytes`.
    async fn find_difference(
        &mut self,
        ledger: &mut Ledger,
        start: u64,
        bytes: &[u8],
    ) -> Result<Option<u64>, WriterBroken> {
        let end = start + bytes.len() as u64;
        if self.unlanded.iter().any(|unlanded| unlanded.has_some(start, end)) {
            // They are made readable, not committed: with them the record might be full, and the seal has to
            // wait for requests that may still replace some of them.
            ledger.committer.land().await?;
            self.unlanded = Default::default();
        }
        let (inner, upload) = (&ledger.committer.inner, &ledger.committer.upload);
        match inner.first_difference(upload, start, bytes).await {
            Ok(place) => Ok(place),
            Err(error) => Err(inner.explain(upload, error).await.into()),
        }
    }

    /// Counts the bytes of a request whose checksum has matched, and replaces stored bytes that differ.
    pub(super) async fn count_matched(
        &mut self,
        ledger: &mut Ledger,
        staged: &Pieces,
        replacing: Vec<(u64, Bytes)>,
    ) -> Result<(), WriterBroken> {
        if !replacing.is_empty() {
            Box::pin(self.replace(ledger, replacing)).await?;
        }
        for piece in staged.iter() {
            self.count(ledger, piece);
        }
        Ok(())
    }

    async fn replace(&mut self, ledger: &mut Ledger, parts: Vec<(u64, Bytes)>) -> Result<(), WriterBroken> {
        for (start, bytes) in &parts {
            self.pieces.forget(*start, start + bytes.len() as u64);
        }
        self.await_pending(ledger).await?;
        ledger.committer.begin_forgetting_digests();
        self.await_pending(ledger).await?;
        for (start, bytes) in parts {
            let summed = Piece::of(start, &bytes);
            tracing::info!(upload = %ledger.committer.upload.id(), start_bytes = start, end_bytes = summed.end, "bytes with a checksum replace bytes received without one");
            self.write(ledger, start, bytes).await?;
            self.count(ledger, summed);
        }
        Ok(())
    }

    async fn await_pending(&mut self, ledger: &mut Ledger) -> Result<(), WriterBroken> {
        ledger.await_pending().await?;
        self.on_committed();
        Ok(())
    }
}

/// Returns a part of a piece, without copying it.
fn part_of(piece: &Bytes, start: u64, end: u64) -> Bytes {
    let index = |at: u64| usize::try_from(at).expect("it lies within a piece");
    piece.slice(index(start)..index(end))
}
