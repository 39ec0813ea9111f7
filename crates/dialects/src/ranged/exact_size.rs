//! A body that must have the number of bytes that its head states, although its framing does not announce it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::Stream;

/// Passes a body on until its size turns out to differ, and then ends with an error.
pub(super) struct ExactSizeBody {
    payload: Payload,
    left: u64,
    differs: Rc<Cell<bool>>,
}

impl ExactSizeBody {
    /// Creates the body. It sets `differs` when the size turns out to differ.
    pub(super) fn new(payload: Payload, bytes: u64, differs: Rc<Cell<bool>>) -> Self {
        Self { payload, left: bytes, differs }
    }
}

impl Stream for ExactSizeBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.payload).poll_next(cx);
        let left = match &polled {
            Poll::Ready(Some(Ok(bytes))) => self.left.checked_sub(bytes.len() as u64),
            Poll::Ready(None) if self.left > 0 => None,
            Poll::Ready(None | Some(Err(_))) | Poll::Pending => Some(self.left),
        };
        let Some(left) = left else {
            self.differs.set(true);
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        };
        self.left = left;
        polled
    }
}
