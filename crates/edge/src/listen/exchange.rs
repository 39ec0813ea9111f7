//! What the layers below and above the HTTP/1.1 layer tell each other about the request under way.
//!
//! The HTTP layer in between knows nothing of it. Below, bytes are framed into requests, one at a time;
//! above, requests are answered. Each side learns here what only the other one sees.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

use crate::problem::Problem;

/// The request under way on one connection. Clones speak of the same one.
#[derive(Clone, Default)]
pub(crate) struct Exchange(Rc<State>);

#[derive(Default)]
struct State {
    /// Whether all of the answer was handed to the HTTP layer.
    is_answered: Cell<bool>,
    /// Whether some of the request's body has come.
    has_body: Cell<bool>,
    /// The answer to what could not be read as a request.
    rejection: RefCell<Option<Problem>>,
    /// After how many bytes of the request's body its framing is broken.
    breaks_at: Cell<Option<u64>>,
    /// Whether the connection ends here, without another byte.
    is_hung_up: Cell<bool>,
}

/// Stands in the extensions of an answer that is not to be sent: its connection, or its stream, is ended
/// instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HangUp;

impl Exchange {
    /// The next request has come.
    pub(super) fn begin(&self) {
        self.0.is_answered.set(false);
        self.0.breaks_at.set(None);
        self.0.has_body.set(false);
    }

    pub(super) fn note_body(&self) {
        self.0.has_body.set(true);
    }

    /// Whether some of the request's body has come, read or not.
    pub(crate) fn has_body(&self) -> bool {
        self.0.has_body.get()
    }

    pub(super) fn is_answered(&self) -> bool {
        self.0.is_answered.get()
    }

    /// The next request is answered with this, whatever it is.
    pub(super) fn reject(&self, problem: Problem) {
        *self.0.rejection.borrow_mut() = Some(problem);
    }

    /// Whether the refusal was not given yet.
    pub(super) fn has_rejection(&self) -> bool {
        self.0.rejection.borrow().is_some()
    }

    pub(super) fn take_rejection(&self) -> Option<Problem> {
        self.0.rejection.borrow_mut().take()
    }

    /// The framing of the request's body is broken behind this many bytes.
    pub(super) fn break_body(&self, at: u64) {
        self.0.breaks_at.set(Some(at));
    }

    /// Behind how many bytes the rest of the request's body cannot be read. They may not have been read yet.
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

/// The body of an answer. The answer is over when it is dropped.
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
