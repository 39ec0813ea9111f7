//! What a writer does with the bytes of a request, and with the end of its body.

use std::task::Poll;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Trouble, Writer};
use crate::command::{BodyEnd, Ends, EngineError, Unavailable};
use crate::feed::Fed;
use crate::lane::Lane;
use crate::sums::Sums;
use domain::rejection::Rejection;
use domain::size::Offset;

impl Writer {
    /// Deals with what came for a request. In any order, one that gets no further ends alone.
    pub(super) async fn take(&mut self, index: usize, item: Option<Fed>) -> Result<(), Trouble> {
        let mut lane = self.lanes.swap_remove(index);
        let done = match item {
            Some(Fed::Piece(piece)) => self.take_piece(&mut lane, piece).await,
            Some(Fed::End) => self.end_lane(&mut lane, BodyEnd::Complete).await,
            None => self.end_lane(&mut lane, BodyEnd::Cut).await,
        };
        match done {
            Err(Trouble::Refused(error)) if !self.sums.is_in_order() => lane.answer(Err(error)),
            Err(Trouble::BroughtNothing) if !self.sums.is_in_order() => {
                lane.answer(Ok(self.ledger.committer.upload.clone()));
            }
            done => {
                self.lanes.push(lane);
                return done;
            }
        }
        Ok(())
    }

    pub(super) async fn take_piece(&mut self, lane: &mut Lane, piece: Bytes) -> Result<(), Trouble> {
        let (start, count) = (lane.at, piece.len() as u64);
        let end = self.end_of(lane, count)?;
        self.bytes_came_at = Instant::now();
        if let Some(checked) = &mut lane.checked {
            checked.hasher.update(&piece);
        }
        let accepted_bytes = match &mut self.sums {
            Sums::InOrder(running) => {
                running.update(&piece);
                self.ledger.write(start, piece).await?;
                if lane.checked.is_none() {
                    self.ledger.count(start, end);
                }
                end
            }
            Sums::Scattered(scattered) => {
                // Whoever has uncounted bytes here would otherwise count what it did not write.
                for stale in self.lanes.extract_if(.., |other| other.has_staged(start, end)) {
                    stale.answer(Err(EngineError::Unavailable(Unavailable::Superseded)));
                }
                scattered.place(&mut self.ledger, lane, start, piece).await?;
                self.ledger.there.total_bytes()
            }
        };
        lane.at = end;
        self.ledger.committer.note_progress(accepted_bytes, count);
        Ok(())
    }

    /// Where `count` more bytes of a request end, if they may be there.
    pub(super) fn end_of(&self, lane: &Lane, count: u64) -> Result<u64, Rejection> {
        let committer = &self.ledger.committer;
        let end = lane.at.saturating_add(count);
        let max_bytes = committer.upload.most_bytes(committer.inner.settings.max_upload_bytes);
        match (lane.end, committer.length()) {
            (Some(own_end), _) if end > own_end => Err(Rejection::BeyondRange { end: own_end }),
            (_, Some(length)) if end > length.get() => Err(Rejection::BeyondLength(length)),
            (_, None) if end > max_bytes => Err(Rejection::OverLimit(max_bytes)),
            (Some(_) | None, Some(_) | None) => Ok(end),
        }
    }

    /// Notes that the body of a request is over: what of it counts is covered by the next checkpoint.
    pub(super) async fn end_lane(&mut self, lane: &mut Lane, end: BodyEnd) -> Result<(), Trouble> {
        lane.close(end);
        if let Some(checked) = lane.checked.take() {
            if lane.cut {
                return Err(Trouble::BroughtNothing);
            }
            // tus 1.0, Checksum: bytes that do not match, or not all of them, leave no trace.
            let (staged, replacing) = checked.check(lane.end.is_none_or(|own_end| lane.at == own_end))?;
            match &mut self.sums {
                Sums::InOrder(_) => self.ledger.count(lane.start, lane.at),
                Sums::Scattered(scattered) => {
                    scattered.count_matched(&mut self.ledger, &staged, replacing).await?;
                }
            }
        }
        if lane.is_done() && self.ledger.committer.upload.stage().takes_bytes() {
            if lane.ends == Ends::Here {
                self.end_here(lane);
            }
            // In order, a request that has ended as it should is news, be it without a byte.
            self.ledger.news |= self.sums.is_in_order();
        }
        lane.covered_by = self.ledger.covering_checkpoint();
        Ok(())
    }

    /// Ends the upload with the last byte of a request. If it cannot end there, what arrived stays: it is a
    /// correct beginning.
    pub(super) fn end_here(&mut self, lane: &mut Lane) {
        let taken = self.taken();
        let committer = &mut self.ledger.committer;
        let mut view = committer.declared_upload();
        match committer.inner.check_end(&mut view, Offset::new(lane.at), taken) {
            Ok(()) => {
                lane.is_last = true;
                self.ledger.news |= committer.declare(&view);
            }
            Err(rejection) => lane.rejection = Some(Box::new(rejection)),
        }
    }
}

/// Waits for what comes next of the open requests. Each gets its turn.
pub(super) async fn next_fed(lanes: &mut [Lane], turn: &mut usize) -> (usize, Option<Fed>) {
    std::future::poll_fn(|cx| {
        for step in 0..lanes.len() {
            let index = (*turn + step) % lanes.len();
            if let Some(fed) = &mut lanes[index].fed
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
