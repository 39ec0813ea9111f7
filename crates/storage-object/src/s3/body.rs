//! The body of a request whose length is known and whose bytes are in several pieces of memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Pieces of memory that are sent one after the other, without a copy.
#[derive(Debug)]
pub(super) struct Pieces {
    left: VecDeque<Bytes>,
    left_bytes: u64,
}

impl Pieces {
    pub(super) fn new(pieces: &[Bytes]) -> Self {
        let left: VecDeque<Bytes> = pieces.iter().filter(|piece| !piece.is_empty()).cloned().collect();
        Self { left_bytes: left.iter().map(|piece| piece.len() as u64).sum(), left }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = self.left.pop_front() else { return Poll::Ready(None) };
        self.left_bytes -= next.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}
