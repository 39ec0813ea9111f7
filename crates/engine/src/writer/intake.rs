//! Handling of the bytes of a request, and of the end of its body.

use std::task::Poll;

use bytes::Bytes;
use tokio::time::Instant;

use super::{RequestFailure, Writer};
use crate::command::{BodyEnd, CompletesUpload, EngineError, Unavailable};
use crate::feed::FeedItem;
use crate::joined_request::JoinedRequest;
use crate::upload_digests::UploadDigests;
use domain::rejection::Rejection;
use domain::size::Offset;

impl Writer {
    /// Handles the next item of a request. In an upload in any order, a failure ends only its own request.
    pub(super) async fn take(&mut self, index: usize, item: Option<FeedItem>) -> Result<(), RequestFailure> {
        let mut request = self.requests.swap_remove(index);
        let done = match item {
            Some(FeedItem::Piece(piece)) => self.take_piece(&mut request, piece).await,
            Some(FeedItem::End) => self.end_request(&mut request, BodyEnd::Complete).await,
            None => self.end_request(&mut request, BodyEnd::Cut).await,
        };
        match done {
            Err(RequestFailure::Rejected(error)) if !self.upload_digests.is_in_order() => request.answer(Err(error)),
            Err(RequestFailure::BroughtNothing) if !self.upload_digests.is_in_order() => {
                request.answer(Ok(self.ledger.committer.upload.clone()));
            }
            done => {
                self.requests.push(request);
                return done;
            }
        }
        Ok(())
    }

    pub(super) async fn take_piece(&mut self, request: &mut JoinedRequest, piece: Bytes) -> Result<(), RequestFailure> {
        let (start, count) = (request.at, piece.len() as u64);
        let end = self.end_of(request, count)?;
        self.bytes_came_at = Instant::now();
        if let Some(checked) = &mut request.checked {
            checked.hasher.update(&piece);
        }
        let accepted_bytes = match &mut self.upload_digests {
            UploadDigests::InOrder(running) => {
                running.update(&piece);
                self.ledger.write(start, piece).await?;
                if request.checked.is_none() {
                    self.ledger.count(start, end);
                }
                end
            }
            UploadDigests::Scattered(scattered) => {
                // A request with uncounted bytes in this range would otherwise count bytes that it did not
                // write.
                for stale in self.requests.extract_if(.., |other| other.has_staged(start, end)) {
                    stale.answer(Err(EngineError::Unavailable(Unavailable::Superseded)));
                }
                scattered.place(&mut self.ledger, request, start, piece).await?;
                self.ledger.there.total_bytes()
            }
        };
        request.at = end;
        self.ledger.committer.note_progress(accepted_bytes, count);
        Ok(())
    }

    /// Returns where `count` more bytes of a request end, if they are allowed there.
    pub(super) fn end_of(&self, request: &JoinedRequest, count: u64) -> Result<u64, Rejection> {
        let committer = &self.ledger.committer;
        let end = request.at.saturating_add(count);
        let max_bytes = committer.upload.most_bytes(committer.inner.settings.max_upload_bytes);
        match (request.end, committer.length()) {
            (Some(own_end), _) if end > own_end => Err(Rejection::BeyondRange { end: own_end }),
            (_, Some(length)) if end > length.get() => Err(Rejection::BeyondLength(length)),
            (_, None) if end > max_bytes => Err(Rejection::OverLimit(max_bytes)),
            (Some(_) | None, Some(_) | None) => Ok(end),
        }
    }

    /// Records that the body of a request has ended: the next checkpoint covers its bytes that count.
    pub(super) async fn end_request(
        &mut self,
        request: &mut JoinedRequest,
        end: BodyEnd,
    ) -> Result<(), RequestFailure> {
        request.close(end);
        if let Some(checked) = request.checked.take() {
            if request.cut {
                return Err(RequestFailure::BroughtNothing);
            }
            // tus 1.0, Checksum: bytes that do not match, or are incomplete, are discarded.
            let (staged, replacing) = checked.check(request.end.is_none_or(|own_end| request.at == own_end))?;
            match &mut self.upload_digests {
                UploadDigests::InOrder(_) => self.ledger.count(request.start, request.at),
                UploadDigests::Scattered(scattered) => {
                    scattered.count_matched(&mut self.ledger, &staged, replacing).await?;
                }
            }
        }
        if request.is_done() && self.ledger.committer.upload.stage().takes_bytes() {
            if request.ends == CompletesUpload::Here {
                self.end_here(request);
            }
            // In order, a request that has ended as announced is a change to commit, even without a byte.
            self.ledger.other_changes |= self.upload_digests.is_in_order();
        }
        request.covered_by = self.ledger.covering_checkpoint();
        Ok(())
    }

    /// Ends the upload with the last byte of a request. If it cannot end there, the bytes are kept, because
    /// they are a valid beginning of the upload.
    pub(super) fn end_here(&mut self, request: &mut JoinedRequest) {
        let taken = self.taken();
        let committer = &mut self.ledger.committer;
        let mut view = committer.declared_upload();
        match committer.inner.check_end(&mut view, Offset::new(request.at), taken) {
            Ok(()) => {
                request.is_last = true;
                self.ledger.other_changes |= committer.declare(&view);
            }
            Err(rejection) => request.rejection = Some(Box::new(rejection)),
        }
    }
}

/// Waits for the next item of any open request. Requests take turns.
pub(super) async fn next_fed(requests: &mut [JoinedRequest], turn: &mut usize) -> (usize, Option<FeedItem>) {
    std::future::poll_fn(|cx| {
        for step in 0..requests.len() {
            let index = (*turn + step) % requests.len();
            if let Some(fed) = &mut requests[index].fed
                && let Poll::Ready(item) = fed.poll_recv(cx)
            {
                *turn = index + 1;
                return Poll::Ready((index, item));
            }
        }
        Poll::Pending
    })
    .await
}
