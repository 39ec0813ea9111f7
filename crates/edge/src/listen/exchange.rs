//! State of the current request that the layers below and above the HTTP/1.1 layer share.
//!
//! The HTTP layer between them knows nothing of it. The layer below frames bytes into requests, one at a
//! time; the layer above answers requests. Each side learns here what only the other one can observe.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

use crate::problem::Problem;

/// The current request of one connection. Clones refer to the same one.
#[derive(Clone, Default)]
pub(crate) struct Exchange(Rc<State>);

#[derive(Default)]
struct State {
    /// True if the whole response was passed to the HTTP layer.
    is_answered: Cell<bool>,
    /// True if some of the request's body has arrived.
    has_body: Cell<bool>,
    /// The response to bytes that could not be read as a request.
    rejection: RefCell<Option<Problem>>,
    /// The number of bytes of the request's body after which its framing is invalid.
    breaks_at: Cell<Option<u64>>,
    /// True if the connection ends now, without another byte.
    is_hung_up: Cell<bool>,
}

/// Marks a response that must not be sent, in its extensions: its connection or stream is ended instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HangUp;

impl Exchange {
    /// Records that the next request has arrived.
    pub(super) fn begin(&self) {
        self.0.is_answered.set(false);
        self.0.breaks_at.set(None);
        self.0.has_body.set(false);
    }

    pub(super) fn note_body(&self) {
        self.0.has_body.set(true);
    }

    /// Returns whether some of the request's body has arrived, read or not.
    pub(crate) fn has_body(&self) -> bool {
        self.0.has_body.get()
    }

    pub(super) fn is_answered(&self) -> bool {
        self.0.is_answered.get()
    }

    /// Makes `problem` the response to the next request, whatever it is.
    pub(super) fn reject(&self, problem: Problem) {
        *self.0.rejection.borrow_mut() = Some(problem);
    }

    /// Returns whether a rejection has not been sent yet.
    pub(super) fn has_rejection(&self) -> bool {
        self.0.rejection.borrow().is_some()
    }

    pub(super) fn take_rejection(&self) -> Option<Problem> {
        self.0.rejection.borrow_mut().take()
    }

    /// Records that the framing of the request's body is invalid after `at` bytes.
    pub(super) fn break_body(&self, at: u64) {
        self.0.breaks_at.set(Some(at));
    }

    /// Returns the number of bytes after which the request's body cannot be read. They may not have been read
    /// yet.
    pub(crate) fn breaks_at(&self) -> Option<u64> {
        self.0.breaks_at.get()
    }

    pub(super) fn hang_up(&self) {
        self.0.is_hung_up.set(true);
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.0.is_hung_up.get()
    }
}

/// The body of a response. Dropping it marks the exchange as answered.
pub(super) struct AnswerBody {
    body: BoxBody,
    _last: ExchangeEnd,
}

struct ExchangeEnd(Option<Exchange>);

impl AnswerBody {
    pub(super) fn new(body: BoxBody, exchange: Option<Exchange>) -> Self {
        Self { body, _last: ExchangeEnd(exchange) }
    }
}

impl Drop for ExchangeEnd {
    fn drop(&mut self) {
        if let Some(exchange) = &self.0 {
            exchange.0.is_answered.set(true);
        }
    }
}

impl MessageBody for AnswerBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
