//! What is written, what of it counts, and what is committed.
//!
//! The [`Committer`] makes things true; the ledger says what the next checkpoint is to cover. What counts is
//! in `there` as soon as it is written. Whether it is whole is decided by the record, with the bytes of the
//! very commit that seals it.

use bytes::Bytes;
use tokio::time::Instant;

use crate::command::EngineError;
use crate::commit::{CheckpointScope, Committer, WriterBroken};
use domain::checksum::Digest;
use domain::ranges::ReceivedRanges;
use domain::upload::Upload;

pub(super) struct Ledger {
    pub(super) committer: Committer,
    /// What is there: committed, or written and about to be.
    pub(super) there: ReceivedRanges,
    /// What of it no checkpoint covers yet.
    pub(super) fresh: ReceivedRanges,
    /// Something besides bytes that no checkpoint covers yet.
    pub(super) other_changes: bool,
    /// Since when `fresh` gathers with no commit under way.
    pub(super) gathering_since: Instant,
    /// How many checkpoints were begun, and how many of them are done.
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

    /// Counts bytes that were written where nothing was, or that have replaced others.
    pub(super) fn count(&mut self, start: u64, end: u64) {
        if self.fresh.is_empty() {
            self.gathering_since = Instant::now();
        }
        self.there.insert(start, end);
        self.fresh.insert(start, end);
    }

    /// Whether anything counts that no checkpoint covers yet.
    pub(super) fn has_uncovered(&self) -> bool {
        !self.fresh.is_empty() || self.other_changes
    }

    /// The checkpoint that covers all that counts now: the next one, or the latest if it covers everything.
    pub(super) fn covering_checkpoint(&self) -> u64 {
        self.begun + u64::from(self.has_uncovered())
    }

    /// How many checkpoints are done.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Whether every byte is there, committed or not.
    pub(super) fn is_full(&self) -> bool {
        self.committer.length().is_some_and(|length| length.is_reached_by(self.there.contiguous()))
    }

    /// Begins to make everything durable and commit it, with the `state` of the digests.
    /// `goes_on`: more bytes may come behind it.
    pub(super) async fn start_checkpoint(&mut self, state: Vec<u8>, goes_on: bool) -> Result<(), WriterBroken> {
        self.committer.begin(self.covering(state, None), goes_on).await?;
        // Only now is it sure to begin.
        self.begun += 1;
        self.other_changes = false;
        self.fresh.clear();
        Ok(())
    }

    /// Commits everything that counts, and waits for it. With digests of the whole, the upload is sealed.
    pub(super) async fn commit_last(&mut self, state: Vec<u8>, seal: Option<Vec<Digest>>) -> Result<(), WriterBroken> {
        self.committer.commit_last(self.covering(state, seal)).await
    }

    /// Everything that counts and is not committed.
    fn covering(&self, running_digests: Vec<u8>, seal: Option<Vec<Digest>>) -> CheckpointScope {
        CheckpointScope { ranges: self.fresh.pairs().to_vec(), running_digests, seal }
    }

    /// Notes the end of the commit under way.
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

    /// Waits for a commit that can no longer be called back. One that still waits for the disk is left alone.
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
