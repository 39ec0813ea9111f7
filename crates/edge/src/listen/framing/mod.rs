//! Frames the bytes of a peer into HTTP/1.1 requests, and passes them to the HTTP layer one at a time.
//!
//! The HTTP layer has a deadline only for the first head, honors requests to upgrade the protocol, answers
//! unreadable requests with an empty response, and processes the next request even after a response that ends
//! the connection. Heads are therefore read here first, completely and strictly, each within its deadline. Of
//! the bytes that follow, only those of the current request are passed on; the next request waits until the
//! response is sent. A rejected head is replaced by a request of this module's own that the rejection
//! answers, so that it is sent like any response.
//!
//! Bytes are scanned in the buffer they are read into. Bytes that cannot be passed on yet are held: part of a
//! head, or the beginning of the next request.

mod chunks;
mod head;

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::listen::connection::CLOSE_TIMEOUT;
use crate::listen::deadline::Deadline;
use crate::listen::exchange::Exchange;
use crate::listen::inflow::{Inflow, SLOW_BYTES};
use crate::refusals::{Reason, Refusals};

use chunks::{ChunkScan, Chunks};
use head::{BadHead, BodyFraming, HeadScanner};

/// The largest number of bytes held of the requests after the current one.
const MAX_HELD_BYTES: usize = 16 * 1024;

/// The largest number of bytes read and discarded on a connection whose bytes can no longer be interpreted.
const MAX_IGNORED_BYTES: usize = 64 * 1024;

/// The deadlines of a connection's framing, and its peer.
#[derive(Debug, Clone)]
pub(super) struct FramingSettings {
    /// The time for the head of a request, from its first byte. For the first request, it starts with the
    /// connection.
    pub(super) header_timeout: Duration,
    /// The time from the end of a response to the first byte of the next request.
    pub(super) keep_alive: Duration,
    pub(super) peer: Option<IpAddr>,
    pub(super) refusals: Refusals,
}

/// The incoming requests of one connection.
pub(super) struct Framing {
    settings: FramingSettings,
    exchange: Exchange,
    stage: Stage,
    scan: HeadScanner,
    /// Bytes that were read and not passed on.
    held: BytesMut,
    /// The number of leading held bytes that belong to the current request.
    cleared: usize,
    /// True if the head of a large body was just read.
    begins_body: bool,
    /// The position at which to insert the length that the head just read lacks.
    lacks_length_at: Option<usize>,
    deadline: Deadline,
}

/// The part of the protocol that comes next.
#[derive(Debug)]
enum Stage {
    /// A head, of which part may already be there.
    FramedHead {
        begun: bool,
    },
    Sized(u64),
    Chunked(Chunks),
    /// Another request, after the current one is answered.
    Answer,
    /// Nothing that can be interpreted; `ignored` bytes of it were discarded.
    Nothing {
        ignored: usize,
    },
}

impl Framing {
    pub(super) fn new(settings: FramingSettings, exchange: Exchange) -> Self {
        let deadline = Deadline::at(Instant::now() + settings.header_timeout);
        Self {
            settings,
            exchange,
            stage: Stage::FramedHead { begun: true },
            scan: HeadScanner::default(),
            held: BytesMut::new(),
            cleared: 0,
            begins_body: false,
            lacks_length_at: None,
            deadline,
        }
    }

    /// Reads more of the current request, or the next one. After a timeout it reports the end of the stream.
    pub(super) fn poll_read(
        &mut self,
        mut stream: Pin<&mut impl AsyncRead>,
        inflow: &Inflow,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if std::mem::take(&mut self.begins_body) {
                inflow.begin_body(self.cleared);
            }
            if self.cleared > 0 {
                return self.hand_on(inflow, cx, buf);
            }
            if matches!(self.stage, Stage::Answer) && self.held.len() >= MAX_HELD_BYTES {
                // The end of the response wakes the connection.
                return Poll::Pending;
            }
            let before = buf.filled().len();
            let Poll::Ready(read) = inflow.poll_read(stream.as_mut(), cx, buf) else {
                ready!(self.deadline.poll_passed(cx));
                self.time_out();
                return Poll::Ready(Ok(()));
            };
            read?;
            if buf.filled().len() == before {
                let waits = matches!(self.stage, Stage::Answer) && !self.held.is_empty();
                return if waits { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if let Stage::Nothing { ignored } = &mut self.stage {
                *ignored += buf.filled().len() - before;
                let enough = *ignored >= MAX_IGNORED_BYTES;
                buf.set_filled(before);
                if enough {
                    return Poll::Ready(Ok(()));
                }
            } else if self.held.is_empty() {
                let cleared = self.examine(&mut buf.filled_mut()[before..]);
                if self.lacks_length_at.is_some() {
                    self.held.extend_from_slice(&buf.filled()[before..]);
                    self.cleared = cleared;
                    self.add_length();
                    buf.set_filled(before);
                    continue;
                }
                self.held.extend_from_slice(&buf.filled()[before + cleared..]);
                buf.set_filled(before + cleared);
                if let Stage::Nothing { .. } = self.stage {
                    self.ignore_rest();
                }
                if cleared > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                self.held.extend_from_slice(&buf.filled()[before..]);
                buf.set_filled(before);
                self.examine_held();
            }
        }
    }

    /// Returns whether the next bytes do not belong to a request that has begun.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(self.stage, Stage::FramedHead { .. } | Stage::Nothing { .. })
    }

    /// Reacts to a completed flush. If a response ended with it, the next request can follow. If none can
    /// follow, the peer gets some time to read the response: closing with unread bytes would reset the
    /// connection.
    pub(super) fn flushed(&mut self, cx: &mut Context<'_>) {
        if !self.exchange.is_answered() {
            return;
        }
        match self.stage {
            Stage::Answer => {}
            Stage::Nothing { .. } if !self.deadline.is_set() => {
                self.deadline.set(Instant::now() + CLOSE_TIMEOUT);
                cx.waker().wake_by_ref();
                return;
            }
            Stage::FramedHead { .. } | Stage::Sized(_) | Stage::Chunked(_) | Stage::Nothing { .. } => return,
        }
        self.stage = Stage::FramedHead { begun: false };
        self.deadline.set(Instant::now() + self.settings.keep_alive);
        if !self.held.is_empty() {
            self.examine_held();
            cx.waker().wake_by_ref();
        } else if self.deadline.poll_passed(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn hand_on(&mut self, inflow: &Inflow, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let allowed = ready!(inflow.poll_allowed(cx));
        let count = self.cleared.min(buf.remaining()).min(allowed);
        buf.put_slice(&self.held[..count]);
        inflow.took(count);
        self.held.advance(count);
        self.cleared -= count;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn examine_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        self.cleared = self.examine(&mut held);
        self.held = held;
        self.add_length();
        if let Stage::Nothing { .. } = self.stage {
            self.ignore_rest();
        }
    }

    /// Inserts `Content-Length: 0` into a held head that lacks a length.
    fn add_length(&mut self) {
        const NO_BODY: &[u8] = b"content-length: 0\r\n";
        if let Some(at) = self.lacks_length_at.take() {
            let behind = self.held.split_off(at);
            self.held.extend_from_slice(NO_BODY);
            self.held.extend_from_slice(&behind);
            self.cleared += NO_BODY.len();
        }
    }

    /// Discards the held bytes that cannot be interpreted. Those of the current request stay, or the request
    /// that replaces a rejected one.
    fn ignore_rest(&mut self) {
        if let Some(instead) = self.instead() {
            self.held = instead;
            self.cleared = self.held.len();
        } else {
            self.held.truncate(self.cleared);
        }
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    fn instead(&mut self) -> Option<BytesMut> {
        let Stage::Nothing { ignored: 0 } = self.stage else { return None };
        self.exchange.has_rejection().then(|| {
            // The announced body never arrives, so the HTTP layer lets the peer read the response before it
            // closes.
            let method = if head::asks_for_head_only(&self.held) { "HEAD" } else { "GET" };
            BytesMut::from(format!("{method} / HTTP/1.1\r\nhost: refused\r\ncontent-length: 1\r\n\r\n").as_bytes())
        })
    }

    /// Returns how many of the next bytes belong to the current request.
    fn examine(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        if let Stage::FramedHead { begun } = self.stage {
            match self.read_head(bytes) {
                Ok(Some((end, stage))) => {
                    self.scan = HeadScanner::default();
                    self.deadline.clear();
                    self.exchange.begin();
                    self.stage = stage;
                    at = end;
                }
                Ok(None) => {
                    if !begun {
                        self.stage = Stage::FramedHead { begun: true };
                        self.deadline.set(Instant::now() + self.settings.header_timeout);
                    }
                    return 0;
                }
                Err(why) => {
                    self.reject(why);
                    return 0;
                }
            }
        }
        let body = self.examine_body(&bytes[at..]);
        if body > 0 {
            self.exchange.note_body();
        }
        at + body
    }

    fn read_head(&mut self, bytes: &mut [u8]) -> Result<Option<(usize, Stage)>, BadHead> {
        let Some(end) = self.scan.find_end(bytes)? else { return Ok(None) };
        let head = head::read(&mut bytes[..end])?;
        // Before the empty line.
        self.lacks_length_at = head.lacks_length.then(|| end - 2);
        self.begins_body = match head.body {
            BodyFraming::None => false,
            BodyFraming::Sized(bytes) => bytes > SLOW_BYTES as u64,
            BodyFraming::Chunked => true,
        };
        let stage = match head.body {
            BodyFraming::None => Stage::Answer,
            BodyFraming::Sized(bytes) => Stage::Sized(bytes),
            BodyFraming::Chunked => Stage::Chunked(Chunks::default()),
        };
        Ok(Some((end, stage)))
    }

    fn examine_body(&mut self, bytes: &[u8]) -> usize {
        match &mut self.stage {
            Stage::Sized(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    self.stage = Stage::Answer;
                }
                count
            }
            Stage::Chunked(chunks) => match chunks.pass(bytes) {
                ChunkScan::All => bytes.len(),
                ChunkScan::End(count) => {
                    self.stage = Stage::Answer;
                    count
                }
                ChunkScan::Broken(count) => {
                    self.settings.refusals.note(Reason::BrokenBody, self.settings.peer, "invalid chunked framing");
                    self.exchange.break_body(chunks.data_bytes());
                    self.stage = Stage::Nothing { ignored: 0 };
                    count
                }
            },
            Stage::FramedHead { .. } | Stage::Answer | Stage::Nothing { .. } => 0,
        }
    }

    fn reject(&mut self, why: BadHead) {
        self.settings.refusals.note(Reason::UnreadableHead, self.settings.peer, why.reason());
        self.deadline.clear();
        self.exchange.begin();
        self.exchange.reject(why.problem());
        self.stage = Stage::Nothing { ignored: 0 };
    }

    /// Handles a peer that was silent or slow for too long. No response is sent, because a tus client
    /// abandons its upload after a 408.
    fn time_out(&mut self) {
        if !self.held.is_empty() {
            self.settings.refusals.note(Reason::SlowHead, self.settings.peer, "limits.header_timeout");
            self.held = BytesMut::new();
        }
        self.stage = Stage::Nothing { ignored: 0 };
    }
}

#[cfg(test)]
mod tests;
