//! One request that brings bytes: where they go, how many came, and what its client is told.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Append, BodyEnd, CompletesUpload, EngineError, Overflow};
use crate::digest::Hasher;
use crate::feed::{FeedItem, FeedReceiver};
use crate::pieces::Pieces;
use domain::checksum::Digest;
use domain::rejection::Rejection;
use domain::upload::Upload;

/// One request.
pub(super) struct JoinedRequest {
    /// `None` once its body is over.
    pub(super) fed: Option<mpsc::Receiver<FeedItem>>,
    outcome: oneshot::Sender<Result<Upload, EngineError>>,
    /// Where its first byte went.
    pub(super) start: u64,
    /// Where its next byte goes.
    pub(super) at: u64,
    /// Where it is to end, where it said so and others may write behind it. Excluded.
    pub(super) end: Option<u64>,
    pub(super) ends: CompletesUpload,
    pub(super) overflow: Overflow,
    /// Boxed: few requests have it.
    pub(super) checked: Option<Box<ChecksummedBytes>>,
    /// Whether its body is over although more was to come.
    pub(super) cut: bool,
    /// Whether the upload completes with it once every byte is there.
    pub(super) is_last: bool,
    /// The checkpoint that covers all of it, once its body is over.
    pub(super) covered_by: u64,
    /// Why it is refused although what it brought counts.
    pub(super) rejection: Option<Box<Rejection>>,
}

/// The bytes of a request with a checksum, before it has matched.
pub(super) struct ChecksummedBytes {
    expected: Digest,
    pub(super) hasher: Hasher,
    /// Written where nothing was; kept apart only of bytes in any order.
    pub(super) staged: Pieces,
    /// Other than what is there, and where they go.
    pub(super) replacing: Vec<(u64, Bytes)>,
}

impl JoinedRequest {
    /// Creates the state of a request that writes from `start` on and has written nothing yet.
    pub(super) fn new(command: &Append, intake: FeedReceiver, start: u64, end: Option<u64>) -> Self {
        let FeedReceiver { pieces, outcome } = intake;
        let checked = command.checksum.clone().map(|expected| {
            let (expected, hasher) = Hasher::towards(expected);
            Box::new(ChecksummedBytes { expected, hasher, staged: Pieces::default(), replacing: Vec::new() })
        });
        Self {
            fed: Some(pieces),
            outcome,
            start,
            at: start,
            end,
            ends: command.ends,
            overflow: command.overflow,
            checked,
            cut: false,
            is_last: command.ends == CompletesUpload::WhenFull,
            covered_by: 0,
            rejection: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.fed.is_some()
    }

    /// Whether its body came to the end it was to have.
    pub(super) fn is_done(&self) -> bool {
        !self.is_open() && !self.cut
    }

    /// Whether everything it brought is committed, `done` checkpoints being done.
    pub(super) fn is_covered(&self, done: u64) -> bool {
        !self.is_open() && self.covered_by <= done
    }

    /// Whether it may still write between `start` and `end`, or has uncounted bytes there.
    pub(super) fn claims(&self, start: u64, end: u64) -> bool {
        let ahead = self.is_open() && self.at < end && self.end.is_some_and(|own_end| start < own_end);
        ahead || self.has_staged(start, end)
    }

    pub(super) fn has_staged(&self, start: u64, end: u64) -> bool {
        let staged = self.checked.iter().flat_map(|checked| checked.staged.iter());
        staged.into_iter().any(|piece| piece.start < end && start < piece.end)
    }

    /// Ends the body.
    pub(super) fn close(&mut self, end: BodyEnd) {
        self.fed = None;
        self.cut = end == BodyEnd::Cut;
    }

    /// Tells the client what came of its request.
    pub(super) fn answer(self, outcome: Result<Upload, EngineError>) {
        let outcome = match self.rejection {
            Some(rejection) => outcome.and(Err((*rejection).into())),
            None => outcome,
        };
        // A caller that is gone needs no answer.
        let _ = self.outcome.send(outcome);
    }

    /// The rest of the body and whom to tell of it, where it is not over.
    pub(super) fn into_intake(self) -> Option<FeedReceiver> {
        let Self { fed, outcome, .. } = self;
        fed.map(|pieces| FeedReceiver { pieces, outcome })
    }
}

impl ChecksummedBytes {
    /// Whether the bytes of a request count whose body is over. `all_here`: it brought all it said it would.
    pub(super) fn check(self, all_here: bool) -> Result<(Pieces, Vec<(u64, Bytes)>), Rejection> {
        let Self { expected, hasher, staged, replacing } = self;
        match all_here && hasher.finish() == expected {
            true => Ok((staged, replacing)),
            false => Err(Rejection::ChecksumMismatch(expected.algorithm())),
        }
    }
}
