//! One request that brings bytes: the range it writes, the bytes it has brought, and its outcome.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Append, BodyEnd, CompletesUpload, EngineError, Overflow};
use crate::digest::Hasher;
use crate::feed::{FeedItem, FeedReceiver};
use crate::pieces::Pieces;
use domain::checksum::Digest;
use domain::rejection::Rejection;
use domain::upload::Upload;

/// The state of one request at the writer.
pub(super) struct JoinedRequest {
    /// `None` once its body has ended.
    pub(super) fed: Option<mpsc::Receiver<FeedItem>>,
    outcome: oneshot::Sender<Result<Upload, EngineError>>,
    /// The offset of its first byte.
    pub(super) start: u64,
    /// The offset of its next byte.
    pub(super) at: u64,
    /// The announced end of its range, excluded, if other requests may write behind it.
    pub(super) end: Option<u64>,
    pub(super) ends: CompletesUpload,
    pub(super) overflow: Overflow,
    /// Boxed: few requests have a checksum.
    pub(super) checked: Option<Box<ChecksummedBytes>>,
    /// True if its body was cut before its end.
    pub(super) cut: bool,
    /// True if the upload completes with this request once all bytes have arrived.
    pub(super) is_last: bool,
    /// The number of the checkpoint that covers all its bytes, once its body has ended.
    pub(super) covered_by: u64,
    /// The rejection to answer with, although the bytes it brought count.
    pub(super) rejection: Option<Box<Rejection>>,
}

/// The bytes of a request with a checksum that has not matched yet.
pub(super) struct ChecksummedBytes {
    expected: Digest,
    pub(super) hasher: Hasher,
    /// Ranges written where there were no bytes; kept only for uploads in any order.
    pub(super) staged: Pieces,
    /// Bytes that differ from the stored ones, with their offsets.
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

    /// Reports whether its body came to its end.
    pub(super) fn is_done(&self) -> bool {
        !self.is_open() && !self.cut
    }

    /// Reports whether all bytes it brought are committed, with `done` checkpoints done.
    pub(super) fn is_covered(&self, done: u64) -> bool {
        !self.is_open() && self.covered_by <= done
    }

    /// Reports whether it may still write between `start` and `end`, or has uncounted bytes there.
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

    /// Sends the outcome to the client of the request.
    pub(super) fn answer(self, outcome: Result<Upload, EngineError>) {
        let outcome = match self.rejection {
            Some(rejection) => outcome.and(Err((*rejection).into())),
            None => outcome,
        };
        // The caller may have gone away.
        let _ = self.outcome.send(outcome);
    }

    /// Returns the rest of the body and the channel for its outcome, or `None` if the body has ended.
    pub(super) fn into_intake(self) -> Option<FeedReceiver> {
        let Self { fed, outcome, .. } = self;
        fed.map(|pieces| FeedReceiver { pieces, outcome })
    }
}

impl ChecksummedBytes {
    /// Checks the checksum of a request whose body has ended. `all_here` says that it brought all the bytes
    /// it announced.
    pub(super) fn check(self, all_here: bool) -> Result<(Pieces, Vec<(u64, Bytes)>), Rejection> {
        let Self { expected, hasher, staged, replacing } = self;
        match all_here && hasher.finish() == expected {
            true => Ok((staged, replacing)),
            false => Err(Rejection::ChecksumMismatch(expected.algorithm())),
        }
    }
}
