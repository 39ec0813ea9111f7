//! Frames what a peer sends into requests of HTTP/1.1, and hands the HTTP layer one at a time.
//!
//! The HTTP layer gives no deadline to heads but the first, takes the wish for another protocol seriously,
//! answers what it cannot read without a word, and goes on with the next request after an answer that ends
//! the connection. So heads are read here first, whole and strictly, each within its time. Of what follows,
//! only the bytes that belong to the request are handed on; the next request waits until the answer is out. A
//! head that is refused is replaced by a request of ours for which the refusal is the answer, so that it goes
//! out like any other.
//!
//! Bytes are looked at in the buffer they are read into. What cannot be handed on yet is held: part of a
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

/// The most that is held of the requests behind the one under way.
const MAX_HELD_BYTES: usize = 16 * 1024;

/// The most that is read, and thrown away, of a connection on which nothing is understood any more.
const MAX_IGNORED_BYTES: usize = 64 * 1024;

/// How a connection is framed, and who its peer is.
#[derive(Debug, Clone)]
pub(super) struct FramingSettings {
    /// For the head of a request, from its first byte. For the first one, from the beginning of the
    /// connection.
    pub(super) header_timeout: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub(super) keep_alive: Duration,
    pub(super) peer: Option<IpAddr>,
    pub(super) refusals: Refusals,
}

/// The requests of one connection, as they come in.
pub(super) struct Framing {
    settings: FramingSettings,
    exchange: Exchange,
    stage: Stage,
    scan: HeadScanner,
    /// Read and not handed on.
    held: BytesMut,
    /// How much of it, from its beginning, belongs to the request under way.
    cleared: usize,
    /// The head of a large body has just been read.
    begins_body: bool,
    /// Where to insert the length that the head just read lacks.
    lacks_length_at: Option<usize>,
    deadline: Deadline,
}

/// What comes next.
#[derive(Debug)]
enum Stage {
    /// A head, of which there may be a part already.
    FramedHead {
        begun: bool,
    },
    Sized(u64),
    Chunked(Chunks),
    /// Another request, once this one is answered.
    Answer,
    /// Nothing that would be understood. This much was ignored.
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

    /// Reads more of the request under way, or the next one. The end of the stream is also what a peer gets
    /// to see that was silent for too long.
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
                // What wakes the connection is the end of the answer.
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

    /// Whether what comes next is not part of a request that has begun.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(self.stage, Stage::FramedHead { .. } | Stage::Nothing { .. })
    }

    /// Everything was written so far. If that was the end of an answer, the next request may come. Where none
    /// can come, the peer has a moment to read the answer: with what it has sent unread, closing would reset
    /// the connection.
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

    /// What follows is not understood: of what is held, only what belongs to the request stays, or the
    /// request that stands for a refused one.
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
            // With a body that never comes, the HTTP layer lets the peer read the answer before it closes.
            let method = if head::asks_for_head_only(&self.held) { "HEAD" } else { "GET" };
            BytesMut::from(format!("{method} / HTTP/1.1\r\nhost: refused\r\ncontent-length: 1\r\n\r\n").as_bytes())
        })
    }

    /// How much of `bytes`, which come next, belongs to the request under way.
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

    /// The peer has been silent, or slow, for too long. A client of tus gives up at a 408, so it is told
    /// nothing.
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
