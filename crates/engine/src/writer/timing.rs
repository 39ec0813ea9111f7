//! The timing of a writer: when it commits, waits, stalls, parks and leaves.

use std::time::Duration;

use tokio::time::Instant;

use super::Writer;
use crate::Inner;
use crate::joined_request::JoinedRequest;
use domain::checksum::Algorithm;
use domain::stage::Stage;
use domain::upload::Upload;
use domain::write_rules::Completion;

/// The time after which the first bytes are committed, and thereby reported.
const FIRST_CHECKPOINT_AFTER: Duration = Duration::from_millis(100);

/// After the offset of an upload in order was reported to a client, nothing more is committed for this long.
/// If the client is reconnecting, its next append finds the offset that it was given, whatever the old
/// connection still delivers.
const HOLD_AFTER_INSPECTION: Duration = Duration::from_secs(1);

/// Settings for gathering bytes before they are committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterSettings {
    /// Maximum memory for bytes on their way to the storage, for all uploads in total.
    pub buffer_bytes: u64,
    /// A long append commits at least this often.
    pub checkpoint_every: Duration,
    /// Maximum number of appends that commit per second, at least 1. When more are live, each commits less
    /// often.
    pub checkpoint_rate: u32,
    /// A long append commits at least after this many bytes.
    pub checkpoint_bytes: u64,
    /// Time for which an upload is kept open for its next request.
    pub keep_open: Duration,
    /// Digests to compute for every upload, besides CRC-32C.
    pub digests: Vec<Algorithm>,
}

/// Work of a writer that is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimedTask {
    Checkpoint,
    /// No byte has arrived for the time after which the upload is stalled.
    Stall,
    /// The hold after an inspection is over.
    EndHold,
    /// No request has arrived for the time for which the upload is kept open.
    Leave,
}

impl Writer {
    /// Reports whether a whole upload has to wait for a request: it may still bring too much, replace stored
    /// bytes, or be held.
    pub(super) fn delays_the_end(&self, request: &JoinedRequest) -> bool {
        match self.upload_digests.is_in_order() {
            true => request.is_open() || (request.cut && self.is_held()),
            false => request.is_open() && request.checked.is_some(),
        }
    }

    pub(super) fn is_held(&self) -> bool {
        Instant::now() < self.hold_until
    }

    /// Reports whether all bytes have arrived and the upload completes with that.
    pub(super) fn is_whole(&self) -> bool {
        self.ledger.is_full() && self.completes_when_full()
    }

    pub(super) fn completes_when_full(&self) -> bool {
        match self.ledger.committer.upload.completion() {
            Completion::WhenFull => true,
            Completion::WhenSaid => self.requests.iter().any(|request| request.is_last),
        }
    }

    /// Reports whether a checkpoint other than the last may start. The last byte is committed only together
    /// with the seal, once no request can bring more: no task would finish an upload that is full but not
    /// sealed.
    pub(super) fn may_commit(&self) -> bool {
        let more_to_come = || self.requests.iter().any(JoinedRequest::is_open);
        let is_last = || self.ledger.is_full() && (more_to_come() || self.completes_when_full());
        self.ledger.has_uncovered() && !self.ledger.committer.is_pending() && !is_last()
    }

    /// Reports whether a checkpoint is to begin now: a request waits for one, or enough bytes have gathered.
    pub(super) fn commit_is_wanted(&self) -> bool {
        if !self.may_commit() {
            return false;
        }
        let large = self.ledger.fresh.total_bytes() >= self.ledger.committer.inner.settings.writer.checkpoint_bytes;
        let awaited = self.requests.is_empty() || self.requests.iter().any(JoinedRequest::is_done);
        awaited || ((large || self.requests.iter().any(|request| request.cut)) && !self.is_held())
    }

    /// Parks the upload for the next request, if that is possible. An upload in order whose request was cut
    /// is not parked: the declarations of that request are not kept without its bytes.
    pub(super) fn park(&mut self) -> bool {
        let may_park = !self.upload_digests.is_in_order() || self.requests.iter().all(JoinedRequest::is_done);
        if self.parked_since.is_none() && may_park && self.ledger.committer.park() {
            self.parked_since = Some(Instant::now());
        }
        self.parked_since.is_some()
    }

    pub(super) fn next_timed_task(&self) -> Option<(Instant, TimedTask)> {
        let committer = &self.ledger.committer;
        if let Some(since) = self.parked_since {
            return Some((since + committer.inner.settings.writer.keep_open, TimedTask::Leave));
        }
        if committer.is_pending() {
            return None;
        }
        if self.is_held() && self.requests.iter().any(|request| request.cut) {
            return Some((self.hold_until, TimedTask::EndHold));
        }
        if !self.ledger.fresh.is_empty() {
            let due = match self.ledger.fresh.total_bytes() < committer.inner.abilities.checkpoint_bytes {
                // Nobody waits for it, and it would cost the storage an additional object (scale-out O5a).
                true => self.bytes_came_at + committer.inner.settings.lifetimes.stall_after,
                false => self.ledger.gathering_since + committer.inner.checkpoint_after(&committer.upload),
            };
            return self.may_commit().then_some((due.max(self.hold_until), TimedTask::Checkpoint));
        }
        let may_stall = committer.upload.stage() == Stage::Receiving;
        may_stall.then(|| (self.bytes_came_at + committer.inner.settings.lifetimes.stall_after, TimedTask::Stall))
    }

    /// Delays further commits after an offset was reported.
    pub(super) fn hold(&mut self) {
        if self.upload_digests.is_in_order() {
            self.hold_until = Instant::now() + HOLD_AFTER_INSPECTION;
        }
    }
}

impl Inner {
    /// Returns how long the bytes of a live upload may gather before they are committed.
    fn checkpoint_after(&self, upload: &Upload) -> Duration {
        let every = self.settings.writer.checkpoint_every;
        // Many slow uploads commit less often. A crash costs each of them few bytes, so frequent syncs would
        // save little.
        let crowd = self.leases.count() as f64 / f64::from(self.settings.writer.checkpoint_rate);
        if crowd > 1.0 {
            return every.mul_f64(crowd);
        }
        match upload.stage() {
            Stage::Created | Stage::Stalled => FIRST_CHECKPOINT_AFTER.min(every),
            Stage::Receiving
            | Stage::Received
            | Stage::Verified
            | Stage::Stored
            | Stage::Completed
            | Stage::Ended(_) => every,
        }
    }
}

/// Waits until a task is due.
pub(super) async fn wait_until_due(task: Option<(Instant, TimedTask)>) -> TimedTask {
    match task {
        Some((at, task)) => {
            tokio::time::sleep_until(at).await;
            task
        }
        None => std::future::pending().await,
    }
}
