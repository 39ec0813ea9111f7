//! The written bytes of an upload: those that count, and those that are committed.
//!
//! The ledger decides what the next checkpoint covers; the [`Committer`] makes it durable and commits it.
//! Bytes that count are in `there` as soon as they are written. Only the record decides whether the upload is
//! complete; it includes the bytes of the commit that seals the upload.

use bytes::Bytes;
use tokio::time::Instant;

use crate::command::EngineError;
use crate::commit::{CheckpointScope, Committer, WriterBroken};
use domain::checksum::Digest;
use domain::ranges::ReceivedRanges;
use domain::upload::Upload;

pub(super) struct Ledger {
    pub(super) committer: Committer,
    /// Bytes that count: committed, or written and due to be committed.
    pub(super) there: ReceivedRanges,
    /// Bytes in `there` that no checkpoint covers yet.
    pub(super) fresh: ReceivedRanges,
    /// Set when a change other than bytes is not covered by a checkpoint yet.
    pub(super) other_changes: bool,
    /// The time since which `fresh` has grown without a commit under way.
    pub(super) gathering_since: Instant,
    /// Number of checkpoints begun, and number of those that are done.
    begun: u64,
    done: u64,
}

impl Ledger {
    pub(super) fn new(committer: Committer) -> Self {
        Self {
            there: committer.upload.record().received.clone(),
            committer,
            fresh: ReceivedRanges::default(),
            other_changes: false,
            gathering_since: Instant::now(),
            begun: 0,
            done: 0,
        }
    }

    pub(super) async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), WriterBroken> {
        self.committer.write(at, bytes).await
    }

    /// Counts bytes that were written where there were none, or that have replaced others.
    pub(super) fn count(&mut self, start: u64, end: u64) {
        if self.fresh.is_empty() {
            self.gathering_since = Instant::now();
        }
        self.there.insert(start, end);
        self.fresh.insert(start, end);
    }

    /// Reports whether anything counts that no checkpoint covers yet.
    pub(super) fn has_uncovered(&self) -> bool {
        !self.fresh.is_empty() || self.other_changes
    }

    /// Returns the number of the checkpoint that covers all bytes that count now: the next one, or the latest
    /// if it covers them all.
    pub(super) fn covering_checkpoint(&self) -> u64 {
        self.begun + u64::from(self.has_uncovered())
    }

    /// Returns the number of checkpoints that are done.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Reports whether all bytes have arrived, committed or not.
    pub(super) fn is_full(&self) -> bool {
        self.committer.length().is_some_and(|length| length.is_reached_by(self.there.contiguous()))
    }

    /// Begins to make all bytes durable and to commit them, with the `state` of the digests. `goes_on` says
    /// that more bytes may follow.
    pub(super) async fn start_checkpoint(&mut self, state: Vec<u8>, goes_on: bool) -> Result<(), WriterBroken> {
        self.committer.begin(self.covering(state, None), goes_on).await?;
        // A failed `begin` must leave the counters as they are.
        self.begun += 1;
        self.other_changes = false;
        self.fresh.clear();
        Ok(())
    }

    /// Commits all bytes that count, and waits for it. With digests of the whole, the upload is sealed.
    pub(super) async fn commit_last(&mut self, state: Vec<u8>, seal: Option<Vec<Digest>>) -> Result<(), WriterBroken> {
        self.committer.commit_last(self.covering(state, seal)).await
    }

    /// Returns the scope of a checkpoint over all bytes that count and are not covered yet.
    fn covering(&self, running_digests: Vec<u8>, seal: Option<Vec<Digest>>) -> CheckpointScope {
        CheckpointScope { ranges: self.fresh.pairs().to_vec(), running_digests, seal }
    }

    /// Records the end of the commit under way.
    pub(super) fn on_committed(&mut self, committed: Result<Upload, EngineError>) -> Result<(), WriterBroken> {
        self.committer.on_committed(committed)?;
        self.note_committed();
        Ok(())
    }

    /// Waits for the commit under way, if there is one.
    pub(super) async fn await_pending(&mut self) -> Result<(), WriterBroken> {
        if self.committer.is_pending() {
            self.committer.await_pending().await?;
            self.note_committed();
        }
        Ok(())
    }

    /// Waits for a commit that can no longer be canceled. A checkpoint that still waits for the disk
    /// continues unaffected.
    pub(super) async fn await_commit_under_way(&mut self) -> Result<(), WriterBroken> {
        let was_pending = self.committer.is_pending();
        self.committer.await_commit_under_way().await?;
        if was_pending && !self.committer.is_pending() {
            self.note_committed();
        }
        Ok(())
    }

    fn note_committed(&mut self) {
        self.done = self.begun;
        self.gathering_since = Instant::now();
    }
}
