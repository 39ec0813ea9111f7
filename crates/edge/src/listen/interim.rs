//! Interim responses: what a client is told of its request before the answer.
//!
//! actix-http has no words for them, so they are written below it, between what it writes. That an interim
//! response never ends up inside another response rests on its dispatcher (3.20, `h1/dispatcher.rs`), and on
//! four rules here:
//!
//! - The dispatcher serves one request at a time. It calls the application with the next one when the last
//!   answer stands whole in its write buffer. Bytes of that may be unsent for long, so whoever wants to tell
//!   something is **queued**, and nothing is written at that moment.
//! - It flushes its stream only when that buffer is empty. So **only a flush begins to write**: nothing of an
//!   earlier answer is above us any more.
//! - The future that answers a request ends before its answer is put into the buffer, and no flush is in
//!   between. With that future **its turn ends**: what was queued is dropped, and handles that are left send
//!   nothing.
//! - A peer may take only half of an interim response. **What has begun is
//!   finished** before a byte of an answer is taken.
//!
//! Nobody needs to be woken: a handler is polled in the task of its connection, and after each such poll that
//! task flushes. A handle used in another task is heard no earlier than the connection's next poll.

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

/// The most that waits to be written for one connection. A peer that does not read is told no more than that.
const MAX_QUEUED_BYTES: usize = 8 * 1024;

/// Lets a handler tell its client something before the answer. Clones speak for the same request.
#[derive(Clone)]
pub struct Interim {
    connection: Interims,
    /// What the connection counted when the turn of this request began.
    turn: u64,
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim").field("turn", &self.turn).finish_non_exhaustive()
    }
}

/// The interim responses of one connection. Clones speak of the same one.
#[derive(Clone, Default)]
pub(super) struct Interims(Rc<State>);

#[derive(Default)]
struct State {
    /// Counts beginnings and ends of turns, so that it never has the same value in two of them.
    turns: Cell<u64>,
    /// Whole responses that nothing was written of, all of the present turn.
    queued: RefCell<Vec<u8>>,
}

/// The time in which interim responses for one request can be sent. Ends when dropped.
pub(super) struct InterimPeriod(Interim);

impl Interim {
    /// The handle for this request; `None` where none can be sent: HTTP/1.0 knows no interim responses, and
    /// over HTTP/2 we send none.
    pub fn of(request: &impl HttpMessage) -> Option<Self> {
        request.extensions().get::<Self>().cloned()
    }

    /// Tells the client `104 Upload Resumption Supported`, and whether it could be: not once the answer has
    /// begun, and not while the client leaves too much unread.
    ///
    /// Names and values cannot break out of their lines: their types allow no control characters.
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

    /// Tells a client that asked for it to send the body, and whether it could be. To be called once: there
    /// is always room for it.
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
    /// Begins the turn of a request, if it can have one, and puts the handle where [`Interim::of`] finds it.
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

/// Writes the interim responses of a connection between everything else that is written to it.
#[derive(Default)]
pub(super) struct Interleaver {
    interims: Interims,
    /// What is left of those that have begun.
    begun: Bytes,
}

impl Interleaver {
    pub(super) fn interims(&self) -> &Interims {
        &self.interims
    }

    /// Ready when nothing stands in the way of other bytes.
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

    /// Writes all there is. To be called when everything else has been written.
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
