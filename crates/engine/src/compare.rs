//! Comparison of bytes that are sent again with the stored ones.
//!
//! A client that has not received the answer to a range, or to a whole file, sends it once more. Until the
//! upload is complete, its writer handles that. Afterwards there is no lease to take and nothing to change:
//! the bytes must be equal and match the digest they come with, and the answer is the same as the first time.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;

use crate::command::{Append, BodyEnd, CompletesUpload, EngineError, Unavailable, WritePosition};
use crate::digest::Hasher;
use crate::feed::{Feed, FeedItem, FeedReceiver};
use crate::{Engine, Inner};
use domain::checksum::Digest;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::stage::Stage;
use domain::upload::Upload;

/// The rest of a request to a complete upload.
pub(super) struct RepeatedRequest {
    upload: Upload,
    length: Length,
    /// The offset of its next byte.
    at: u64,
    /// The announced end of its range, excluded, if it announced one.
    end: Option<u64>,
    ends: CompletesUpload,
    /// The rejection of bytes beyond the end of the upload.
    beyond: Rejection,
    checksum: Option<(Digest, Hasher)>,
}

impl Engine {
    /// Accepts the bytes of a request to an upload that has all its bytes. Waits for an upload that is not
    /// settled yet.
    pub(super) async fn begin_comparing(&self, command: &Append) -> Result<Feed, EngineError> {
        let inner = &self.0;
        let upload = inner.find_settled(command.principal.scope(), command.id).await?;
        let repeated = inner.repeated(upload, command)?;
        let turn = inner.acquire_read_permit()?;
        let (feed, intake) = Feed::new(inner.pool.clone(), repeated.at, command.count, Arc::default());
        let inner = Arc::clone(inner);
        self.spawn(async move {
            repeated.answer(&inner, intake).await;
            drop(turn);
        });
        Ok(feed)
    }
}

impl Inner {
    /// Checks by its declarations that a request can be a repetition.
    fn repeated(&self, mut upload: Upload, command: &Append) -> Result<RepeatedRequest, Rejection> {
        if let Some(why) = upload.gone(self.now()) {
            return Err(why);
        }
        if upload.is_final() && matches!(command.position, WritePosition::At(_)) {
            return Err(Rejection::IsFinal);
        }
        let is_whole = upload.stage() == Stage::Completed || upload.is_partial();
        let complete = upload.length().filter(|_| is_whole && !upload.is_final());
        let Some(length) = complete else {
            return Err(upload.length().map_or(Rejection::IsFinal, Rejection::AlreadyComplete));
        };
        let committed = upload.clone();
        let start = command.position.offset();
        let beyond = match command.position {
            WritePosition::At(_) if start != committed.offset() => {
                return Err(Rejection::WrongOffset { ours: committed.offset(), theirs: start });
            }
            WritePosition::At(_) => Rejection::AlreadyComplete(length),
            WritePosition::From(_) | WritePosition::Anywhere(_) => Rejection::BeyondLength(length),
        };
        self.declare(&mut upload, command, committed.offset())?;
        if command.count.is_some_and(|count| start.plus(count).is_none_or(|end| !length.admits(end))) {
            return Err(Rejection::BeyondLength(length));
        }
        for promised in upload.declared_since(&committed).promised_digests {
            let known = committed.record().digests.iter().find(|known| known.algorithm() == promised.algorithm());
            if known.is_some_and(|known| *known != promised) {
                return Err(Rejection::ChecksumMismatch(promised.algorithm()));
            }
        }
        let end = command.count.map(|count| start.get().saturating_add(count));
        let checksum = command.checksum.clone().map(Hasher::towards);
        Ok(RepeatedRequest { upload: committed, length, at: start.get(), end, ends: command.ends, beyond, checksum })
    }

    /// Returns the first offset, from `start` on, where the stored bytes of an upload differ from `bytes`.
    ///
    /// Reads only as far as `bytes` reaches, one chunk at a time, so it holds less memory than `bytes` does.
    pub(super) async fn first_difference(
        &self,
        upload: &Upload,
        start: u64,
        bytes: &[u8],
    ) -> storage::Result<Option<u64>> {
        let end = start + bytes.len() as u64;
        let mut stored = self.read_bytes(upload, start..end).await?;
        let (mut at, mut rest) = (start, bytes);
        while let Some(chunk) = stored.next().await {
            let chunk = chunk?;
            let (ours, after) = rest.split_at(chunk.len().min(rest.len()));
            if let Some(differs) = ours.iter().zip(&chunk).position(|(ours, theirs)| ours != theirs) {
                return Ok(Some(at + differs as u64));
            }
            (at, rest) = (at + ours.len() as u64, after);
        }
        Ok(None)
    }
}

impl RepeatedRequest {
    /// Creates the rest of a request without a checksum, whose upload was completed by another request
    /// meanwhile.
    pub(super) fn rest_of(upload: Upload, length: Length, at: u64, end: Option<u64>, ends: CompletesUpload) -> Self {
        Self { upload, length, at, end, ends, beyond: Rejection::BeyondLength(length), checksum: None }
    }

    /// Compares all bytes of the request, and sends the outcome to its client.
    pub(super) async fn answer(self, inner: &Inner, intake: FeedReceiver) {
        let FeedReceiver { pieces, outcome } = intake;
        let compared = tokio::select! {
            biased;
            compared = self.compare_all(inner, pieces) => compared,
            () = inner.stop.cancelled() => Err(EngineError::Unavailable(Unavailable::ShuttingDown)),
        };
        // The caller may have gone away.
        let _ = outcome.send(compared);
    }

    async fn compare_all(mut self, inner: &Inner, mut fed: mpsc::Receiver<FeedItem>) -> Result<Upload, EngineError> {
        loop {
            match fed.recv().await {
                Some(FeedItem::Piece(piece)) => self.compare(inner, &piece).await?,
                Some(FeedItem::End) => return Ok(self.conclude(BodyEnd::Complete)?),
                None => return Ok(self.conclude(BodyEnd::Cut)?),
            }
        }
    }

    async fn compare(&mut self, inner: &Inner, piece: &[u8]) -> Result<(), EngineError> {
        let end = self.at.saturating_add(piece.len() as u64);
        match self.end {
            Some(own_end) if end > own_end => return Err(Rejection::BeyondRange { end: own_end }.into()),
            _ if end > self.length.get() => return Err(self.beyond.clone().into()),
            Some(_) | None => {}
        }
        if let Some((_, hasher)) = &mut self.checksum {
            hasher.update(piece);
        }
        match inner.first_difference(&self.upload, self.at, piece).await {
            Ok(None) => {}
            Ok(Some(at)) => return Err(Rejection::DifferentBytes { at }.into()),
            Err(error) => return Err(inner.explain(&self.upload, error).await),
        }
        self.at = end;
        Ok(())
    }

    fn conclude(self, end: BodyEnd) -> Result<Upload, Rejection> {
        if end == BodyEnd::Cut {
            return Ok(self.upload);
        }
        if let Some((expected, hasher)) = self.checksum {
            let all_here = self.end.is_none_or(|own_end| self.at == own_end);
            if !all_here || hasher.finish() != expected {
                return Err(Rejection::ChecksumMismatch(expected.algorithm()));
            }
        }
        if self.ends == CompletesUpload::Here && self.at != self.length.get() {
            let end = Offset::new(self.at).unwrap_or_default();
            return Err(Rejection::EndsElsewhere { length: self.length, end });
        }
        Ok(self.upload)
    }
}
