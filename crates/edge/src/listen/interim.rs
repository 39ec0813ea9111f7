//! Interim responses: information for a client before the response to its request.
//!
//! actix-http cannot send them, so they are written below it, between the bytes that it writes. That an
//! interim response never ends up inside another response depends on its dispatcher (3.20,
//! `h1/dispatcher.rs`) and on four rules:
//!
//! - The dispatcher serves one request at a time. It calls the application with the next request when the
//!   last response is completely in its write buffer. Bytes of that response may be unsent for long, so an
//!   interim response is **queued**, and nothing is written at that moment.
//! - The dispatcher flushes its stream only when that buffer is empty. So **only a flush begins to write**:
//!   no bytes of an earlier response are left above this layer.
//! - The future that answers a request ends before its response is put into the buffer, with no flush in
//!   between. With that future **its period ends**: queued interim responses are dropped, and remaining
//!   handles send nothing.
//! - A peer may accept only a part of an interim response. **An interim response that has begun is finished**
//!   before a byte of a response is accepted.
//!
//! No wake-up is needed: a handler is polled in the task of its connection, and that task flushes after each
//! poll. What a handle queues from another task is sent no earlier than the next poll of the connection.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use actix_http::Request;
use actix_web::HttpMessage;
use actix_web::http::Version;
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// The largest number of bytes queued for one connection. A peer that does not read receives no more than
/// that.
const MAX_QUEUED_BYTES: usize = 8 * 1024;

/// Lets a handler send interim responses to its client. Clones belong to the same request.
#[derive(Clone)]
pub struct Interim {
    connection: Interims,
    /// The value of `State::turns` when the period of this request began.
    turn: u64,
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim").field("turn", &self.turn).finish_non_exhaustive()
    }
}

/// The interim responses of one connection. Clones refer to the same connection.
#[derive(Clone, Default)]
pub(super) struct Interims(Rc<State>);

#[derive(Default)]
struct State {
    /// Counts starts and ends of periods, so that no two periods have the same value.
    turns: Cell<u64>,
    /// Complete responses of the current period of which nothing was written yet.
    queued: RefCell<Vec<u8>>,
}

/// The period in which interim responses for one request can be sent. Ends when dropped.
pub(super) struct InterimPeriod(Interim);

impl Interim {
    /// Returns the handle for this request; `None` if no interim responses can be sent: HTTP/1.0 does not
    /// have them, and this server sends none over HTTP/2.
    pub fn of(request: &impl HttpMessage) -> Option<Self> {
        request.extensions().get::<Self>().cloned()
    }

    /// Sends `104 Upload Resumption Supported`. Returns false if that is impossible: the response has begun,
    /// or the client leaves too much unread.
    ///
    /// Names and values cannot break out of their lines, because their types allow no control characters.
    pub fn send_104(&self, fields: &[(HeaderName, HeaderValue)]) -> bool {
        let mut response = b"HTTP/1.1 104 Upload Resumption Supported\r\n".to_vec();
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                response.extend_from_slice(part);
            }
        }
        response.extend_from_slice(b"\r\n");
        let waiting = self.connection.0.queued.borrow().len();
        waiting + response.len() <= MAX_QUEUED_BYTES && self.queue(&response)
    }

    /// Sends `100 Continue` to a client that expects it. Returns false if the response has begun. Call it
    /// once; there is always capacity for it.
    pub(crate) fn send_continue(&self) -> bool {
        self.queue(b"HTTP/1.1 100 Continue\r\n\r\n")
    }

    fn queue(&self, response: &[u8]) -> bool {
        let current = self.is_current();
        if current {
            self.connection.0.queued.borrow_mut().extend_from_slice(response);
        }
        current
    }

    fn is_current(&self) -> bool {
        self.connection.0.turns.get() == self.turn
    }
}

impl InterimPeriod {
    /// Begins the period of a request, if it can have one, and stores the handle where [`Interim::of`] finds
    /// it.
    pub(super) fn begin(request: &Request) -> Option<Self> {
        let connection = request.conn_data::<Interims>().filter(|_| request.head().version == Version::HTTP_11)?;
        let interim = Interim { connection: connection.clone(), turn: connection.count() };
        request.extensions_mut().insert(interim.clone());
        Some(Self(interim))
    }
}

impl Drop for InterimPeriod {
    fn drop(&mut self) {
        if self.0.is_current() {
            self.0.connection.count();
            self.0.connection.0.queued.take();
        }
    }
}

impl Interims {
    fn count(&self) -> u64 {
        let turns = self.0.turns.get() + 1;
        self.0.turns.set(turns);
        turns
    }
}

/// Writes the interim responses of a connection between all other bytes written to it.
#[derive(Default)]
pub(super) struct Interleaver {
    interims: Interims,
    /// The rest of the interim responses that have begun.
    begun: Bytes,
}

impl Interleaver {
    pub(super) fn interims(&self) -> &Interims {
        &self.interims
    }

    /// Ready when no part of an interim response is left to write, so that other bytes may follow.
    pub(super) fn poll_finish(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.begun.is_empty() {
            match ready!(stream.as_mut().poll_write(cx, &self.begun))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.begun.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all queued interim responses. Must be called only when all other bytes have been written.
    pub(super) fn poll_write_queued(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_finish(stream.as_mut(), cx))?;
        self.begun = self.interims.0.queued.take().into();
        self.poll_finish(stream, cx)
    }
}
